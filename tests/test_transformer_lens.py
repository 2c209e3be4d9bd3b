"""Against TransformerLens and transformers, where they are installed.

pip install -e ".[test,bench]" && pytest tests/test_transformer_lens.py
"""

import json
import os
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import absltest, parameterized
from safetensors.numpy import save_file

from induction_jax import circuits, exchange
from induction_jax.config import ModelConfig
from induction_jax.exchange import Architecture, read_model, write_model
from induction_jax.model import Convention, make_model

# Their warnings are theirs to mend, and nothing is to be fetched.
pytestmark = pytest.mark.filterwarnings("ignore")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

V, T = 13, 9


def _params(architecture):
  """Parameters with nothing left at a special value (ones, zeros)."""
  init = make_model(*architecture).init
  rng = np.random.default_rng(0)
  return {
    name: jnp.asarray(
      rng.normal(1.0 if name.endswith("scale") else 0, 0.4, x.shape),
      jnp.float32,
    )
    for name, x in sorted(jax.eval_shape(init, jax.random.key(0)).items())
  }


def _tokens():
  return np.random.default_rng(1).integers(0, V, (3, T))


class TransformerLensTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    self.lens = pytest.importorskip("transformer_lens")
    self.torch = pytest.importorskip("torch")
    self.path = (
      Path(self.enter_context(tempfile.TemporaryDirectory()))
      / "model.safetensors"
    )

  def load(self, architecture, params):
    """Exports, and loads there with nothing but what was written."""
    from safetensors.torch import load_file

    settings = json.loads(
      write_model(self.path, architecture, params).read_text()
    )
    config = self.lens.HookedTransformerConfig(**settings, device="cpu")
    model = self.lens.HookedTransformer(config)
    model.load_state_dict(load_file(self.path))
    return model.requires_grad_(False)

  @parameterized.product(
    position=("rotary", "shortformer", "learned"),
    norm=("layernorm", "rmsnorm", "none"),
    d_mlp=(0, 24),
  )
  def test_logits_and_patterns(self, position, norm, d_mlp):
    config = ModelConfig(
      n_layers=2,
      n_heads=2,
      d_model=16,
      d_mlp=d_mlp,
      position=position,
      norm=norm,
      smeared_keys=False,
    )
    architecture = Architecture(config, V, T)
    params, tokens = _params(architecture), _tokens()
    self.assert_same(architecture, params, tokens)

  def test_conventions_and_biases(self):
    # What no run has, but an imported network: biases, erf, partial rotations.
    config = ModelConfig(
      n_layers=2,
      n_heads=2,
      d_model=16,
      d_mlp=24,
      position="rotary",
      norm="layernorm",
      smeared_keys=False,
    )
    convention = Convention(1e-5, True, True, rotary_width=4, rotary_base=500.0)
    architecture = Architecture(config, V, T, convention)
    params = _params(architecture)
    rng = np.random.default_rng(2)
    shapes = {f"b_{x}": (2, 2, 8) for x in "qkv"}
    shapes |= {"b_o": (2, 16), "b_in": (2, 24), "b_out": (2, 16)}
    shapes |= {"norm_bias": (2, 16), "mlp_norm_bias": (2, 16)}
    shapes |= {"final_norm_bias": (16,)}
    for name, shape in shapes.items():
      params[name] = jnp.asarray(rng.normal(size=shape), jnp.float32)
    self.assert_same(architecture, params, _tokens())

  def assert_same(self, architecture, params, tokens):
    model = self.load(architecture, params)
    with self.torch.no_grad():
      expected, cache = model.run_with_cache(self.torch.from_numpy(tokens))
    apply = jax.jit(make_model(*architecture).apply)
    logits, activations = apply(params, jnp.asarray(tokens))
    np.testing.assert_allclose(logits, expected.numpy(), atol=1e-4, rtol=1e-4)
    for layer in range(architecture.config.n_layers):
      np.testing.assert_allclose(
        activations.pattern[layer], cache["pattern", layer].numpy(), atol=1e-5
      )
      residual = cache["resid_pre", layer].numpy()
      np.testing.assert_allclose(
        activations.residual[layer], residual, atol=1e-4, rtol=1e-4
      )

  def test_circuits(self):
    config = ModelConfig(
      n_layers=3,
      n_heads=2,
      d_model=16,
      d_mlp=0,
      position="rotary",
      norm="none",
      smeared_keys=False,
    )
    architecture = Architecture(config, V, T)
    params = _params(architecture)
    model = self.load(architecture, params)
    weights = circuits.fold_norms(params, "none")
    composed = circuits.composition(weights)
    earlier = np.tri(3, k=-1, dtype=bool)  # [reader, writer]
    for name in ("q", "k", "v"):
      theirs = model.all_composition_scores(name.upper()).numpy()
      theirs = np.moveaxis(theirs, (2, 3), (0, 1))  # to [reader, writer]
      for reader, writer in np.argwhere(earlier):
        np.testing.assert_allclose(
          getattr(composed, name)[reader, :, writer],
          theirs[reader, :, writer],
          atol=1e-4,
        )
    w_e, w_u = model.W_E, model.W_U
    for ours, circuit in (
      (circuits.copying_matrices(weights), w_e @ model.OV @ w_u),
      (circuits.matching_matrices(weights), w_e @ model.QK @ w_e.T),
    ):
      self.assert_same_eigenvalues(
        circuits.eigenvalues(ours), circuit.eigenvalues.numpy()
      )

  def assert_same_eigenvalues(self, ours, theirs):
    """As sets: [L, H, K] complex numbers."""
    scale = np.abs(theirs).max()
    for a, b in zip(ours.reshape(-1, 8), theirs.reshape(-1, 8), strict=True):
      apart = np.abs(a[:, None] - b[None, :])
      self.assertLess(apart.min(axis=0).max(), 1e-4 * scale)
      self.assertLess(apart.min(axis=1).max(), 1e-4 * scale)


class PublishedTest(parameterized.TestCase):
  """Files that transformers itself has written."""

  def setUp(self):
    super().setUp()
    self.transformers = pytest.importorskip("transformers")
    self.torch = pytest.importorskip("torch")
    self.root = Path(self.enter_context(tempfile.TemporaryDirectory()))

  @parameterized.parameters(
    dict(),
    dict(activation_function="gelu"),
    dict(tie_word_embeddings=False, n_inner=20, layer_norm_epsilon=1e-3),
  )
  def test_gpt2(self, **changes):
    config = self.transformers.GPT2Config(
      vocab_size=V,
      n_positions=T,
      n_embd=12,
      n_layer=2,
      n_head=3,
      initializer_range=0.4,
      bos_token_id=0,
      eos_token_id=0,
      **changes,
    )
    self.assert_same(self.transformers.GPT2LMHeadModel(config))

  def test_gpt2_without_a_prefix(self):
    config = self.transformers.GPT2Config(
      vocab_size=V, n_positions=T, n_embd=8, n_layer=1, n_head=2
    )
    model = self.transformers.GPT2LMHeadModel(config)
    body = {k: v.numpy() for k, v in model.transformer.state_dict().items()}
    self.assert_same(model, body)

  @parameterized.parameters(
    dict(),
    dict(use_parallel_residual=False, hidden_act="gelu_new"),
    dict(tie_word_embeddings=True, rotary_pct=1.0, rotary_emb_base=300),
  )
  def test_neox(self, **changes):
    config = self.transformers.GPTNeoXConfig(
      vocab_size=V,
      max_position_embeddings=T,
      hidden_size=16,
      intermediate_size=20,
      num_hidden_layers=2,
      num_attention_heads=2,
      initializer_range=0.4,
      bos_token_id=0,
      eos_token_id=0,
      **changes,
    )
    self.assert_same(self.transformers.GPTNeoXForCausalLM(config))

  def assert_same(self, model, tensors=None):
    """Ours from the files, against theirs; every bias and scale random."""
    torch, generator = self.torch, self.torch.Generator().manual_seed(0)
    with torch.no_grad():
      for name, x in model.named_parameters():
        if name.endswith("bias") or "ln_" in name or "layernorm" in name:
          x += 0.3 * torch.randn(x.shape, generator=generator)
    model.eval().save_pretrained(self.root)
    path = self.root / "model.safetensors"
    if tensors is not None:
      save_file(tensors, path)
    architecture, params = read_model(path, exchange.settings_beside(path))
    tokens = _tokens()
    with torch.no_grad():
      expected = model(torch.from_numpy(tokens)).logits.numpy()
    logits, _ = jax.jit(make_model(*architecture).apply)(
      params, jnp.asarray(tokens)
    )
    np.testing.assert_allclose(logits, expected, atol=1e-4, rtol=1e-4)


if __name__ == "__main__":
  absltest.main()
