"""What test_mesh runs on 8 devices, in a process of its own.

Prints one JSON object: the largest difference from one device by name, each
over the largest magnitude.
"""

import functools
import json
import re
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from induction_jax import spectra
from induction_jax.config import make_config
from induction_jax.devices.mesh import make_seeds_mesh
from induction_jax.devices.processes import key_data
from induction_jax.measurements import make_curvature
from induction_jax.run.experiment import (
  Experiment,
  make_experiment,
  make_pure_experiment,
)
from induction_jax.run.seeds import make_group
from induction_jax.run.snapshots import load_newest
from induction_jax.spectra.krylov import extend, init_krylov
from induction_jax.storage.run_directory import open_run
from tests.tiny import run_in, tiny_config

CHANGES = {
  "train__batch_size": 8,
  "behaviour__batch_size": 8,
  "behaviour__interval": 4,
  "circuits__interval": 0,
  "ablation__interval": 0,
  "spectra__eigen_interval": 0,
  "spectra__batch_size": 16,
  "spectra__micro_batch_size": 8,
  "spectra__max_order": 30,
  "spectra__max_basis": 12,
  "checkpoint__interval": 12,
}


def config_of(data: int = 1, params: int = 1, **changes: object):
  mesh = {"mesh__data": data, "mesh__params": params}
  return make_config(tiny_config(**(CHANGES | mesh | changes)).to_dict())


def on_host(tree):
  """Leaves as arrays of numpy, keys as what they are made of."""
  return jax.tree.map(np.asarray, key_data(tree))


def difference(tree, other) -> float:
  """The largest over leaves of |a - b| over the largest |b|."""
  worst = 0.0
  for a, b in zip(
    jax.tree.leaves(on_host(tree)), jax.tree.leaves(on_host(other)), strict=True
  ):
    a, b = np.float64(a), np.float64(b)
    np.testing.assert_array_equal(np.isnan(a), np.isnan(b))
    if np.isfinite(b).any():
      largest = np.nanmax(np.abs(b))
      gap = np.nanmax(np.abs(a - b))
      worst = max(worst, gap / largest if largest else gap)
  return float(worst)


@functools.cache
def experiment_of(data: int) -> Experiment:
  return make_experiment(config_of(data))


def products(data: int):
  """P^-1/2 H P^-1/2 v of the tiny network, and G v."""
  config = config_of(data)
  pure = make_pure_experiment(config)
  curvature = make_curvature(config, pure.model)

  def measure(key):
    state, batches = pure.init(), pure.draw(key)
    v = jax.tree.map(jnp.cos, state.params)
    hessian = curvature.hessian_at(state.params, batches)
    scaled = spectra.rescale(hessian, jax.tree.map(jnp.exp, state.params))
    return scaled(v), curvature.gauss_newton_at(state.params, batches)(v)

  return jax.jit(measure)(jax.random.key(3))


def lanczos(params: int):
  """Eigenvalues beside the exact ones; whether the basis is in parts only."""
  sharding = sharding_of(params)
  a = jax.random.normal(jax.random.key(0), (241, 241)) / 16
  matrix = a + a.T

  @jax.jit
  def measure(key):
    return spectra.lanczos(
      lambda v: jnp.dot(matrix, v, precision="highest"),
      jnp.zeros(241),
      key,
      k_top=2,
      k_bottom=2,
      max_order=200,
      max_basis=24,
      tolerance=1e-4,
      sharding=sharding,
    )

  found = measure(jax.random.key(5))
  exact = np.linalg.eigvalsh(np.float64(matrix))
  program = measure.lower(jax.random.key(5)).compile().as_text()
  whole = (
    f"f32[24,{sharding.n_shards * -(-241 // sharding.n_shards)}]" in program
  )
  part = f"f32[24,{-(-241 // sharding.n_shards)}]" in program
  pairs = found.top.values, found.bottom.values
  return difference(pairs, (exact[:-3:-1], exact[:2])), part and not whole


def sharding_of(params: int) -> spectra.VectorSharding:
  config = config_of(2, params)
  model = make_pure_experiment(config).model
  return make_curvature(config, model).sharding


def planned_rows(params: int) -> int:
  """Rows of a basis that is planned to fit 25 of them on one device."""
  config = config_of(
    1,
    params,
    spectra__max_basis=0,
    spectra__max_order=100,
    spectra__memory_gib=25.5 * 4 * 712 / 2**30,
  )
  description = make_curvature(
    config, make_pure_experiment(config).model
  ).description
  assert (f"each of {params} devices" in description) == (params > 1), (
    description
  )
  return int(re.search(r"basis of (\d+) vectors", description)[1])


def basis_on_a_device(params: int) -> tuple[int, ...]:
  """Shape of a device's part of a Krylov basis [12, 1001] after a step."""
  sharding = sharding_of(params)

  @jax.jit
  def step(start):
    krylov = init_krylov(start, 12, sharding)
    return extend(lambda v: 2 * v, krylov, start, sharding)

  basis = step(jnp.ones(1001)).basis
  assert len(basis.sharding.device_set) == 8
  return basis.addressable_shards[0].data.shape


def trained(data: int, steps: int):
  experiment = experiment_of(data)
  state, metrics = experiment.train_chunk(experiment.init(), jnp.int32(steps))
  # The batch is shared, and the state on every device.
  tokens = experiment.draw(state.key).task.tokens
  assert tokens.addressable_shards[0].data.shape[0] == len(tokens) // data
  assert len(state.params["w_q"].sharding.device_set) == data
  assert state.params["w_q"].is_fully_replicated
  return state, metrics.mean


def resumed(root: Path, first: int, then: int):
  """A run stopped on some devices, to its end on others."""
  seen = []
  for data, stop in ((first, 8), (then, 99)):
    experiment = experiment_of(data)
    directory = open_run(root, experiment.config, resume=True)
    run_in(
      directory,
      experiment,
      should_stop=lambda stop=stop: max(seen, default=0) >= stop,
      watch=lambda progress: seen.append(progress.step),
    )
  return load_newest(experiment, directory).state


def of_seeds(seeds: int, data: int, steps: int):
  """The first of four seeds that so many sets of devices share."""
  config = config_of(data, mesh__seeds=seeds)
  pure = make_pure_experiment(config)
  mesh = make_seeds_mesh(config.mesh, 4)
  group = make_group(pure, "map", mesh)(range(4))
  state, metrics = group.train_chunk(group.init(), jnp.int32(steps))
  shard = state.params["w_q"].addressable_shards[0].data
  assert len(shard) == 4 // seeds, shard.shape
  assert len(state.params["w_q"].sharding.device_set) == seeds * data
  return jax.tree.map(lambda x: x[0], (state, metrics.mean))


def main() -> None:
  jax.config.update("jax_numpy_rank_promotion", "raise")
  jax.config.update("jax_debug_key_reuse", True)
  assert jax.device_count() == 8
  found = {"basis rows": [planned_rows(1), planned_rows(2)]}
  found["products"] = difference(products(8), products(1))
  found["eigenvalues"], found["basis in parts"] = lanczos(3)
  found["basis"] = basis_on_a_device(8)
  single = trained(1, 10)
  found["trained"] = difference(trained(8, 10), single)
  found["seeds"] = difference(of_seeds(2, 2, 10), single)
  with tempfile.TemporaryDirectory() as root:
    found["resumed"] = difference(resumed(Path(root), 8, 1), trained(1, 24)[0])
  print(json.dumps(found))


if __name__ == "__main__":
  main()
