"""Training in PyTorch, the same network on the same data, as fast as it goes.

Not torch_twin.py, whose parameters are laid out as the Hessian peers' flat
vectors want them: here queries, keys and values are one product, norms are
PyTorch's own, rotations are tables, AdamW is the fused one.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from induction_jax.config import Config, OptimConfig, TaskConfig
from induction_jax.model import OWN_CONVENTION, ROTARY_BASE

Draw = Callable[[], tuple[Tensor, Tensor]]


def make_draw(
  config: TaskConfig, batch_size: int, seed: int, device: str
) -> Draw:
  """Sequences of tasks/repeats.py, a whole batch at a time: tokens, targets."""
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


class Network(nn.Module):
  """tokens, targets [B, T] -> mean cross-entropy (nats).

  Rotary positions, layernorm without bias, attention only: what `quick` and
  `base` have.

  Args:
    config: the run's.
    params: initial weights, in the project's layout.
    fused: attention by scaled_dot_product_attention; else of whole patterns.
  """

  def __init__(self, config: Config, params: dict, fused: bool):
    super().__init__()
    p = {name: torch.tensor(np.array(x)) for name, x in params.items()}
    qkv = torch.stack([p[name] for name in ("w_q", "w_k", "w_v")], 1)
    n_layers, _, n_heads, d_model, d_head = qkv.shape
    self.n_heads, self.fused = n_heads, fused
    qkv = qkv.permute(0, 3, 1, 2, 4).reshape(n_layers, d_model, -1)
    self.w_e, self.w_u = nn.Parameter(p["w_e"]), nn.Parameter(p["w_u"])
    self.w_qkv = nn.ParameterList(qkv.clone().unbind())
    self.w_o = nn.ParameterList(p["w_o"].flatten(1, 2).clone().unbind())
    self.norm = nn.ParameterList(p["norm_scale"].clone().unbind())
    self.final_norm = nn.Parameter(p["final_norm_scale"])
    length, half = config.task.seq_length, d_head // 2
    frequency = ROTARY_BASE ** (-torch.arange(half) / half)
    angle = torch.arange(length)[:, None] * frequency
    future = torch.ones(length, length, dtype=torch.bool).triu(1)
    self.register_buffer("cos", angle.cos())
    self.register_buffer("sin", angle.sin())
    self.register_buffer("future", future)

  def forward(self, tokens: Tensor, targets: Tensor) -> Tensor:
    x = functional.embedding(tokens, self.w_e)  # [B, T, D]
    for norm, w_qkv, w_o in zip(self.norm, self.w_qkv, self.w_o):
      joined = _normalise(x, norm) @ w_qkv
      split = joined.unflatten(-1, (3, self.n_heads, -1))
      mixed = self.attend(*split.permute(2, 0, 3, 1, 4))
      x = x + mixed.transpose(1, 2).flatten(2) @ w_o
    logits = _normalise(x, self.final_norm) @ self.w_u
    return functional.cross_entropy(logits.flatten(0, 1), targets.flatten())

  def attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
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


def make_step(
  loss: Callable[[Tensor, Tensor], Tensor],
  network: nn.Module,
  config: OptimConfig,
) -> Callable[[Tensor, Tensor], Tensor]:
  """One AdamW update: (tokens, targets) -> the loss before it."""
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
    value = loss(tokens, targets)
    value.backward()
    tx.step()
    return value

  return step


def _normalise(x: Tensor, scale: Tensor) -> Tensor:
  return functional.layer_norm(
    x, x.shape[-1:], scale, None, OWN_CONVENTION.epsilon
  )
