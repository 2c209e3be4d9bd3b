"""Blocks: extreme eigenvalues and norms of the Hessian's blocks, by circuit."""

import jax
import jax.numpy as jnp

from induction_jax import spectra
from induction_jax.config import Config
from induction_jax.measurements.curvature import ROUNDING_PRODUCTS, Curvature
from induction_jax.measurements.measurement import Inputs, Measurement
from induction_jax.measurements.spectra import ENDS
from induction_jax.model import Model
from induction_jax.training.state import stream
from induction_jax.types import Array, Variable

PER_BLOCK = ("step", "block")
PER_BLOCK_PAIR = (*PER_BLOCK, "other_block")
VARIABLES = (
  *(
    variable
    for end in ENDS
    for variable in (
      Variable(
        f"block_{end}", PER_BLOCK, f"{end} eigenvalue of the block", "nats"
      ),
      Variable(
        f"block_{end}_residual",
        PER_BLOCK,
        f"bound on residual norm, {end} eigenpair of the block",
        "nats",
      ),
      Variable(
        f"block_{end}_converged",
        PER_BLOCK,
        f"1 if converged, {end} eigenpair of the block",
      ),
    )
  ),
  Variable(
    "block_norm",
    PER_BLOCK_PAIR,
    "Frobenius norm of the block",
    "nats",
  ),
  Variable(
    "block_norm_se",
    PER_BLOCK_PAIR,
    "standard error of block norm",
    "nats",
  ),
  Variable(
    "blocks_products", ("step",), "Hessian-vector products, blocks", "products"
  ),
)


def make_blocks(config: Config, _: Model, curvature: Curvature) -> Measurement:
  """Makes the measurement of the Hessian's blocks."""
  c = config.blocks
  partition = curvature.partition
  n_blocks = len(partition.names)

  def measure(inputs: Inputs) -> dict[str, Array]:
    state, batches = inputs.state, inputs.batches
    hessian = inputs.used["linearisation"].hessian
    key = stream(state.key, "spectra")
    found = spectra.block_extremes(
      hessian,
      state.params,
      partition,
      jax.random.fold_in(key, 8),
      max_order=c.max_order,
      tolerance=config.spectra.tolerance,
      sharding=curvature.sharding,
    )
    norms = spectra.block_norms(
      hessian,
      state.params,
      partition,
      jax.random.fold_in(key, 9),
      probes=c.probes,
    )
    # The rounding error of a full product bounds the error of each block.
    rounding = curvature.rounding(
      state, batches, hessian, jax.random.fold_in(key, 10)
    )
    values = {
      "block_norm": norms.norms,
      "block_norm_se": norms.errors,
      "blocks_products": jnp.sum(found.products)
      + n_blocks * c.probes
      + ROUNDING_PRODUCTS,
    }
    for end in ENDS:
      extremes = getattr(found, end)
      converged = extremes.converged.astype(jnp.float32)
      values[f"block_{end}"] = extremes.values
      values[f"block_{end}_residual"] = extremes.residuals + rounding
      values[f"block_{end}_converged"] = converged
    return values

  return Measurement(
    name="blocks",
    interval=c.interval,
    variables=VARIABLES,
    coordinates={"block": partition.names, "other_block": partition.names},
    measure=measure,
    uses=("linearisation",),
  )
