"""Paths between two states: θ(0) = θ_A, θ(1) = θ_B."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor


class Blend(Mapping[str, Tensor]):
    """(1 − t) a + t b, tensor by tensor when looked up, so that states on disk are never in memory whole."""

    def __init__(self, a: Mapping[str, Tensor], b: Mapping[str, Tensor], t: float):
        self.a, self.b, self.t = a, b, t

    def __getitem__(self, name: str) -> Tensor:
        if self.t in (0.0, 1.0):
            return (self.b if self.t else self.a)[name]
        return torch.lerp(self.a[name], self.b[name], self.t)

    def __iter__(self) -> Iterator[str]:
        return iter(self.a)

    def __len__(self) -> int:
        return len(self.a)


@dataclass(frozen=True)
class LinearPath:
    """The straight line θ(t) = (1 − t) θ_A + t θ_B; exactly θ_A at 0 and θ_B at 1."""

    a: Mapping[str, Tensor]
    b: Mapping[str, Tensor]

    def __call__(self, t: float) -> Blend:
        """θ(t), a state."""
        return Blend(self.a, self.b, t)
