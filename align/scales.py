"""Scales of single entries: what a gated neuron allows, whose gate and value are multiplied, and one with ReLU.

With y = down · (act(gate · x) ∘ (up · x)), a neuron's row of `up` times s and its column of `down` over s leave y as it
is, for any s ≠ 0. The gate, which goes through the activation, allows none. With y = down · relu(up · x), they do for
any s > 0.
"""

# ruff: noqa: D102  (`Group` says what the methods of every kind do)
from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .groups import Matrices, Rigid, evenly
from .motions import Motion


@dataclass(frozen=True)
class Scales(Matrices):
    """A number other than 0 for each of `blocks` entries, by which it is multiplied: (m, 1, 1) float; `size` is 1.

    Those that keep lengths are signs.
    """

    def act(self, tensor: Tensor, axis: int, element: Tensor, *, dual: bool = False) -> Tensor:
        scales = element.flatten().to(tensor.dtype)
        scales = scales.reshape(-1, *[1] * (tensor.ndim - axis % tensor.ndim - 1))
        return tensor / scales if dual else tensor * scales

    def _random_block(self, generator: torch.Generator) -> Tensor:
        scale = 0.5 + torch.rand(1, 1, generator=generator, dtype=torch.float64)
        return scale * (2 * torch.randint(2, (1, 1), generator=generator) - 1)

    def solve(self, cross: Tensor) -> Tensor:
        return torch.where(cross < 0, -1.0, 1.0).to(cross.dtype)

    def attained(self, cross: Tensor) -> Tensor:
        return cross.abs().sum((-1, -2))

    def permutations(self) -> Matrices:
        return _NoScales(self.size, self.blocks)

    def compact(self) -> Matrices:
        return Signs(self.size, self.blocks)

    def motion(self) -> Motion | None:
        return _FreeScales(self.blocks)

    def balanced(self, primal: Tensor, dual: Tensor) -> tuple[Tensor, Tensor]:
        """Both sides of every entry have the same norm, as far as neither is 0."""
        return evenly(primal, dual)


@dataclass(frozen=True)
class Signs(Scales):
    """1 or −1 for each entry: (m, 1, 1) float."""

    def _random_block(self, generator: torch.Generator) -> Tensor:
        return 2.0 * torch.randint(2, (1, 1), generator=generator).double() - 1

    def motion(self) -> Motion | None:
        return None


@dataclass(frozen=True)
class PositiveScales(Scales):
    """A number above 0 for each entry, which ReLU lets through: (m, 1, 1) float."""

    def _random_block(self, generator: torch.Generator) -> Tensor:
        return 0.5 + torch.rand(1, 1, generator=generator, dtype=torch.float64)

    def solve(self, cross: Tensor) -> Tensor:
        return torch.ones_like(cross)

    def attained(self, cross: Tensor) -> Tensor:
        return cross.sum((-1, -2))

    def compact(self) -> Matrices:
        return _NoScales(self.size, self.blocks)


@dataclass(frozen=True)
class _NoScales(Rigid, Scales):
    """The identity alone, where the form of a state has to stay."""

    def _random_block(self, generator: torch.Generator) -> Tensor:
        return torch.ones(1, 1, dtype=torch.float64)

    def solve(self, cross: Tensor) -> Tensor:
        return torch.ones_like(cross)

    def attained(self, cross: Tensor) -> Tensor:
        return cross.sum((-1, -2))


class _FreeScales(Motion):
    """A positive number for every entry."""

    def __init__(self, blocks: int):
        super().__init__()
        self.logarithms = nn.Parameter(torch.zeros(blocks))

    def forward(self) -> Tensor:
        return self.logarithms.exp()[:, None, None]
