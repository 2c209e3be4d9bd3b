"""The transformer of induction_jax.model in PyTorch, with the same weights.

It has rotary positions, layernorm without bias and attention only, as `quick`
and `base` do. `Network` is laid out for speed, `Twin` for the packages that
differentiate with respect to one flat vector of parameters.
"""

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from experiments.shared.networks import Problem
from induction_jax.config import OptimConfig, TaskConfig
from induction_jax.model import OWN_CONVENTION, ROTARY_BASE
from induction_jax.types import Params

LOSS_TOLERANCE = 1e-5  # nats

Draw = Callable[[], tuple[Tensor, Tensor]]
Layer = tuple[Tensor, Tensor, Tensor]  # norm [D], QKV [D, 3 H K], O [H K, D]


class Network(nn.Module):
  """Tokens [B, T] -> logits [B T, V].

  Queries, keys and values are one product, norms are those of PyTorch, and
  rotations are tables.

  Args:
    params: initial weights, in the project's layout.
    length: T.
    fused: whether attention is scaled_dot_product_attention.
  """

  def __init__(self, params: Params, length: int, fused: bool = False):
    super().__init__()
    weights = {
      # Copies, because PyTorch may write to them.
      name: torch.tensor(np.array(x))
      for name, x in params.items()
    }
    *_, self.n_heads, _, d_head = weights["w_q"].shape
    self.fused = fused
    self.register_weights(weights)
    half = d_head // 2
    frequency = ROTARY_BASE ** (-torch.arange(half) / half)
    angle = torch.arange(length)[:, None] * frequency
    future = torch.ones(length, length, dtype=torch.bool).triu(1)
    self.register_buffer("cos", angle.cos())
    self.register_buffer("sin", angle.sin())
    self.register_buffer("future", future)

  def register_weights(self, weights: dict[str, Tensor]) -> None:
    qkv, out = _join_heads(*(weights[f"w_{x}"] for x in "qkvo"))
    self.w_e, self.w_u = map(nn.Parameter, (weights["w_e"], weights["w_u"]))
    self.w_qkv = nn.ParameterList(qkv.clone().unbind())
    self.w_out = nn.ParameterList(out.clone().unbind())
    self.norm = nn.ParameterList(weights["norm_scale"].clone().unbind())
    self.final_norm_scale = nn.Parameter(weights["final_norm_scale"])

  def layers(self) -> Iterator[Layer]:
    return zip(self.norm, self.w_qkv, self.w_out)

  def forward(self, tokens: Tensor) -> Tensor:
    x = functional.embedding(tokens, self.w_e)  # [B, T, D]
    for norm, w_qkv, w_out in self.layers():
      joined = _normalise(x, norm) @ w_qkv
      split = joined.unflatten(-1, (3, self.n_heads, -1))
      mixed = self.attention(*split.permute(2, 0, 3, 1, 4))
      x = x + mixed.transpose(1, 2).flatten(2) @ w_out
    logits = _normalise(x, self.final_norm_scale) @ self.w_u
    return logits.flatten(0, 1)

  def attention(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    query, key = self.rotate(query), self.rotate(key)  # [B, H, T, K]
    if self.fused:
      return functional.scaled_dot_product_attention(
        query, key, value, is_causal=True
      )
    score = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5
    return score.masked_fill(self.future, -torch.inf).softmax(-1) @ value

  def rotate(self, x: Tensor) -> Tensor:
    a, b = x.chunk(2, -1)
    cos, sin = self.cos, self.sin
    return torch.cat([a * cos - b * sin, a * sin + b * cos], -1)


class Twin(Network):
  """A Network whose parameters keep the project's names and shapes.

  They are registered in alphabetical order, so that a flat vector means the
  same in JAX and in PyTorch.
  """

  def register_weights(self, weights: dict[str, Tensor]) -> None:
    for name in sorted(weights):
      self.register_parameter(name, nn.Parameter(weights[name]))

  def layers(self) -> Iterator[Layer]:
    joined = _join_heads(self.w_q, self.w_k, self.w_v, self.w_o)
    return zip(self.norm_scale, *joined)


def _join_heads(
  w_q: Tensor, w_k: Tensor, w_v: Tensor, w_o: Tensor
) -> tuple[Tensor, Tensor]:
  """[L, H, D, K] three times, [L, H, K, D] -> [L, D, 3 H K], [L, H K, D]."""
  qkv = torch.stack([w_q, w_k, w_v], 1)
  n_layers, _, _, d_model, _ = qkv.shape
  qkv = qkv.permute(0, 3, 1, 2, 4).reshape(n_layers, d_model, -1)
  return qkv, w_o.flatten(1, 2)


def _normalise(x: Tensor, scale: Tensor) -> Tensor:
  return functional.layer_norm(
    x, x.shape[-1:], scale, None, OWN_CONVENTION.epsilon
  )


def make_twin(problem: Problem) -> tuple[nn.Module, nn.Module, tuple]:
  """The network, its loss and its data in the form that the peers take.

  Returns:
    A module tokens [B, T] -> logits [B T, V], a mean cross-entropy (nats), and
    (tokens [B, T], targets [B T]).

  Raises:
    ValueError: if the two losses differ by more than LOSS_TOLERANCE.
  """
  tokens, targets = (
    torch.tensor(np.asarray(x), dtype=torch.long)
    for x in (problem.batch.tokens, problem.batch.targets)
  )
  twin = Twin(problem.params, tokens.shape[1])
  criterion, data = nn.CrossEntropyLoss(), (tokens, targets.reshape(-1))
  ours = float(problem.loss(problem.params, problem.batch))
  theirs = criterion(twin(data[0]), data[1]).item()
  if abs(ours - theirs) > LOSS_TOLERANCE:
    raise ValueError(
      f"the losses of JAX and PyTorch must agree to {LOSS_TOLERANCE}, got "
      f"{ours} in JAX and {theirs} in PyTorch"
    )
  return twin, criterion, data


def make_step(
  network: nn.Module, compile_mode: str | None, config: OptimConfig
) -> Callable[[Tensor, Tensor], Tensor]:
  """One fused AdamW update: (tokens, targets [B, T]) -> the loss before it.

  Args:
    network: tokens -> logits.
    compile_mode: of torch.compile; None does not compile.
    config: settings of AdamW.
  """

  def compute_loss(tokens: Tensor, targets: Tensor) -> Tensor:
    return functional.cross_entropy(network(tokens), targets.flatten())

  if compile_mode is not None:
    compute_loss = torch.compile(compute_loss, mode=compile_mode)
  tx = torch.optim.AdamW(
    network.parameters(),
    config.learning_rate,
    (config.b1, config.b2),
    config.eps,
    config.weight_decay,
    fused=True,
  )

  def step(tokens: Tensor, targets: Tensor) -> Tensor:
    tx.zero_grad(set_to_none=True)
    loss = compute_loss(tokens, targets)
    loss.backward()
    tx.step()
    return loss

  return step


def make_draw(
  config: TaskConfig, batch_size: int, seed: int, device: str
) -> Draw:
  """Draws batches of tasks/repeats.py: tokens and targets, [B, T] each."""
  generator = torch.Generator(device).manual_seed(seed)
  length, vocabulary = config.seq_length + 1, config.vocab_size
  occurrences = length // (config.pattern_min + config.gap_min) + 2
  arange = torch.arange(length, device=device)

  def uniform(*shape: int) -> Tensor:
    return torch.rand(shape, generator=generator, device=device)

  def between(low: int, high: int, *shape: int) -> Tensor:
    return torch.randint(
      low, high + 1, shape, generator=generator, device=device
    )

  def draw() -> tuple[Tensor, Tensor]:
    pattern = between(config.pattern_min, config.pattern_max, batch_size, 1)
    gap = between(config.gap_min, config.gap_max, batch_size, occurrences)
    ends = torch.cumsum(pattern + gap, 1)
    place = (uniform(batch_size, 1) * ends[:, :1]).long() + arange
    occurrence = torch.searchsorted(ends, place, right=True)
    index = place - functional.pad(ends, (1, 0)).gather(1, occurrence)
    permutation = uniform(batch_size, vocabulary).argsort(1)
    filler = uniform(batch_size, length) * (vocabulary - pattern)
    chosen = torch.where(index < pattern, index, pattern + filler.long())
    tokens = permutation.gather(1, chosen)
    return tokens[:, :-1], tokens[:, 1:]

  return draw
