"""A network with every weight set by hand, to perform induction exactly."""

import jax.numpy as jnp
import numpy as np

from induction_jax.config import ModelConfig
from induction_jax.types import Params

SHARPNESS = 40.0  # of attention, in logits


def induction_net(
  vocab_size: int = 11,
  seq_length: int = 24,
  n_heads: int = 2,
  previous_token_head: int = 0,
  induction_head: int = 1,
) -> tuple[ModelConfig, Params]:
  """Two layers that perform induction exactly; the other heads write nothing.

  The residual stream is [token V | previous token V | position T], each one-hot
  (learned positions, no norm). One head in layer 0 attends to the previous
  position and writes its token into the second part. One head in layer 1
  attends to keys whose second part equals the current token, and adds their
  token to the first part, which is the part that is unembedded.

  Args:
    vocab_size: V.
    seq_length: T, the longest sequence.
    n_heads: in each layer.
    previous_token_head: index of the head in layer 0.
    induction_head: index of the head in layer 1.
  """
  v, t = vocab_size, seq_length
  d_head = max(v, t, -(-(2 * v + t) // n_heads))
  d_model = n_heads * d_head
  token, previous, place = np.split(np.eye(d_model)[: 2 * v + t], [v, 2 * v])
  first = (0, previous_token_head)
  second = (1, induction_head)
  heads = (2, n_heads, d_model, d_head)
  w_q, w_k, w_v = np.zeros(heads), np.zeros(heads), np.zeros(heads)
  w_o = np.zeros((2, n_heads, d_head, d_model))
  sharpness = SHARPNESS * d_head**0.5

  # The query of position t matches the key of position t - 1.
  w_q[first] = sharpness * place.T @ _into(t, d_head)
  w_k[first] = place[:-1].T @ _into(t, d_head)[1:]
  w_v[first] = token.T @ _into(v, d_head)
  w_o[first] = _into(v, d_head).T @ previous

  w_q[second] = sharpness * token.T @ _into(v, d_head)
  w_k[second] = previous.T @ _into(v, d_head)
  # Position 0 attends to itself in layer 0, so its key would match its own
  # token. This cancels the match; anything larger would dominate the scores.
  w_k[second] -= np.outer(place[0], _into(v, d_head).sum(axis=0))
  w_v[second] = token.T @ _into(v, d_head)
  # Twice as large as the token already in that part of the residual.
  w_o[second] = 2 * _into(v, d_head).T @ token

  params = {
    "w_e": token,
    "w_pos": place,
    "w_q": w_q,
    "w_k": w_k,
    "w_v": w_v,
    "w_o": w_o,
    "w_u": 20 * token.T,
  }
  config = ModelConfig(
    n_layers=2,
    n_heads=n_heads,
    d_model=d_model,
    d_mlp=0,
    position="learned",
    norm="none",
    smeared_keys=False,
  )
  return config, {k: jnp.asarray(w, jnp.float32) for k, w in params.items()}


def _into(n: int, d_head: int) -> np.ndarray:  # [n, K]
  """Maps n dimensions onto the first n of a head."""
  return np.eye(n, d_head)
