"""Declarations of what the ablation probe records."""

from induction_jax.types import Variable

PER_HEAD = ("step", "layer", "head")
PER_PAIR = (*PER_HEAD, "writer_layer", "writer_head")
PER_ORDER = ("step", "path_order")
# Interventions on one head: names of tables in circuits/ablation.py.
KINDS = {
  "ablation": "head silenced",
  "mean_ablation": "head's output its mean",
  "frozen_ablation": "head silenced, all patterns kept",
  "previous_token_pattern": "head attends to the previous token alone",
  "induction_pattern": "head attends to earlier successors alone",
}
# A name is that of the loss on predictable tokens of `repeats`; with this
# suffix, on the other tokens.
TOKENS = {"": "predictable tokens", "_random": "other tokens"}


def _estimate(
  name: str, dims: tuple[str, ...], what: str, null: Variable
) -> tuple[Variable, ...]:
  """A mean over tokens, its standard error over sequences and its null."""
  return (
    Variable(name, dims, what, "nats"),
    Variable(f"{name}_se", dims, f"standard error of {what}", "nats"),
    null._replace(name=f"{name}_null"),
  )


def _for_tokens(suffix: str, tokens: str) -> tuple[Variable, ...]:
  rise, fall = f"rise of loss, {tokens}", f"fall of loss, {tokens}"
  idle = Variable("", (), f"{rise}: idle head", "nats")
  alone = Variable("", PER_PAIR, f"{rise}, two silenced alone: sum", "nats")
  guess = Variable("", (), "loss of a uniform guess", "nats")
  useless = Variable("", (), f"{fall}: useless paths", "nats")
  heads = tuple(
    variable
    for kind, what in KINDS.items()
    for variable in _estimate(
      f"{kind}_cost{suffix}", PER_HEAD, f"{rise}, {what}", idle
    )
  )
  return (
    *heads,
    *_estimate(
      f"pair_ablation_cost{suffix}",
      PER_PAIR,
      f"{rise}, two heads silenced",
      alone,
    ),
    *_estimate(
      f"path_loss{suffix}",
      PER_ORDER,
      f"loss, {tokens}, paths through at most so many heads",
      guess,
    ),
    *_estimate(
      f"path_importance{suffix}",
      PER_ORDER,
      f"{fall}, paths through so many heads added",
      useless,
    ),
  )


def _attribution(
  name: str, dims: tuple[str, ...], part: str
) -> tuple[Variable, ...]:
  what = f"direct part of {part} in the target's logit less the mean logit"
  return _estimate(
    name, dims, what, Variable("", (), f"{what}: a random token", "nats")
  )


VARIABLES = (
  *(
    variable
    for suffix, tokens in TOKENS.items()
    for variable in _for_tokens(suffix, tokens)
  ),
  *_attribution("direct_attribution", PER_HEAD, "a head"),
  *_attribution("embedding_attribution", ("step",), "the embedding"),
)
