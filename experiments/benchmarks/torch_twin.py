"""The transformer of induction_jax.model in PyTorch, with the same weights.

Rotary positions, layernorm without bias, attention only: what the benchmark's
configs use. Parameters keep their names and are registered in alphabetical
order, so that a flat vector means the same in both.
"""

import numpy as np
import torch
from problem import Problem
from torch import Tensor, nn

from induction_jax.model import ROTARY_BASE

LOSS_TOLERANCE = 1e-5


def make_twin(problem: Problem) -> tuple[nn.Module, nn.Module, tuple]:
  """The network, its loss and its data, all as PyTorch peers take them.

  Returns:
    A module tokens [B, T] -> logits [B T, V], a mean cross-entropy (nats), and
    (tokens [B, T], targets [B T]).

  Raises:
    ValueError: if the two losses differ by more than LOSS_TOLERANCE.
  """
  twin, criterion = Twin(problem.params), nn.CrossEntropyLoss()
  tokens, targets = (
    torch.tensor(np.asarray(x), dtype=torch.long)
    for x in (problem.batch.tokens, problem.batch.targets)
  )
  data = tokens, targets.reshape(-1)
  ours = float(problem.loss(problem.params, problem.batch))
  theirs = criterion(twin(data[0]), data[1]).item()
  if abs(ours - theirs) > LOSS_TOLERANCE:
    raise ValueError(
      f"the PyTorch twin must have the same loss to {LOSS_TOLERANCE}, got "
      f"{ours} in JAX, {theirs} in PyTorch"
    )
  return twin, criterion, data


class Twin(nn.Module):
  def __init__(self, params: dict):
    super().__init__()
    for name in sorted(params):
      # A copy: PyTorch may write to it.
      weight = torch.tensor(np.array(params[name]))
      self.register_parameter(name, nn.Parameter(weight))

  def forward(self, tokens: Tensor) -> Tensor:
    x = self.w_e[tokens]  # [B, T, D]
    for layer in range(self.w_q.shape[0]):
      x = x + self.attend(layer, _normalise(x, self.norm_scale[layer]))
    logits = _normalise(x, self.final_norm_scale) @ self.w_u
    return logits.flatten(0, 1)

  def attend(self, layer: int, x: Tensor) -> Tensor:
    query, key, value = (
      _project(x, w[layer]) for w in (self.w_q, self.w_k, self.w_v)
    )  # [B, H, T, K]
    score = _rotate(query) @ _rotate(key).transpose(-1, -2)
    future = torch.ones(score.shape[-2:], dtype=torch.bool).triu(1)
    score = (score / query.shape[-1] ** 0.5).masked_fill(future, -torch.inf)
    mixed = score.softmax(-1) @ value
    joined = mixed.transpose(1, 2).flatten(2)  # [B, T, H K]
    return joined @ self.w_o[layer].flatten(0, 1)


def _project(x: Tensor, w: Tensor) -> Tensor:  # [B, T, D], [H, D, K]
  n_heads, d_model, d_head = w.shape
  joined = x @ w.transpose(0, 1).reshape(d_model, n_heads * d_head)
  return joined.unflatten(-1, (n_heads, d_head)).transpose(1, 2)


def _normalise(x: Tensor, scale: Tensor) -> Tensor:
  x = x - x.mean(-1, keepdim=True)
  return x * torch.rsqrt((x**2).mean(-1, keepdim=True) + 1e-6) * scale


def _rotate(x: Tensor) -> Tensor:  # [B, H, T, K]
  half = x.shape[-1] // 2
  frequency = ROTARY_BASE ** (-torch.arange(half, dtype=x.dtype) / half)
  place = torch.arange(x.shape[-2], dtype=x.dtype)
  angle = place[:, None] * frequency  # [T, K / 2]
  cos, sin = angle.cos(), angle.sin()
  a, b = x[..., :half], x[..., half:]
  return torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1)
