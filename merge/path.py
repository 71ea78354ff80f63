"""Paths between two states: θ(0) = θ_A, θ(1) = θ_B, exactly.

A path is a sum Σ c_i(t) θ_i over control points: the endpoints, and the bends between them.

- ``linear``: (1 − t) θ_A + t θ_B.
- ``polychain``: straight segments through all control points, evenly spaced in t.
- ``bezier``: Σ C(n, i) t^i (1 − t)^(n − i) θ_i, a curve that is drawn towards its n − 1 bends.

Garipov et al. 2018 (arXiv 1802.10026).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, Self

import torch
from torch import Tensor
from typing_extensions import override

from ..checkpoint.rows import ComputedState, in_blocks, rows_of

if TYPE_CHECKING:
    pass


Kind = Literal["linear", "polychain", "bezier"]
STRATA = 8


def coefficients(kind: Kind, t: float, points: int) -> tuple[float, ...]:
    """The weights c_i(t) of `points` control points; they are not negative and sum to 1."""
    last = points - 1
    if kind == "bezier":
        return tuple(math.comb(last, i) * t**i * (1 - t) ** (last - i) for i in range(points))
    segment = min(int(t * last), last - 1)
    along = t * last - segment
    return tuple({segment: 1 - along, segment + 1: along}.get(i, 0.0) for i in range(points))


def mix(values: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """Σ w_i x_i, for weights that sum to 1; a tensor that has all the weight is given as it is."""
    used = [(value, weight) for value, weight in zip(values, weights, strict=True) if weight]
    if len(used) == 1:
        return used[0][0]
    if len(used) == 2:
        return torch.lerp(used[0][0], used[1][0], used[1][1])
    return torch.stack([weight * value for value, weight in used]).sum(0)


def blend(states: Sequence[Mapping[str, Tensor]], weights: Sequence[float]) -> ComputedState:
    """Σ w_i θ_i, tensor by tensor when looked up, so that states on disk are never in memory whole."""
    used = [index for index, weight in enumerate(weights) if weight]
    parts, shares = [states[index] for index in used], [weights[index] for index in used]

    def blocks(name: str) -> Iterator[Tensor]:
        for rows in zip(*(in_blocks(part, name) for part in parts), strict=True):
            yield mix(rows, shares)

    def rows(name: str, start: int, stop: int) -> Tensor:
        return mix([rows_of(part, name, start, stop) for part in parts], shares)

    return ComputedState(parts[0], lambda name: mix([part[name] for part in parts], shares), blocks, rows)


def stratified(count: int, span: tuple[float, float], generator: torch.Generator) -> list[float]:
    """So many random t in `span`: `STRATA` consecutive ones cover equal parts of it in a random order."""
    strata = torch.cat([torch.randperm(STRATA, generator=generator) for _ in range(-(-count // STRATA))])[:count]
    first, last = span
    return (first + (last - first) * (strata + torch.rand(count, generator=generator)) / STRATA).tolist()


class Averages(ABC):
    """Weighted averages of control points: `ends`, which stay what they compute, and trained `bends` between them."""

    bends: tuple[Mapping[str, Tensor], ...]

    @property
    @abstractmethod
    def ends(self) -> tuple[Mapping[str, Tensor], ...]:
        """The first and the last control points."""

    @property
    def points(self) -> tuple[Mapping[str, Tensor], ...]:
        """All control points, in order: the bends after the first end."""
        first, *others = self.ends
        return (first, *self.bends, *others)

    def __call__(self, place: Any) -> ComputedState:
        """θ at a place: Σ c_i θ_i."""
        return blend(self.points, self.coefficients(place))

    @abstractmethod
    def coefficients(self, place: Any) -> tuple[float, ...]:
        """The weights c_i of the control points."""

    @abstractmethod
    def shares(self, place: Any) -> tuple[float, ...]:
        """The weights of the ends in what θ stands for."""

    @abstractmethod
    def places(self, count: int, span: tuple[float, float], generator: torch.Generator) -> list[Any]:
        """So many random places to train at, evenly spread, with t in the `span` where there is one."""

    @abstractmethod
    def moved(self, ends: Sequence[Mapping[str, Tensor]], bends: Sequence[Mapping[str, Tensor]]) -> Self:
        """The same with other control points."""


@dataclass(frozen=True)
class WeightPath(Averages):
    """A path from `a` to `b` with any number of `bends`; called with t, it gives θ(t), a state."""

    kind: Kind
    a: Mapping[str, Tensor]
    b: Mapping[str, Tensor]
    bends: tuple[Mapping[str, Tensor], ...] = ()

    @classmethod
    def line(cls, ends: Sequence[Mapping[str, Tensor]]) -> WeightPath:
        """The straight line between two states."""
        a, b = ends
        return cls("linear", a, b)

    @property
    @override
    def ends(self) -> tuple[Mapping[str, Tensor], ...]:
        return self.a, self.b

    def __call__(self, t: float) -> ComputedState:
        """θ(t)."""
        return super().__call__(t)

    @override
    def coefficients(self, place: float) -> tuple[float, ...]:
        return coefficients(self.kind, place, len(self.bends) + 2)

    @override
    def shares(self, place: float) -> tuple[float, float]:
        return 1 - place, place

    @override
    def places(self, count: int, span: tuple[float, float], generator: torch.Generator) -> list[float]:
        return stratified(count, span, generator)

    @override
    def moved(self, ends: Sequence[Mapping[str, Tensor]], bends: Sequence[Mapping[str, Tensor]]) -> Self:
        a, b = ends
        return replace(self, a=a, b=b, bends=tuple(bends))
