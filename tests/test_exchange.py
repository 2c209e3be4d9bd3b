"""Weights in and out: published layouts, ours written and read again."""

import json
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from absl.testing import absltest, parameterized
from safetensors.numpy import load_file, save_file

from induction_jax import circuits, export, measure
from induction_jax.commands import measure_weights, pretrained
from induction_jax.config import ConfigError, ModelConfig, make_config
from induction_jax.exchange import (
  Architecture,
  read_model,
  settings_beside,
  write_model,
)
from induction_jax.measurements.partition import partition_by_circuit
from induction_jax.model import BIASES, Convention, make_model
from induction_jax.run import snapshots
from induction_jax.run.experiment import make_experiment
from induction_jax.storage import checkpoints
from induction_jax.storage.run_directory import open_run
from tests import published
from tests.entry_point import call
from tests.published import GPT2_SETTINGS, NEOX_SETTINGS, D, H, K, L, T, V
from tests.tiny import tiny_config


def read(path):
  return read_model(path, settings_beside(path))


class ExchangeTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    self.root = Path(self.enter_context(tempfile.TemporaryDirectory()))


class ImportTest(ExchangeTest):
  @parameterized.named_parameters(
    ("gpt2", GPT2_SETTINGS, published.gpt2_tensors, published.gpt2_logits),
    ("neox", NEOX_SETTINGS, published.neox_tensors, published.neox_logits),
  )
  def test_logits_equal_loops_and_survive_export(self, settings, draw, loops):
    tensors = draw()
    path = published.write(self.root, tensors, settings)
    architecture, params = read(path)
    tokens = np.random.default_rng(1).integers(0, V, (2, 9))
    apply = jax.jit(make_model(*architecture).apply)
    logits, _ = apply(params, tokens)
    for b in range(2):
      expected = loops(tensors, tokens[b])
      np.testing.assert_allclose(logits[b], expected, atol=2e-4, rtol=2e-4)
    # Written in the other layout and read again: the same network.
    again = self.root / "again.safetensors"
    write_model(again, architecture, params)
    same, restored = read(again)
    self.assertEqual(same, architecture)
    self.assertLessEqual(set(BIASES), params.keys())
    self.assertEqual(restored.keys(), params.keys())
    for name, x in params.items():
      np.testing.assert_array_equal(restored[name], x, err_msg=name)
    again, _ = jax.jit(make_model(*same).apply)(restored, tokens)
    np.testing.assert_array_equal(again, logits)
    # Every parameter, biases too, is in a block; those of heads in theirs.
    partition = partition_by_circuit(params)
    self.assertLen(partition.ids, sum(x.size for x in params.values()))
    sizes = dict(zip(partition.names, partition.sizes))
    self.assertEqual(sizes["qk L1H0"], 2 * (D + 1) * K)
    self.assertEqual(sizes["ov L1H0"], (2 * D + 1) * K)

  def test_prefixes_ties_and_other_dtypes(self):
    tensors = published.gpt2_tensors()
    path = published.write(self.root, tensors, GPT2_SETTINGS)
    _, params = read(path)
    head = {"lm_head.weight": 2 * tensors["wte.weight"]}
    prefixed = {f"transformer.{name}": x for name, x in tensors.items()}
    for untied in (False, True):
      settings = GPT2_SETTINGS | {"tie_word_embeddings": not untied}
      path = published.write(self.root, prefixed | head, settings)
      _, other = read(path)
      np.testing.assert_array_equal(other["w_q"], params["w_q"])
      np.testing.assert_array_equal(other["w_u"], params["w_u"] * (1 + untied))
    for dtype in (np.float16, jnp.bfloat16):
      half = {name: x.astype(dtype) for name, x in tensors.items()}
      _, other = read(published.write(self.root, half, GPT2_SETTINGS))
      self.assertEqual({x.dtype for x in other.values()}, {np.dtype("float32")})
      np.testing.assert_allclose(other["w_k"], params["w_k"], rtol=1e-2)

  def test_newer_names_of_rotations(self):
    section = {"partial_rotary_factor": 0.5, "rope_theta": 100}
    section["rope_type"] = "default"
    settings = {
      k: v for k, v in NEOX_SETTINGS.items() if not k.startswith("rotary")
    } | {"rope_parameters": section}
    path = published.write(self.root, published.neox_tensors(), settings)
    convention = read(path)[0].convention
    self.assertEqual(convention, Convention(1e-2, True, True, 4, 100.0))

  def test_files_that_do_not_fit(self):
    tensors = published.gpt2_tensors()
    name = "h.1.attn.c_attn.weight"
    for changed, message in (
      (tensors | {name: np.zeros((D, D))}, rf"{name} must be \[16, 48\], got "),
      ({k: v for k, v in tensors.items() if k != name}, f"missing.*: {name}"),
      (tensors | {"h.2.x": np.zeros(1)}, r"unexpected tensors: h\.2\.x"),
      (tensors | {"h.2.attn.bias": np.zeros(1)}, r"unexpected.*: h\.2\.attn"),
      (tensors | {name: np.full((D, 3 * D), np.nan)}, f"not finite: {name}"),
      (tensors | {name: np.ones((D, 3 * D), int)}, f"numbers: {name} of int64"),
      (
        tensors | {f"transformer.{name}": tensors[name]},
        "exist with and without",
      ),
    ):
      path = published.write(self.root, changed, GPT2_SETTINGS)
      with self.assertRaisesRegex(
        ConfigError, f"model.safetensors: .*{message}"
      ):
        read(path)
    for settings in ([], None, "gpt2"):
      published.write(self.root, tensors, settings)
      with self.assertRaisesRegex(ConfigError, "must hold an object of sett"):
        read(path)
    published.write(self.root, tensors, GPT2_SETTINGS)
    with self.assertRaisesRegex(FileNotFoundError, "no such file"):
      settings_beside(path.with_name("absent.safetensors"))
    path.write_bytes(b"not safetensors")
    with self.assertRaisesRegex(ConfigError, "is not a safetensors file"):
      read(path)

  @parameterized.parameters(
    (
      GPT2_SETTINGS,
      {"model_type": "opt"},
      "must be one of gpt2, gpt_neox, got",
    ),
    (GPT2_SETTINGS, {"n_head": 3}, "n_heads must divide"),
    (GPT2_SETTINGS, {"n_layer": "2"}, "n_layer must be a positive integer"),
    (
      GPT2_SETTINGS,
      {"vocab_size": True},
      "vocab_size must be a positive integer",
    ),
    (GPT2_SETTINGS, {"n_inner": 0}, "n_inner must be a positive integer"),
    (GPT2_SETTINGS, {"layer_norm_epsilon": "1"}, "must be a number above 0"),
    (GPT2_SETTINGS, {"layer_norm_epsilon": np.nan}, "is not JSON: NaN"),
    (GPT2_SETTINGS, {"tie_word_embeddings": "no"}, "must be true or false"),
    (GPT2_SETTINGS, {"activation_function": ["gelu"]}, "activation must be"),
    (GPT2_SETTINGS, {"model_type": ["gpt2"]}, "must be one of gpt2, gpt_neox"),
    (GPT2_SETTINGS, {"n_embd": None}, "config.json must have n_embd"),
    (GPT2_SETTINGS, {"activation_function": "relu"}, "activation must be one"),
    (
      GPT2_SETTINGS,
      {"scale_attn_by_inverse_layer_idx": True},
      "scale_attn_by_inverse_layer_idx must be False",
    ),
    (NEOX_SETTINGS, {"rotary_pct": 0.4}, "rotary_pct must rotate an even"),
    (NEOX_SETTINGS, {"rotary_pct": 2}, "rotary_pct must rotate an even"),
    (NEOX_SETTINGS, {"rotary_emb_base": 0}, "must be a number above 0, got 0"),
    (
      NEOX_SETTINGS,
      {"rope_parameters": {"factor": 2}},
      "unknown settings: .'fa",
    ),
    (NEOX_SETTINGS, {"rotary_emb_base": 10**400}, "must be a number above 0"),
    (NEOX_SETTINGS, {"rope_parameters": [1]}, "rope_parameters must be an obj"),
    (NEOX_SETTINGS, {"rope_scaling": {"factor": 2}}, "rope_scaling must be"),
    (
      {"model_type": "llama", "num_attention_heads": 8},
      {"num_key_value_heads": 2},
      "grouped-query attention is not implemented.*8 query heads and 2",
    ),
  )
  def test_settings_that_are_refused(self, settings, changes, message):
    settings = settings | changes
    settings = {k: v for k, v in settings.items() if v is not None}
    path = published.write(self.root, {}, settings)
    with self.assertRaisesRegex(ConfigError, message):
      read(path)


class ExportTest(ExchangeTest):
  def test_command_writes_a_checkpoint(self):
    config = make_config(tiny_config(model__d_mlp=5).to_dict())
    directory = open_run(self.root / "run", config, resume=False)
    experiment = make_experiment(config)
    snapshot = snapshots.init_snapshot(experiment)
    checkpoints.save(directory.checkpoints, 3, snapshot)
    status, out, err = call(export.main, directory.root, "--step=3")
    self.assertEqual(status, 0, err)
    path = directory.root / "weights" / "3.safetensors"
    self.assertIn(f"written: {path}", out)
    architecture, params = read(path)
    self.assertEqual(architecture.config, config.model)
    own = snapshot.state.params
    self.assertEqual(params.keys(), own.keys())
    for name, x in own.items():
      np.testing.assert_array_equal(params[name], x, err_msg=name)
    status, _, err = call(export.main, directory.root, "--step=4")
    self.assertEqual((status, err.count("\n")), (2, 1))
    self.assertIn("must be the step of a checkpoint, got 4; there are 3", err)
    # Its settings would be the run's config.json.
    out = directory.root / "config.safetensors"
    status, _, err = call(export.main, directory.root, f"--out={out}")
    self.assertEqual(status, 2)
    self.assertIn("would overwrite", err)

  @parameterized.product(
    position=("rotary", "shortformer", "learned"),
    norm=("layernorm", "rmsnorm", "none"),
  )
  def test_round_trip(self, position, norm):
    config = ModelConfig(
      n_layers=2,
      n_heads=2,
      d_model=8,
      d_mlp=0 if norm == "rmsnorm" else 3,
      position=position,
      norm=norm,
      smeared_keys=False,
    )
    architecture = Architecture(config, V, T)
    init = make_model(*architecture).init
    shapes = jax.eval_shape(init, jax.random.key(0))
    rng = np.random.default_rng(0)
    params = {
      name: rng.normal(size=x.shape).astype(np.float32)
      for name, x in sorted(shapes.items())
    }
    path = self.root / "model.safetensors"
    write_model(path, architecture, params)
    again, restored = read(path)
    self.assertEqual(again.config, config)
    self.assertEqual(restored.keys(), params.keys())
    for name, x in params.items():
      np.testing.assert_array_equal(restored[name], x, err_msg=name)
    stored = load_file(path)
    self.assertEqual(stored["blocks.1.attn.W_Q"].shape, (2, 8, 4))
    self.assertEqual(stored["blocks.1.attn.b_O"].tolist(), [0] * 8)
    self.assertEqual(stored["blocks.0.attn.IGNORE"], -np.inf)
    self.assertEqual(
      stored["blocks.0.attn.mask"].tolist(), np.tri(T, dtype=bool).tolist()
    )

  def test_a_clamped_run_is_refused(self):
    config = tiny_config(intervention__clamp="previous_token 0.0")
    open_run(self.root, make_config(config.to_dict()), resume=False)
    status, _, err = call(export.main, self.root)
    self.assertEqual((status, err.count("\n")), (2, 1))
    self.assertIn("intervention.clamp cannot be exported", err)

  def test_what_cannot_be_expressed(self):
    config = ModelConfig(
      n_layers=1,
      n_heads=1,
      d_model=2,
      d_mlp=0,
      position="rotary",
      norm="none",
      smeared_keys=True,
    )
    path = self.root / "model.safetensors"
    with self.assertRaisesRegex(ConfigError, "smeared_keys must be false"):
      write_model(path, Architecture(config, V, T), {})
    self.assertFalse(path.exists())

  def test_a_foreign_setting_or_bias_is_refused(self):
    path = published.write(self.root, published.gpt2_tensors(), GPT2_SETTINGS)
    architecture, params = read(path)
    settings_path = write_model(path, architecture, params)
    settings = json.loads(settings_path.read_text())
    for changes, message in (
      ({"use_local_attn": True}, "unknown settings: .*use_local_attn"),
      ({"n_key_value_heads": 1}, "grouped-query attention is not implement"),
      ({"eps": "1e-5"}, "eps must be a number above 0, got '1e-5'"),
      ({"attn_only": 0}, "attn_only must be true or false, got 0"),
      ({"d_head": 3}, "d_head must be 8"),
      ({"act_fn": "relu"}, "activation must be one of"),
      (
        {"positional_embedding_type": "alibi"},
        "positional_embedding_type must",
      ),
    ):
      settings_path.write_text(json.dumps(settings | changes))
      with self.assertRaisesRegex(ConfigError, message):
        read(path)
    settings_path.write_text(json.dumps(settings))
    bias = {"unembed.b_U": np.ones(V, np.float32)}
    save_file(load_file(path) | bias, path)
    with self.assertRaisesRegex(ConfigError, "b_U must be zero"):
      read(path)


class MeasureTest(ExchangeTest):
  def test_command(self):
    tensors = published.gpt2_tensors()
    path = published.write(self.root, tensors, GPT2_SETTINGS)
    sizes = ("--batch_size=3", "--pattern=2,4", "--gap=0,2")
    status, out, err = call(
      measure.main, f"--weights={path}", "--ablate", *sizes
    )
    self.assertEqual(status, 0, err)
    for name in ("2 layers of 2 heads", "prefix_matching ", "L1H1 < L0H"):
      self.assertIn(name, out)
    with xr.open_dataset(self.root / "model.results.nc") as results:
      results = results.load()
    for name in ("prefix_matching", "ov_copying", "ablation_cost"):
      self.assertEqual(results[name].dims, ("layer", "head"))
      self.assertIn(f"{name}_null", results)
    self.check_circuits(results, tensors)
    self.check_ablation(results, tensors, path)

  def check_circuits(self, results, tensors):
    """By matrices [V, V], norms folded by hand."""
    wte = tensors["wte.weight"].astype(np.float64)

    def centred(scale, w):
      w = scale[:, None] * w
      return w - w.mean(axis=0)

    def circuit(layer, head):
      joined = tensors[f"h.{layer}.attn.c_attn.weight"].reshape(D, 3, H, K)
      scale = tensors[f"h.{layer}.ln_1.weight"]
      q, k, v = (centred(scale, joined[:, i, head]) for i in range(3))
      o = tensors[f"h.{layer}.attn.c_proj.weight"].reshape(H, K, D)[head]
      return q @ k.T, v @ o

    def score(matrix):
      values = np.linalg.eigvals(matrix)
      return values.real.sum() / np.abs(values).sum()

    unembed = centred(tensors["ln_f.weight"], wte.T)
    for layer, head in np.ndindex(L, H):
      qk, ov = circuit(layer, head)
      at = dict(layer=layer, head=head)
      for name, matrix in (
        ("ov_copying", wte @ ov @ unembed),
        ("qk_matching", wte @ qk @ wte.T),
      ):
        self.assertAlmostEqual(
          results[name].isel(at).item(), score(matrix), places=3, msg=name
        )
    norm = np.linalg.norm
    for reader, writer in np.ndindex(H, H):
      (qk, _), (_, ov) = circuit(1, reader), circuit(0, writer)
      at = dict(layer=1, head=reader, writer_layer=0, writer_head=writer)
      self.assertAlmostEqual(
        results.k_composition.isel(at).item(),
        norm(qk @ ov.T) / norm(qk) / norm(ov),
        places=4,
      )
      self.assertAlmostEqual(
        results.k_composed_matching.isel(at).item(),
        score(wte @ qk @ ov.T @ wte.T),
        places=3,
      )
    self.assertTrue(np.isnan(results.k_composition.isel(layer=0)).all())

  def check_ablation(self, results, tensors, path):
    """Head 1 of layer 1 silenced in the file itself."""
    sizes = pretrained.Sequences(3, T, pattern=(2, 4), gap=(0, 2))
    key, _ = jax.random.split(jax.random.key(0))
    batch = pretrained.sample_batch(read(path)[0], sizes, key)

    def losses(tensors):
      found = []
      for tokens, targets in zip(*map(np.asarray, batch[:2])):
        logits = published.gpt2_logits(tensors, tokens)
        chosen = np.take_along_axis(logits, targets[:, None], axis=1)[:, 0]
        found.append(np.log(np.exp(logits).sum(axis=1)) - chosen)
      return np.array(found)

    name = "h.1.attn.c_proj.weight"
    silent = tensors[name].copy()
    silent[K:] = 0
    counts = np.asarray(batch.predictable)
    intact = losses(tensors)
    rise = losses(tensors | {name: silent}) - intact
    self.assertAlmostEqual(
      results.pattern_loss.item(), intact[counts].mean(), places=3
    )
    self.assertAlmostEqual(
      results.ablation_cost.isel(layer=1, head=1).item(),
      rise[counts].mean(),
      places=3,
    )
    error = results.ablation_cost_se.isel(layer=1, head=1).item()
    left_out = [
      np.delete(rise, b, 0)[np.delete(counts, b, 0)].mean() for b in range(3)
    ]
    jackknife = np.sqrt(2 / 3 * np.var(left_out) * 3)
    self.assertBetween(error / jackknife, 0.6, 1.6)

  @parameterized.parameters(
    (("--pattern=5",), "--pattern must be two numbers"),
    (("--pattern=4,19",), "less than the vocabulary of 19, got 4 to 19"),
    (("--seq_length=17",), "from 2 to the network's own 16, got 17"),
    (("--pattern=8,9", "--gap=3,4"), "seq_length hold two patterns and a gap"),
    (("--out=config.json",), "--out must end in .nc, got config.json"),
    (("--out=absent/x.nc",), "--out: there is no directory absent"),
    (("--pattern=8,8", "--gap=0,9999", "--batch_size=2"), "nothing can be"),
    (("more",), "unexpected argument 'more'"),
  )
  def test_mistakes(self, arguments, message):
    tensors = published.gpt2_tensors()
    path = published.write(self.root, tensors, GPT2_SETTINGS)
    status, _, err = call(measure.main, f"--weights={path}", *arguments)
    self.assertEqual((status, err.count("\n")), (2, 1), err)
    self.assertIn(message, err)

  @parameterized.parameters(
    ((128, 50_000), (8, 32)), ((64, 50), (8, 16)), ((32, 5), (4, 4))
  )
  def test_default_patterns_fit(self, network, expected):
    self.assertEqual(measure_weights.fitting_pattern(*network), expected)

  def test_compression_keeps_eigenvalues(self):
    rng = np.random.default_rng(0)
    shapes = ((V, D), *3 * [(L, H, D, K)], (L, H, K, D), (D, V))
    weights = circuits.CircuitWeights(
      *(jnp.asarray(rng.normal(size=x), jnp.float32) for x in shapes)
    )
    small = pretrained.compress(weights)
    self.assertEqual(small.w_e.shape, (D, D))
    for matrices in (circuits.copying_matrices, circuits.matching_matrices):
      np.testing.assert_allclose(
        circuits.eigenvalue_score(circuits.eigenvalues(matrices(small))),
        circuits.eigenvalue_score(circuits.eigenvalues(matrices(weights))),
        atol=1e-4,
      )


if __name__ == "__main__":
  absltest.main()
