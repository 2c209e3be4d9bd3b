"""Interventions: changes that a run keeps from step 0 on.

The necessity or effect of a part of the network is tested by preventing it, or
by providing it, throughout training: heads are clamped, parameters frozen,
updates projected. Each intervention wraps the model or the optimiser, and
returns it unchanged if the config asks for nothing.
"""

from induction_jax.interventions.clamp import clamp_heads
from induction_jax.interventions.updates import intervene

__all__ = ["clamp_heads", "intervene"]
