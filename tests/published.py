"""Small GPT-2 and GPT-NeoX networks: their files, and logits by numpy loops.

The loops read only the tensors of the file, in float64, one head and one
position at a time.
"""

import json
import math

import numpy as np
from safetensors.numpy import save_file

L, H, D, F, V, T = 2, 2, 16, 12, 19, 16
K = D // H
GPT2_SETTINGS = {
  "model_type": "gpt2",
  "n_layer": L,
  "n_head": H,
  "n_embd": D,
  "n_inner": F,
  "n_positions": T,
  "vocab_size": V,
  "activation_function": "gelu_new",
  "layer_norm_epsilon": 1e-2,
}
NEOX_SETTINGS = {
  "model_type": "gpt_neox",
  "num_hidden_layers": L,
  "num_attention_heads": H,
  "hidden_size": D,
  "intermediate_size": F,
  "max_position_embeddings": T,
  "vocab_size": V,
  "hidden_act": "gelu",
  "layer_norm_eps": 1e-2,
  "rotary_pct": 0.5,
  "rotary_emb_base": 100,
  "use_parallel_residual": True,
}


def gpt2_tensors():
  shapes = {"wte.weight": (V, D), "wpe.weight": (T, D)}
  for i in range(L):
    for name, shape in {
      "ln_1": (D,),
      "attn.c_attn": (D, 3 * D),
      "attn.c_proj": (D, D),
      "ln_2": (D,),
      "mlp.c_fc": (D, F),
      "mlp.c_proj": (F, D),
    }.items():
      shapes[f"h.{i}.{name}.weight"] = shape
      shapes[f"h.{i}.{name}.bias"] = shape[-1:]
    shapes[f"h.{i}.attn.bias"] = (1, 1, T, T)  # a causal mask, not a bias
  return _draw(shapes | {"ln_f.weight": (D,), "ln_f.bias": (D,)})


def neox_tensors():
  shapes = {"gpt_neox.embed_in.weight": (V, D), "embed_out.weight": (V, D)}
  for i in range(L):
    for name, shape in {
      "input_layernorm": (D,),
      "post_attention_layernorm": (D,),
      "attention.query_key_value": (3 * D, D),
      "attention.dense": (D, D),
      "mlp.dense_h_to_4h": (F, D),
      "mlp.dense_4h_to_h": (D, F),
    }.items():
      shapes[f"gpt_neox.layers.{i}.{name}.weight"] = shape
      shapes[f"gpt_neox.layers.{i}.{name}.bias"] = shape[:1]
    shapes[f"gpt_neox.layers.{i}.attention.rotary_emb.inv_freq"] = (1,)
  for part in ("weight", "bias"):
    shapes[f"gpt_neox.final_layer_norm.{part}"] = (D,)
  return _draw(shapes)


def _draw(shapes):
  rng = np.random.default_rng(0)
  return {
    name: rng.normal(0.2, 0.6, shape).astype(np.float32)
    for name, shape in shapes.items()
  }


def write(folder, tensors, settings):
  """Writes weights and config as a model hub does; returns the path."""
  path = folder / "model.safetensors"
  save_file(tensors, path)
  (folder / "config.json").write_text(json.dumps(settings))
  return path


def gpt2_logits(tensors, tokens):  # [T] -> [T, V]
  w = {name: x.astype(np.float64) for name, x in tensors.items()}
  x = [w["wte.weight"][t] + w["wpe.weight"][i] for i, t in enumerate(tokens)]
  for i in range(L):
    part = {
      name.removeprefix(f"h.{i}."): y
      for name, y in w.items()
      if name.startswith(f"h.{i}.")
    }

    def affine(name, y, part=part):
      return y @ part[f"{name}.weight"] + part[f"{name}.bias"]

    joined = [affine("attn.c_attn", _norm(part, "ln_1", y)) for y in x]
    heads = np.array(joined).reshape(-1, 3, H, K)
    mixed = _attend(*heads.transpose(1, 2, 0, 3))
    x = [y + affine("attn.c_proj", z) for y, z in zip(x, mixed)]
    hidden = [affine("mlp.c_fc", _norm(part, "ln_2", y)) for y in x]
    cube = math.sqrt(2 / math.pi)
    hidden = [
      y * 0.5 * (1 + np.tanh(cube * (y + 0.044715 * y**3))) for y in hidden
    ]
    x = [y + affine("mlp.c_proj", z) for y, z in zip(x, hidden)]
  return np.array([_norm(w, "ln_f", y) @ w["wte.weight"].T for y in x])


def neox_logits(tensors, tokens):  # [T] -> [T, V]
  w = {
    name.removeprefix("gpt_neox."): x.astype(np.float64)
    for name, x in tensors.items()
  }
  x = [w["embed_in.weight"][t] for t in tokens]
  for i in range(L):
    part = {
      name.removeprefix(f"layers.{i}."): y
      for name, y in w.items()
      if name.startswith(f"layers.{i}.")
    }

    def affine(name, y, part=part):
      return part[f"{name}.weight"] @ y + part[f"{name}.bias"]

    read = [_norm(part, "input_layernorm", y) for y in x]
    joined = [affine("attention.query_key_value", y) for y in read]
    query, key, value = (
      np.array(joined).reshape(-1, H, 3, K).transpose(2, 1, 0, 3)
    )
    mixed = _attend(_rotate(query), _rotate(key), value)
    read = [_norm(part, "post_attention_layernorm", y) for y in x]
    hidden = [affine("mlp.dense_h_to_4h", y) for y in read]
    erf = np.vectorize(math.erf)
    hidden = [y * 0.5 * (1 + erf(y / math.sqrt(2))) for y in hidden]
    x = [
      x[t]
      + affine("attention.dense", mixed[t])
      + affine("mlp.dense_4h_to_h", hidden[t])
      for t in range(len(x))
    ]
  final = [_norm(w, "final_layer_norm", y) for y in x]
  return np.array([w["embed_out.weight"] @ y for y in final])


def _norm(w, name, x):
  x = x - x.mean()
  x = x / math.sqrt((x**2).mean() + 1e-2)
  return x * w[f"{name}.weight"] + w[f"{name}.bias"]


def _attend(query, key, value):  # [H, T, K] each -> [T, H K]
  heads, length, _ = query.shape
  mixed = np.zeros((length, heads, K))
  for h in range(heads):
    for t in range(length):
      score = [query[h, t] @ key[h, s] / math.sqrt(K) for s in range(t + 1)]
      weight = np.exp(score - np.max(score))
      weight = weight / weight.sum()
      mixed[t, h] = sum(weight[s] * value[h, s] for s in range(t + 1))
  return mixed.reshape(length, heads * K)


def _rotate(x):  # [H, T, K = 8]; rotates two pairs in the first half
  rotated = x.copy()
  for t in range(x.shape[1]):
    for i, frequency in enumerate((1, 100**-0.5)):
      a, b = x[:, t, i], x[:, t, i + 2]
      cos, sin = math.cos(t * frequency), math.sin(t * frequency)
      rotated[:, t, i] = a * cos - b * sin
      rotated[:, t, i + 2] = a * sin + b * cos
  return rotated
