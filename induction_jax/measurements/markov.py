"""Markov: the network compared with in-context strategies for the task."""

import jax
import jax.numpy as jnp

from induction_jax import tasks
from induction_jax.config import Config
from induction_jax.measurements.batches import task_key
from induction_jax.measurements.curvature import Curvature
from induction_jax.measurements.measurement import Inputs, Measurement
from induction_jax.model import Model, losses
from induction_jax.types import Array, Batch, Variable

STRATEGIES = ("uniform", "unigram", "bigram")
# Candidates for the best smoothing of unigrams, in units of task.dirichlet.
PSEUDO_COUNTS = (1, 1.5, 2, 3, 4, 6, 8, 12, 16, 32, 64, 1e3)
VARIABLES = (
  Variable("markov_loss", ("step",), "loss, all tokens", "nats"),
  Variable("markov_loss_null", (), "loss of a uniform guess", "nats"),
  Variable("unigram_loss", (), "loss of in-context unigrams", "nats"),
  Variable(
    "smoothed_unigram_loss", (), "loss of unigrams, best smoothing", "nats"
  ),
  Variable("bigram_loss", (), "loss of in-context bigrams", "nats"),
  Variable("bayes_loss", (), "loss of the Bayes-optimal strategy", "nats"),
  Variable("chain_loss", (), "loss with the transition matrix known", "nats"),
  *(
    Variable(f"kl_{x}", ("step",), f"KL from {x} to the network", "nats")
    for x in STRATEGIES
  ),
  *(
    Variable(f"kl_{x}_null", (), f"KL from {x} to a uniform guess", "nats")
    for x in STRATEGIES
  ),
)


def make_markov(config: Config, model: Model, _: Curvature) -> Measurement:
  """Makes the measurement of loss and KL divergence from known strategies.

  All values are means over all tokens of one held-out batch, so that the
  network and the strategies share most of the sampling error.

  The unigram strategy uses a pseudo-count of task.dirichlet (Edelman et al.
  2024, arXiv 2402.11004). Token frequencies vary less than the rows of the
  transition matrix, so a larger pseudo-count has a lower loss, and networks
  learn it. `smoothed_unigram_loss` is the loss with the best pseudo-count.

  With Dirichlet rows the bigram strategy is Bayes-optimal, so `bayes_loss`
  equals `bigram_loss`. For doubly stochastic matrices the Bayes optimum has no
  closed form and is not reported. Its expectation lies between `bigram_loss`
  and `chain_loss`.
  """
  task = config.task

  def nulls(inputs: Inputs) -> dict[str, Array]:
    batch = inputs.batches.task
    transitions = tasks.sample_transitions(
      task_key(inputs.state.key),
      batch.tokens.shape[0],
      task.vocab_size,
      dirichlet=task.dirichlet,
      doubly_stochastic=task.doubly_stochastic,
    )
    chain = tasks.chain_predictions(batch.tokens, transitions)
    known = _strategies(config, batch)
    loss = {name: _loss(p, batch) for name, p in known.items()}
    smoothed = [
      tasks.unigram_predictions(
        batch.tokens, task.vocab_size, pseudo_count * task.dirichlet
      )
      for pseudo_count in PSEUDO_COUNTS
    ]
    uniform = jnp.log(known["uniform"])
    values = {
      "markov_loss_null": loss["uniform"],
      "unigram_loss": loss["unigram"],
      "smoothed_unigram_loss": jnp.min(
        jnp.stack([_loss(p, batch) for p in smoothed])
      ),
      "bigram_loss": loss["bigram"],
      "chain_loss": _loss(chain, batch),
      **{f"kl_{x}_null": _divergence(p, uniform) for x, p in known.items()},
    }
    if not task.doubly_stochastic:
      values["bayes_loss"] = loss["bigram"]
    return values

  def measure(inputs: Inputs) -> dict[str, Array]:
    batch = inputs.batches.task
    logits, _ = model.apply(inputs.state.params, batch.tokens)
    log_predicted = jax.nn.log_softmax(logits)
    known = _strategies(config, batch)
    return {
      "markov_loss": jnp.mean(losses.token_losses(logits, batch.targets)),
      **{f"kl_{x}": _divergence(p, log_predicted) for x, p in known.items()},
    }

  return Measurement(
    name="markov",
    interval=config.behaviour.interval,
    variables=VARIABLES,
    measure=measure,
    nulls=nulls,
  )


def _strategies(config: Config, batch: Batch) -> dict[str, Array]:
  """Predicted probabilities of each of STRATEGIES, [B, T, V]."""
  task, tokens = config.task, batch.tokens
  shape = (*tokens.shape, task.vocab_size)
  return {
    "uniform": jnp.full(shape, 1 / task.vocab_size),
    "unigram": tasks.unigram_predictions(
      tokens, task.vocab_size, task.dirichlet
    ),
    "bigram": tasks.bigram_predictions(tokens, task.vocab_size, task.dirichlet),
  }


def _loss(predicted: Array, batch: Batch) -> Array:
  targets = batch.targets[..., None]
  return -jnp.mean(jnp.log(jnp.take_along_axis(predicted, targets, axis=-1)))


def _divergence(strategy: Array, log_predicted: Array) -> Array:
  """Mean KL(strategy || predicted) over tokens, in nats."""
  terms = strategy * (jnp.log(strategy) - log_predicted)
  return jnp.mean(jnp.sum(terms, axis=-1))
