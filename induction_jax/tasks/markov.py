"""In-context Markov chains (Edelman et al. 2024, arXiv 2402.11004).

Each sequence has a transition matrix of its own, so what follows a token can
only be learned from the sequence. What a network may know of it:

  uniform   nothing: log V nats a token;
  unigram   how often each token has occurred;
  bigram    what has followed the current token so far, which an induction head
            provides. Where the rows are Dirichlet this is Bayes-optimal;
  chain     the matrix itself, which no reader of the tokens has.
"""

import jax
import jax.numpy as jnp

from induction_jax.tasks.chains import make_batch, seen_before, walk
from induction_jax.types import Array, Batch, Key

# From flat rows of 3 tokens, columns then sum to 1 within 1e-4 in the median
# matrix, and within 0.01 in all but a few of a thousand.
SINKHORN_ROUNDS = 30


def sample_markov(
  key: Key,
  batch_size: int,
  vocab_size: int,
  seq_length: int,
  *,
  dirichlet: float,
  doubly_stochastic: bool,
) -> Batch:
  """Draws a chain for every sequence, and a path of each.

  The first token is uniform and independent of the matrix. (Edelman et al.
  start from the stationary distribution, which itself tells of the matrix; so
  the bigram strategy is exactly Bayes-optimal here, and nearly so there. With
  doubly stochastic matrices both are the same.)

  Args:
    key: a typed key.
    batch_size: B.
    vocab_size: V, the number of states.
    seq_length: T.
    dirichlet: concentration of each row; 1 is uniform over distributions.
    doubly_stochastic: whether columns sum to one as well, so that every
      token is as frequent in the long run and unigrams say nothing.

  Returns:
    A Batch. No target is determined; `predictable` holds where the current
    token has occurred before, so that its successors have been seen. On the
    other positions no strategy beats a uniform guess, but for Dirichlet rows
    only in expectation.
  """
  transitions = sample_transitions(
    key,
    batch_size,
    vocab_size,
    dirichlet=dirichlet,
    doubly_stochastic=doubly_stochastic,
  )
  first_key, walk_key = jax.random.split(jax.random.fold_in(key, 1))
  first = jax.random.randint(first_key, (batch_size,), 0, vocab_size)
  path = walk(walk_key, transitions, first, seq_length + 1)
  return make_batch(path, seen_before(path[:, :-1]))


def sample_transitions(
  key: Key,
  batch_size: int,
  vocab_size: int,
  *,
  dirichlet: float,
  doubly_stochastic: bool,
) -> Array:  # [B, V, V]
  """The matrices of the batch that sample_markov draws with this key.

  Doubly stochastic ones come of Dirichlet rows by Sinkhorn scaling (Sinkhorn
  1964): columns and rows are normalised in turn, rows last. So rows sum to 1
  within rounding and columns nearly; the law of the result has no closed form.
  """
  shape = (batch_size, vocab_size, vocab_size)
  key = jax.random.fold_in(key, 0)
  log_rows = jax.nn.log_softmax(_log_gamma(key, dirichlet, shape))
  if doubly_stochastic:
    log_rows = jax.lax.fori_loop(
      0, SINKHORN_ROUNDS, lambda _, x: _sinkhorn_round(x), log_rows
    )
  return jnp.exp(log_rows)


def unigram_predictions(
  tokens: Array, vocab_size: int, dirichlet: float
) -> Array:
  """What the tokens so far say without their order (Edelman et al. 2024).

  Args:
    tokens: [B, T].
    vocab_size: V.
    dirichlet: added to every count.

  Returns:
    Distributions of the next token, [B, T, V]: p(j | x_0 .. x_t) is the number
    of j among x_0 .. x_t, plus `dirichlet`, normalised.
  """
  counts = jnp.cumulative_sum(jax.nn.one_hot(tokens, vocab_size), axis=1)
  return _normalise(counts + dirichlet)


def bigram_predictions(
  tokens: Array, vocab_size: int, dirichlet: float
) -> Array:
  """What has followed the current token so far.

  The posterior predictive of the chain: for rows ~ Dirichlet and a first token
  independent of them, no strategy has a lower expected loss.

  Args:
    tokens: [B, T].
    vocab_size: V.
    dirichlet: the prior's concentration, added to every count.

  Returns:
    Distributions of the next token, [B, T, V]: p(j | x_0 .. x_t) is the number
    of s < t with x_s = x_t and x_{s + 1} = j, plus `dirichlet`, normalised.
  """
  same = tokens[:, :, None] == tokens[:, None, :]  # [B, T, S]
  earlier = jnp.tri(tokens.shape[1], k=-1, dtype=bool)
  where = (same & earlier[None]).astype(jnp.float32)
  successors = jax.nn.one_hot(tokens[:, 1:], vocab_size)  # of s < T - 1
  counts = jnp.einsum("bts,bsv->btv", where[:, :, :-1], successors)
  return _normalise(counts + dirichlet)


def chain_predictions(tokens: Array, transitions: Array) -> Array:
  """Of one who knows the matrix [B, V, V]: the current token's row."""
  return jnp.take_along_axis(transitions, tokens[:, :, None], axis=1)


def _log_gamma(key: Key, shape_parameter: float, shape: tuple) -> Array:
  """Logarithms of Gamma variates, whose normalised rows are Dirichlet."""
  size = (shape[0] * shape[1] * shape[2],)
  if shape_parameter == 1:  # exponential: no rejection, sixty times faster
    flat = jnp.log(jax.random.exponential(key, size))
  else:
    flat = jax.random.loggamma(key, shape_parameter, size)
  return flat.reshape(shape)


def _sinkhorn_round(log_rows: Array) -> Array:
  return jax.nn.log_softmax(jax.nn.log_softmax(log_rows, axis=-2), axis=-1)


def _normalise(weights: Array) -> Array:
  return weights / jnp.sum(weights, axis=-1, keepdims=True)
