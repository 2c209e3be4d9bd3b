"""In-context Markov chains (Edelman et al. 2024, arXiv 2402.11004).

Each sequence has its own transition matrix, so the successors of a token can
only be learnt in context. Reference strategies, by what they use:

  uniform   nothing; the loss is log V nats per token;
  unigram   how often each token has occurred;
  bigram    what has followed the current token so far, which an induction head
            provides; Bayes-optimal if the rows are Dirichlet;
  chain     the matrix itself, which cannot be known from the tokens.
"""

import jax
import jax.numpy as jnp

from induction_jax.config import TaskConfig
from induction_jax.types import Array, Batch, Key, Sampler

# For 3 tokens and uniform Dirichlet rows, the columns then sum to 1 within 1e-4
# in the median matrix, and within 0.01 in all but a few of a thousand.
SINKHORN_ROUNDS = 30


def make_markov(config: TaskConfig, batch_size: int) -> Sampler:
  """The sampler of the task `markov`."""
  return lambda key: sample_markov(
    key,
    batch_size,
    config.vocab_size,
    config.seq_length,
    dirichlet=config.dirichlet,
    doubly_stochastic=config.doubly_stochastic,
  )


def sample_markov(
  key: Key,
  batch_size: int,
  vocab_size: int,
  seq_length: int,
  *,
  dirichlet: float,
  doubly_stochastic: bool,
) -> Batch:
  """Draws a transition matrix for every sequence, and a path of each.

  The first token is uniform and independent of the matrix, so that the bigram
  strategy is exactly Bayes-optimal. (Edelman et al. draw it from the stationary
  distribution, which depends on the matrix. For doubly stochastic matrices the
  two are equal.)

  Args:
    key: a typed key.
    batch_size: B.
    vocab_size: V, the number of states.
    seq_length: T.
    dirichlet: concentration of each row; 1 is uniform over distributions.
    doubly_stochastic: whether columns sum to 1 as well, so that in the long run
      all tokens are equally frequent and unigrams predict nothing.

  Returns:
    A Batch. No target is determined. `predictable` is true where the current
    token has occurred before. Elsewhere no strategy has a lower expected loss
    than a uniform guess if the rows are Dirichlet.
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
  paths = sample_paths(walk_key, transitions, first, seq_length + 1)
  return Batch.from_sequences(paths, seen_before(paths[:, :-1]))


def sample_transitions(
  key: Key,
  batch_size: int,
  vocab_size: int,
  *,
  dirichlet: float,
  doubly_stochastic: bool,
) -> Array:  # [B, V, V]
  """The transition matrices of the batch that sample_markov draws with `key`.

  Doubly stochastic matrices are made from Dirichlet rows by Sinkhorn scaling
  (Sinkhorn 1964): columns and rows are normalised in turn, rows last. Rows then
  sum to 1 up to rounding, and columns approximately. The distribution of the
  result has no closed form.
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
  """Predictions of the unigram strategy, which ignores the order of tokens.

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
  """Predictions of the bigram strategy: what has followed the current token.

  This is the posterior predictive distribution for Dirichlet rows and a first
  token independent of them; no strategy has a lower expected loss.

  Args:
    tokens: [B, T].
    vocab_size: V.
    dirichlet: concentration of the prior, added to every count.

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
  """Predictions of the chain strategy: the current token's row, [B, T, V].

  Args:
    tokens: [B, T].
    transitions: [B, V, V], from sample_transitions.
  """
  return jnp.take_along_axis(transitions, tokens[:, :, None], axis=1)


def sample_paths(
  key: Key, transitions: Array, first: Array, length: int
) -> Array:
  """Draws a path of every Markov chain.

  A one-hot row is followed with certainty. Cost: T sequential steps.

  Args:
    key: a typed key.
    transitions: [B, V, V]; row i is the distribution of what follows i.
    first: the first tokens, [B].
    length: T.

  Returns:
    Tokens [B, T], int32, including the first.
  """
  # In one draw, because XLA takes a second to compile each draw on a CPU.
  uniform = jax.random.uniform(key, (length - 1, first.size))
  # Without the last column, rounding cannot lead out of the vocabulary.
  cumulative = jnp.cumulative_sum(transitions, axis=-1)[..., :-1]

  def step(token: Array, uniform: Array) -> tuple[Array, Array]:
    row = jnp.take_along_axis(cumulative, token[:, None, None], axis=1)[:, 0]
    token = jnp.sum(uniform[:, None] >= row, axis=-1, dtype=jnp.int32)
    return token, token

  first = first.astype(jnp.int32)
  _, rest = jax.lax.scan(step, first, uniform)
  return jnp.concatenate([first[None], rest]).T


def seen_before(tokens: Array) -> Array:  # [B, T] -> [B, T] bool
  """True where the token at t occurs at an earlier position."""
  same = tokens[:, :, None] == tokens[:, None, :]
  earlier = jnp.tri(tokens.shape[1], k=-1, dtype=bool)
  return jnp.any(same & earlier[None], axis=-1)


def _log_gamma(key: Key, shape_parameter: float, shape: tuple) -> Array:
  """Logarithms of Gamma variates; rows normalised to sum 1 are Dirichlet."""
  size = (shape[0] * shape[1] * shape[2],)
  if shape_parameter == 1:  # exponential variates, sixty times faster
    flat = jnp.log(jax.random.exponential(key, size))
  else:
    flat = jax.random.loggamma(key, shape_parameter, size)
  return flat.reshape(shape)


def _sinkhorn_round(log_rows: Array) -> Array:
  return jax.nn.log_softmax(jax.nn.log_softmax(log_rows, axis=-2), axis=-1)


def _normalise(weights: Array) -> Array:
  return weights / jnp.sum(weights, axis=-1, keepdims=True)
