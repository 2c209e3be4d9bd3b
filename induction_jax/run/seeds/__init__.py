"""Many seeds of one config, trained and measured by one program."""

from induction_jax.run.seeds.experiment import make_group
from induction_jax.run.seeds.ledger import SeedsLedger
from induction_jax.run.seeds.mapping import (
  MAPPINGS,
  default_mapping,
  over_seeds,
)
from induction_jax.run.seeds.plan import group_size, seed_bytes
from induction_jax.run.seeds.run import config_of, run_seeds

__all__ = [
  "MAPPINGS",
  "SeedsLedger",
  "config_of",
  "default_mapping",
  "group_size",
  "make_group",
  "over_seeds",
  "run_seeds",
  "seed_bytes",
]
