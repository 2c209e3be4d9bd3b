"""The config: its settings, their checks, its files and older runs."""

import contextlib
import copy
import importlib
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from unittest import mock

from absl.testing import absltest, parameterized
from ml_collections import ConfigDict

from configs import base
from induction_jax import config as config_lib
from induction_jax.config import (
  Config,
  ConfigError,
  config_names,
  load_config,
  make_config,
  read_config,
  reading,
)
from induction_jax.config.describe import base_text, describe
from induction_jax.config.reading import VERSION, Retired, value_of
from induction_jax.storage.run_directory import load_run, open_run

ROOT = pathlib.Path(__file__).parent.parent
CONFIGS = config_names()


def _values(**leaves: object) -> dict:
  """Base, with leaves set by `section__leaf=value`."""
  values = base.get_config().to_dict()
  for name, value in leaves.items():
    _set(values, name.replace("__", "."), value)
  return values


def _set(values: dict, name: str, value: object) -> None:
  *sections, leaf = name.split(".")
  for section in sections:
    values = values[section]
  values[leaf] = value


class RangesTest(parameterized.TestCase):
  @parameterized.parameters(
    ("seed", -1, "in [0, 2^32)"),
    ("seed", 2**32, "in [0, 2^32)"),
    (
      "task.name",
      "repeat",
      "one of repeats, fixed_offset, markov, bigram_trigger",
    ),
    ("task.vocab_size", 2, "at least 3"),
    ("task.seq_length", 3, "at least 4"),
    ("task.pattern_min", 1, "at least 2"),
    ("task.pattern_max", 1, "at least 2"),
    ("task.gap_min", -1, "at least 0"),
    ("task.gap_max", -1, "at least 0"),
    ("task.dirichlet", 0.0, "a positive finite number"),
    ("task.triggers", 0, "at least 1"),
    ("model.n_layers", 0, "at least 1"),
    ("model.n_heads", 0, "at least 1"),
    ("model.d_model", 0, "at least 1"),
    ("model.d_mlp", -1, "at least 0"),
    ("model.position", "alibi", "one of rotary, shortformer, learned"),
    ("model.norm", "batchnorm", "one of layernorm, rmsnorm, none"),
    ("optim.name", "lion", "one of adamw, adam, sgd"),
    ("optim.learning_rate", 0.0, "a positive finite number"),
    ("optim.learning_rate", -1.0, "a positive finite number"),
    ("optim.learning_rate", float("inf"), "a positive finite number"),
    ("optim.learning_rate", float("nan"), "a positive finite number"),
    ("optim.schedule", "linear", "one of constant, cosine"),
    ("optim.warmup_steps", -1, "at least 0"),
    ("optim.b1", 1.0, "in [0, 1)"),
    ("optim.b1", -0.1, "in [0, 1)"),
    ("optim.b2", 1.0, "in [0, 1)"),
    ("optim.eps", 0.0, "a positive finite number"),
    ("optim.weight_decay", -0.1, "a non-negative finite number"),
    ("optim.weight_decay", float("inf"), "a non-negative finite number"),
    ("optim.momentum", 1.0, "in [0, 1)"),
    ("optim.clip_norm", -1.0, "a non-negative finite number"),
    ("train.num_steps", 0, "at least 1"),
    ("train.batch_size", 0, "at least 1"),
    ("train.micro_batch_size", -1, "at least 0"),
    ("train.loss_tokens", "some", "one of all, predictable"),
    ("intervention.project", "away", "one of none, off, onto"),
    ("intervention.project_top_k", 0, "at least 1"),
    ("intervention.project_interval", 0, "at least 1"),
    ("behaviour.interval", 0, "at least 1"),
    ("behaviour.batch_size", 1, "at least 2"),
    ("circuits.interval", -1, "at least 0"),
    ("ablation.interval", -1, "at least 0"),
    ("ablation.batch_size", 1, "at least 2"),
    ("circuits.top_k", 0, "at least 1"),
    ("circuits.rotary_offset", -1, "at least 0"),
    ("spectra.eigen_interval", -1, "at least 0"),
    ("spectra.adaptive", -1, "at least 0"),
    ("spectra.track_top_k_eigenvalues", 0, "at least 1"),
    ("spectra.preconditioned_top_k", -1, "at least 0"),
    ("spectra.batch_size", 0, "at least 1"),
    ("spectra.micro_batch_size", -1, "at least 0"),
    ("spectra.memory_gib", 0.0, "a positive finite number"),
    ("density.probes", 1, "at least 2"),
    ("blocks.max_order", 1, "at least 2"),
    ("spectra.max_order", 1, "at least 2"),
    ("spectra.tolerance", 0.0, "a positive finite number"),
    ("checkpoint.interval", 0, "at least 1"),
    ("report.format", "gif", "one of png, svg, pdf"),
  )
  def test_refuses_out_of_range(self, name, value, allowed):
    values = _values()
    _set(values, name, value)
    with self.assertRaises(ConfigError) as caught:
      make_config(values)
    self.assertEqual(
      str(caught.exception), f"{name} must be {allowed}, got {value!r}"
    )

  @parameterized.parameters(
    dict(seed=2**32 - 1),
    dict(
      task__vocab_size=3,
      task__seq_length=4,
      task__pattern_min=2,
      task__pattern_max=2,
      task__gap_min=0,
      task__gap_max=0,
    ),
    dict(model__n_layers=1, model__n_heads=1, model__d_model=2, model__d_mlp=0),
    dict(model__n_heads=1, model__d_model=1, model__position="shortformer"),
    dict(
      optim__b1=0.0,
      optim__b2=0.0,
      optim__weight_decay=0.0,
      optim__momentum=0.0,
      optim__clip_norm=0.0,
    ),
    dict(train__num_steps=1, train__batch_size=1),
    dict(circuits__interval=0, ablation__interval=0, spectra__eigen_interval=0),
    dict(ablation__batch_size=2, ablation__pairs=False),
    dict(
      spectra__track_top_k_eigenvalues=1,
      spectra__preconditioned_top_k=0,
      spectra__batch_size=1,
      spectra__micro_batch_size=1,
      spectra__max_order=2,
    ),
  )
  def test_takes_the_edge_of_a_range(self, **leaves):
    config = make_config(_values(**leaves))
    for name, value in leaves.items():
      self.assertEqual(value_of(config, name.replace("__", ".")), value)

  @parameterized.parameters(
    ("task.vocab_size", 50.0, "int"),
    ("task.vocab_size", "50", "int"),
    ("task.vocab_size", None, "int"),
    ("task.vocab_size", True, "int"),
    ("seed", False, "int"),
    ("task.name", 3, "str"),
    ("optim.learning_rate", "1e-3", "float"),
    ("optim.learning_rate", True, "float"),
    ("model.smeared_keys", 1, "bool"),
    ("model.smeared_keys", "no", "bool"),
  )
  def test_refuses_wrong_type(self, name, value, kind):
    values = _values()
    _set(values, name, value)
    with self.assertRaises(ConfigError) as caught:
      make_config(values)
    self.assertEqual(
      str(caught.exception), f"{name} must be {kind}, got {value!r}"
    )

  @parameterized.parameters(
    ("task.seq_length", lambda: 2**31, "below 2^31"),
    ("task.seq_length", lambda: 10**5000, "below 2^31"),
    ("task.seq_length", lambda: -(10**5000), "at least 4"),
    ("task.name", lambda: [10**5000], "str"),
    ("optim.learning_rate", lambda: 10**5000, "a positive finite number"),
  )
  def test_numbers_that_python_does_not_write(self, name, value, allowed):
    values = _values()
    _set(values, name, value())
    with self.assertRaises(ConfigError) as caught:
      make_config(values)
    message = str(caught.exception)
    self.assertStartsWith(message, f"{name} must be {allowed}, got ")
    self.assertLess(len(message), 120)

  def test_whole_number_serves_as_float(self):
    config = make_config(_values(optim__clip_norm=1))
    self.assertIs(type(config.optim.clip_norm), float)
    self.assertEqual(config.optim.clip_norm, 1.0)


class KeysTest(parameterized.TestCase):
  @parameterized.parameters(
    (
      "model.n_layer",
      "unknown config key model.n_layer; did you mean model.n_layers?",
    ),
    (
      "optim.learning_rat",
      "unknown config key optim.learning_rat; "
      "did you mean optim.learning_rate?",
    ),
    ("optimm", "unknown config key optimm; did you mean optim?"),
    ("task.zzz", "unknown config key task.zzz"),
  )
  def test_unknown(self, name, message):
    values = _values()
    _set(values, name, 1)
    with self.assertRaises(ConfigError) as caught:
      make_config(values)
    self.assertEqual(str(caught.exception), message)

  @parameterized.parameters("seed", "model", "model.norm", "report.format")
  def test_missing_takes_its_default(self, name):
    values = _values()
    *sections, leaf = name.split(".")
    del (values[sections[0]] if sections else values)[leaf]
    self.assertEqual(make_config(values), make_config(_values()))

  def test_section_that_is_none(self):
    with self.assertRaises(ConfigError) as caught:
      make_config(_values(model=3))
    self.assertEqual(str(caught.exception), "model must be a section, got 3")

  def test_error_is_a_value_error(self):
    with self.assertRaises(ValueError):
      make_config({"sed": 1})

  def test_leaf_names(self):
    for name in ("seed", "model.n_layers", "report.format"):
      config_lib.check_leaf_name(name)
    for name, hint in (
      ("model.n_layer", "; did you mean model.n_layers?"),
      ("n_layers", "; did you mean model.n_layers?"),
      ("modl.n_layers", "; did you mean model.n_layers?"),
      ("model", None),
    ):
      with self.assertRaises(ConfigError) as caught:
        config_lib.check_leaf_name(name)
      message = str(caught.exception)
      self.assertStartsWith(message, f"unknown config key {name}")
      if hint:
        self.assertEndsWith(message, hint)


class CrossChecksTest(parameterized.TestCase):
  @parameterized.parameters(
    (
      dict(model__n_heads=3, model__d_model=64),
      "model.n_heads must divide model.d_model, got n_heads=3, d_model=64",
    ),
    (
      dict(model__n_heads=2, model__d_model=6),
      "rotary positions need an even head width d_model / n_heads, got "
      "d_head=3",
    ),
    (
      dict(task__pattern_min=9, task__pattern_max=8),
      "task.pattern_min must not exceed task.pattern_max, got pattern_min=9, "
      "pattern_max=8",
    ),
    (
      dict(task__gap_min=5, task__gap_max=4),
      "task.gap_min must not exceed task.gap_max, got gap_min=5, gap_max=4",
    ),
    (
      dict(circuits__top_k=51),
      "circuits.top_k must not exceed task.vocab_size, got top_k=51, "
      "vocab_size=50",
    ),
    (
      dict(task__vocab_size=32, task__pattern_max=32),
      "task.pattern_max must be below task.vocab_size (the tokens of a "
      "pattern are distinct, and filler needs at least one more), got "
      "pattern_max=32, vocab_size=32",
    ),
    (
      dict(task__seq_length=10, task__pattern_min=4, task__gap_min=3),
      "task.seq_length must hold two occurrences of the shortest pattern, "
      "got seq_length=10, pattern_min=4, gap_min=3",
    ),
    (
      dict(task__name="fixed_offset", task__seq_length=255),
      "task.seq_length must be even for fixed_offset, got seq_length=255",
    ),
    (
      dict(task__name="bigram_trigger", task__triggers=50),
      "task.triggers must be below task.vocab_size for bigram_trigger, got "
      "triggers=50, vocab_size=50",
    ),
    (
      dict(spectra__adaptive=101),
      "spectra.adaptive must be at most spectra.eigen_interval (it is the "
      "denser of the two), got adaptive=101, eigen_interval=100",
    ),
    (
      dict(spectra__max_order=19, spectra__track_top_k_eigenvalues=10),
      "spectra.max_order must be at least the number of eigenpairs wanted at "
      "once (both ends come from one basis), got max_order=19, eigenpairs=20",
    ),
    (
      dict(spectra__max_order=21, spectra__preconditioned_top_k=22),
      "spectra.max_order must be at least the number of eigenpairs wanted at "
      "once (both ends come from one basis), got max_order=21, eigenpairs=22",
    ),
    (
      dict(spectra__max_order=21, spectra__gauss_newton_top_k=11),
      "spectra.max_order must be at least the number of eigenpairs wanted at "
      "once (both ends come from one basis), got max_order=21, eigenpairs=22",
    ),
    (
      dict(spectra__max_basis=21, spectra__track_top_k_eigenvalues=10),
      "spectra.max_basis must exceed the number of eigenpairs wanted at once "
      "(both ends come from one basis) by at least 2, got "
      "max_basis=21, eigenpairs=20",
    ),
    (
      dict(spectra__max_basis=20, spectra__track_top_k_eigenvalues=10),
      "spectra.max_basis must exceed the number of eigenpairs wanted at once "
      "(both ends come from one basis) by at least 2, got "
      "max_basis=20, eigenpairs=20",
    ),
    (
      dict(train__micro_batch_size=7),
      "train.micro_batch_size must divide train.batch_size, got "
      "micro_batch_size=7, batch_size=64",
    ),
    (
      dict(spectra__batch_size=64, spectra__micro_batch_size=7),
      "spectra.micro_batch_size must divide spectra.batch_size, got "
      "micro_batch_size=7, batch_size=64",
    ),
    (
      dict(intervention__project="off", intervention__project_top_k=101),
      "intervention.project_top_k must be at most spectra.max_order, and at "
      "most spectra.max_basis - 2 if that is set, got project_top_k=101, "
      "max_order=100, max_basis=0",
    ),
    (
      dict(
        intervention__project="off",
        intervention__project_top_k=23,
        spectra__max_basis=24,
      ),
      "intervention.project_top_k must be at most spectra.max_order, and at "
      "most spectra.max_basis - 2 if that is set, got project_top_k=23, "
      "max_order=100, max_basis=24",
    ),
    (
      dict(optim__warmup_steps=5, train__num_steps=5),
      "optim.warmup_steps must be below train.num_steps, got "
      "warmup_steps=5, num_steps=5",
    ),
  )
  def test_refuses(self, leaves, message):
    with self.assertRaises(ConfigError) as caught:
      make_config(_values(**leaves))
    self.assertEqual(str(caught.exception), message)

  @parameterized.parameters(
    dict(task__vocab_size=33, task__pattern_max=32),
    dict(circuits__top_k=50),
    dict(task__seq_length=11, task__pattern_min=4, task__gap_min=3),
    dict(task__seq_length=255),
    dict(task__triggers=50),
    dict(task__name="bigram_trigger", task__triggers=49),
    dict(model__n_heads=2, model__d_model=6, model__position="learned"),
    dict(spectra__max_order=20, spectra__track_top_k_eigenvalues=10),
    dict(intervention__project_top_k=101),
    dict(intervention__project="onto", intervention__project_top_k=100),
    dict(optim__warmup_steps=4, train__num_steps=5),
  )
  def test_takes_what_just_fits(self, **leaves):
    self.assertIsInstance(make_config(_values(**leaves)), Config)

  def test_d_head(self):
    config = make_config(_values(model__d_model=24, model__n_heads=3))
    self.assertEqual(config.model.d_head, 8)


class ChangeTest(absltest.TestCase):
  def test_sets_settings_and_leaves_the_input(self):
    values = {"model": {"n_layers": 3}}
    config = config_lib.change(
      values, {"seed": 2, "model.n_heads": 4, "optim.eps": 1}
    )
    self.assertEqual(
      config,
      make_config(
        _values(seed=2, model__n_layers=3, model__n_heads=4, optim__eps=1.0)
      ),
    )
    self.assertEqual(values, {"model": {"n_layers": 3}})

  def test_a_section_that_is_none(self):
    with self.assertRaisesRegex(ConfigError, "model must be a section, got 3"):
      config_lib.change({"model": 3}, {"model.n_heads": 4})


class LeavesTest(absltest.TestCase):
  def test_json_round_trip(self):
    config = make_config(_values(seed=3, optim__clip_norm=0.5))
    text = json.dumps(config_lib.to_dict(config))
    again = make_config(json.loads(text))
    self.assertEqual(again, config)
    self.assertEqual((again.seed, again.optim.clip_norm), (3, 0.5))

  def test_differing_leaves(self):
    a = make_config(_values())
    b = make_config(_values(seed=1, model__n_layers=3, optim__b1=0.8))
    self.assertCountEqual(
      config_lib.differing_leaves(a, b),
      ["seed", "model.n_layers", "optim.b1"],
    )
    c = make_config(copy.deepcopy(_values()))
    self.assertEqual(config_lib.differing_leaves(a, c), [])

  def test_heads_as_earlier_versions_wrote_them(self):
    lists = ("qk 0.*, w_e", "qk L0H*, w_e", "qk L1H*, w_e")
    a, b, c = (
      make_config(_values(intervention__freeze=text)) for text in lists
    )
    self.assertEqual(config_lib.differing_leaves(a, b), [])
    self.assertEqual(config_lib.differing_leaves(a, c), ["intervention.freeze"])

  def test_frozen(self):
    config = make_config(_values())
    with self.assertRaises(AttributeError):
      config.model.n_layers = 3


class ReadConfigTest(parameterized.TestCase):
  """Configs that runs of another version have stored."""

  def stored(self, **leaves):
    return json.loads(json.dumps({"version": VERSION, **_values(**leaves)}))

  def test_round_trip(self):
    config = make_config(_values(seed=3))
    stored = config_lib.to_json(config)
    self.assertEqual(stored["version"], 2)
    for strict in (False, True):
      self.assertEqual(read_config(stored, strict=strict), config)

  @parameterized.parameters(False, True)
  def test_what_an_old_run_lacks_takes_its_default(self, strict):
    values = self.stored(seed=3)
    del values["version"], values["density"], values["spectra"]["adaptive"]
    config = read_config(values, strict=strict)
    self.assertEqual(config, make_config(_values(seed=3)))

  @parameterized.parameters("task.colour", "colours", "spectra.colour")
  def test_an_unknown_setting(self, name):
    values = self.stored()
    _set(values, name, 1)
    with self.assertRaisesRegex(ConfigError, f"unknown config key {name}"):
      read_config(values, strict=True)
    with self.assertWarnsRegex(UserWarning, f"which are ignored: {name}"):
      config = read_config(values, strict=False)
    self.assertEqual(config, make_config(_values()))
    self.assertEqual(value_of_path(values, name), 1)  # the input is unchanged

  def test_a_retired_setting(self):
    retired = {"spectra.colour": Retired(False, "spectra have none")}
    values = self.stored()
    with mock.patch.dict(reading.RETIRED, retired):
      values["spectra"]["colour"] = False
      for strict in (False, True):
        config = read_config(values, strict=strict)
        self.assertEqual(config, make_config(_values()))
      values["spectra"]["colour"] = True
      with self.assertRaisesRegex(ConfigError, "spectra.colour was removed: s"):
        read_config(values, strict=True)
      with self.assertWarnsRegex(UserWarning, "ignored: spectra.colour"):
        read_config(values, strict=False)
      for refuse in (
        lambda: config_lib.check_leaf_name("spectra.colour"),
        lambda: make_config({"spectra": {"colour": False}}),
      ):
        with self.assertRaisesRegex(ConfigError, "removed: spectra have none"):
          refuse()

  @parameterized.parameters(3, 0, "2", None)
  def test_a_version_that_is_not_known(self, version):
    values = self.stored() | {"version": version}
    with self.assertRaisesRegex(ConfigError, "version must be"):
      read_config(values, strict=False)

  def test_a_config_as_deep_as_json_allows(self):
    values = json.loads('{"task": ' + "[" * 900 + "]" * 900 + "}")
    with self.assertRaisesRegex(ConfigError, "task must be a section"):
      read_config(values, strict=False)

  @parameterized.parameters(3, ([],), "x")
  def test_what_is_not_a_config(self, values):
    with self.assertRaisesRegex(ConfigError, "must be an object"):
      read_config(values, strict=False)


class StoredRunTest(absltest.TestCase):
  """The directory of a run that another version has written."""

  def setUp(self):
    super().setUp()
    root = self.enter_context(tempfile.TemporaryDirectory())
    self.root = pathlib.Path(root) / "run"
    self.config = make_config(_values())
    path = open_run(self.root, self.config, resume=True).config
    self.values = json.loads(path.read_text())
    self.path = path

  def test_of_the_version_before(self):
    self.assertEqual(self.values.pop("version"), 2)
    del self.values["blocks"]
    self.path.write_text(json.dumps(self.values))
    self.assertEqual(load_run(self.root)[1], self.config)
    open_run(self.root, self.config, resume=True)
    stored = json.loads(self.path.read_text())
    self.assertEqual(stored, config_lib.to_json(self.config))

  def test_with_an_unknown_setting(self):
    self.values["task"]["colour"] = 1
    self.path.write_text(json.dumps(self.values))
    with self.assertWarnsRegex(UserWarning, "task.colour"):
      self.assertEqual(load_run(self.root)[1], self.config)
    with self.assertRaisesRegex(ConfigError, "unknown config key task.colour"):
      open_run(self.root, self.config, resume=True)
    self.assertEqual(json.loads(self.path.read_text()), self.values)


def value_of_path(values, name):
  for key in name.split("."):
    values = values[key]
  return values


class DescribeTest(absltest.TestCase):
  def test_base_is_up_to_date(self):
    path = pathlib.Path(base.__file__)
    self.assertEqual(
      path.read_text(),
      base_text(),
      "run: python -m induction_jax.config.describe > configs/base.py",
    )

  def test_base_sets_the_defaults(self):
    self.assertEqual(make_config(base.get_config().to_dict()), Config())
    flat = base.get_config().to_dict()
    for name, leaf in reading.leaves().items():
      self.assertEqual(value_of_path(flat, name), leaf.field.default, name)

  def test_every_setting_is_described(self):
    lines = describe(make_config(_values(model__n_heads=4))).splitlines()
    self.assertIn("  model.n_heads = 4  (default 8; at least 1)", lines)
    self.assertIn("  model.n_layers = 2  (the default; at least 1)", lines)
    for name, leaf in reading.leaves().items():
      (i,) = [i for i, x in enumerate(lines) if x.startswith(f"  {name} = ")]
      doc = leaf.field.metadata["doc"]
      self.assertEndsWith(doc, ".")
      self.assertStartsWith(doc, lines[i + 1].strip())
    self.assertLessEqual(max(map(len, lines)), 100)


class LoadConfigTest(parameterized.TestCase):
  """Config files, in and outside of the project's folder."""

  def setUp(self):
    super().setUp()
    self.root = pathlib.Path(
      self.enter_context(tempfile.TemporaryDirectory())
    ).resolve()
    self.enter_context(contextlib.chdir(self.root))
    self.quick = importlib.import_module("configs.quick").get_config()

  @parameterized.parameters("quick", "configs/quick.py")
  def test_by_name_from_any_directory(self, source):
    (self.root / "quick").mkdir()
    self.assertEqual(load_config(source), self.quick)

  @parameterized.parameters("mine.py", "quick.py", "a/configs/mine.py")
  def test_a_copy_anywhere(self, name):
    path = self.root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    text = (pathlib.Path(base.__file__).parent / "quick.py").read_text()
    path.write_text(text.replace("n_heads = 4", "n_heads = 2"))
    self.assertEqual(load_config(name).model.n_heads, 2)

  def test_another_module_named_configs(self):
    (self.root / "configs").mkdir()
    (self.root / "configs" / "__init__.py").write_text("1 / 0")
    (self.root / "configs.py").write_text("1 / 0")
    with mock.patch.object(sys, "path", [str(self.root), *sys.path]):
      self.assertEqual(load_config("quick"), self.quick)
    self.assertIs(sys.modules["configs.base"], base)  # as before

  def test_the_folder_of_the_file(self):
    for folder, heads in (("configs", 1), ("other", 8)):
      (self.root / folder).mkdir()
      (self.root / folder / "base.py").write_text(
        "from ml_collections import ConfigDict\n"
        "get_config = lambda: ConfigDict({'model': {'n_heads': 1}})"
      )
      (self.root / folder / "child.py").write_text("from configs.base import *")
      config = load_config(self.root / folder / "child.py")
      self.assertEqual(config.model.n_heads, heads)

  @parameterized.parameters(
    ("quik", "did you mean quick?"),
    ("configs/quik.py", "did you mean quick?"),
    ("no/quick.py", "no such file, and no config of that name"),
    (".", "not a file"),
  )
  def test_not_found(self, source, message):
    with self.assertRaisesRegex(ConfigError, re.escape(message)):
      load_config(source)


class InstalledTest(absltest.TestCase):
  """A copy as an installed one is laid out, used from another directory."""

  def test_configs_are_installed_inside_the_package(self):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wheel = project["tool"]["hatch"]["build"]["targets"]["wheel"]
    self.assertEqual(wheel["packages"], ["induction_jax"])
    self.assertEqual(
      wheel["force-include"], {"configs": "induction_jax/configs"}
    )

  def test_configs_resolve_from_another_directory(self):
    root = pathlib.Path(self.enter_context(tempfile.TemporaryDirectory()))
    package, elsewhere = root / "site" / "induction_jax", root / "elsewhere"
    shutil.copytree(ROOT / "induction_jax" / "config", package / "config")
    (package / "__init__.py").touch()
    shutil.copytree(ROOT / "configs", package / "configs")
    (elsewhere / "configs").mkdir(parents=True)
    (elsewhere / "configs" / "__init__.py").write_text("1 / 0")
    shutil.copy(ROOT / "configs" / "quick.py", elsewhere / "mine.py")
    script = (
      "from induction_jax.config import load_config\n"
      "for source in ('quick', 'configs/quick.py', 'mine.py'):\n"
      "  print(load_config(source).model.n_heads)\n"
    )
    done = subprocess.run(
      [sys.executable, "-c", script],
      cwd=elsewhere,
      env={**os.environ, "PYTHONPATH": str(root / "site")},
      capture_output=True,
      text=True,
      check=False,
    )
    self.assertEqual((done.stdout, done.stderr), ("4\n4\n4\n", ""))


class ConfigFilesTest(parameterized.TestCase):
  def test_there_are_some(self):
    self.assertIn("base", CONFIGS)
    self.assertIn("quick", CONFIGS)

  @parameterized.parameters(*((c,) for c in CONFIGS))
  def test_valid(self, name):
    module = importlib.import_module(f"configs.{name}")
    config = module.get_config()
    self.assertIsInstance(config, ConfigDict)
    # A mistyped override on the command line must not add a key.
    self.assertTrue(config.is_locked)
    self.assertTrue(config.task.is_locked)
    make_config(config.to_dict())
    self.assertRegex(module.__doc__, r"\A[A-Z].+\.")

  @parameterized.parameters(*((c,) for c in CONFIGS if c != "base"))
  def test_changes_base(self, name):
    module = importlib.import_module(f"configs.{name}")
    config = make_config(module.get_config().to_dict())
    reference = make_config(_values())
    self.assertNotEqual(config_lib.differing_leaves(config, reference), [])

  def test_base_is_the_reference_size(self):
    c = make_config(_values())
    self.assertEqual(
      (
        c.task.vocab_size,
        c.task.seq_length,
        c.model.n_layers,
        c.model.n_heads,
        c.train.num_steps,
        c.train.batch_size,
        c.spectra.eigen_interval,
        c.spectra.track_top_k_eigenvalues,
      ),
      (50, 256, 2, 8, 20_000, 64, 100, 10),
    )


if __name__ == "__main__":
  absltest.main()
