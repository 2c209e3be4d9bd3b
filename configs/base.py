"""Base: the reference run, and the home of every default.

Question: when does a two-layer attention-only transformer form an induction
head on patterns that return at unpredictable distances, and what does the loss
Hessian do meanwhile?

Command:
  python -m induction_jax.train --config configs/base.py

What to expect: the transition between steps 700 and 900.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
  config = ConfigDict(
    {
      "seed": 0,
      "task": {
        "name": "repeats",
        "vocab_size": 50,
        "seq_length": 256,
        "pattern_min": 4,
        "pattern_max": 32,
        "gap_min": 0,
        "gap_max": 32,
        "dirichlet": 1.0,
        "doubly_stochastic": False,
        "triggers": 5,
        "fixed_triggers": False,
      },
      "model": {
        "n_layers": 2,
        "n_heads": 8,
        "d_model": 128,
        "d_mlp": 0,
        "position": "rotary",
        "norm": "layernorm",
        "smeared_keys": False,
      },
      "optim": {
        "name": "adamw",
        "learning_rate": 1e-3,
        "schedule": "constant",
        "warmup_steps": 0,
        "b1": 0.9,
        "b2": 0.999,
        "eps": 1e-8,
        "weight_decay": 0.01,
        "momentum": 0.9,
        "clip_norm": 0.0,
      },
      "train": {
        "num_steps": 20_000,
        "batch_size": 64,
        "micro_batch_size": 0,
        "loss_tokens": "all",
      },
      "intervention": {
        "clamp": "",
        "freeze": "",
        "project": "none",
        "project_top_k": 10,
        "project_interval": 10,
      },
      "behaviour": {"interval": 20, "batch_size": 64},
      "circuits": {"interval": 100, "top_k": 1, "rotary_offset": 16},
      "ablation": {"interval": 100, "batch_size": 16, "pairs": True},
      "spectra": {
        "eigen_interval": 100,
        "adaptive": 0,
        "track_top_k_eigenvalues": 10,
        "batch_size": 64,
        "micro_batch_size": 0,
        "memory_gib": 2.0,
        "max_order": 100,
        "max_basis": 0,
        "exact": False,
        "tolerance": 1e-2,
        "warm_start": False,
        "preconditioned_top_k": 1,
        "gauss_newton_top_k": 0,
        "keep_eigenvectors": False,
      },
      "density": {"interval": 0, "probes": 8, "order": 60, "trace_probes": 32},
      "blocks": {"interval": 0, "probes": 4, "max_order": 40},
      "checkpoint": {"interval": 1000, "log_spaced": True},
      "mesh": {"data": 1, "seeds": 0, "params": 1},
      "report": {"format": "png"},
    }
  )
  return config.lock()
