"""Averages of more than two states: all weighted ones, and the arms from all states to a trained centre."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Self

import torch
from torch import Tensor
from typing_extensions import override

if TYPE_CHECKING:
    pass

from .path import Averages, stratified


@dataclass(frozen=True)
class Simplex(Averages):
    """All weighted averages of some states; called with their weights, which sum to 1, it gives one."""

    states: tuple[Mapping[str, Tensor], ...]
    bends: tuple[Mapping[str, Tensor], ...] = field(default=(), init=False)

    @property
    @override
    def ends(self) -> tuple[Mapping[str, Tensor], ...]:
        return self.states

    @override
    def coefficients(self, place: Sequence[float]) -> tuple[float, ...]:
        return tuple(place)

    @override
    def shares(self, place: Sequence[float]) -> tuple[float, ...]:
        return tuple(place)

    @override
    def places(self, count: int, span: tuple[float, float], generator: torch.Generator) -> list[tuple[float, ...]]:
        """Weights evenly spread over the simplex, and then moved half the way to its centre."""
        models = len(self.states)
        exponential = -torch.rand(count, models, generator=generator, dtype=torch.float64).clamp_min(1e-12).log()
        weights = (exponential / exponential.sum(1, keepdim=True) + 1 / models) / 2
        return [tuple(row) for row in weights.tolist()]

    @override
    def moved(self, ends: Sequence[Mapping[str, Tensor]], bends: Sequence[Mapping[str, Tensor]]) -> Self:
        return replace(self, states=tuple(ends))


@dataclass(frozen=True)
class Star(Averages):
    """Straight arms from some states to a trained centre, `bends`, which they share; called with (arm, t), it gives
    (1 − t) θ_arm + t centre.

    The centre stands for the average of all models with their `weights`, which sum to 1. The star of two states with
    equal weights is their ``polychain`` of one bend. Stars of solutions: Sonthalia et al. 2025 (arXiv 2403.07968).
    """

    states: tuple[Mapping[str, Tensor], ...]
    bends: tuple[Mapping[str, Tensor], ...]
    weights: tuple[float, ...]

    @property
    @override
    def ends(self) -> tuple[Mapping[str, Tensor], ...]:
        return self.states

    @property
    def centre(self) -> Mapping[str, Tensor]:
        """The state that all arms lead to."""
        return self.bends[0]

    @override
    def coefficients(self, place: tuple[int, float]) -> tuple[float, ...]:
        arm, t = place
        first, *others = (1 - t if number == arm else 0.0 for number in range(len(self.states)))
        return (first, t, *others)

    @override
    def shares(self, place: tuple[int, float]) -> tuple[float, ...]:
        arm, t = place
        return tuple((1 - t) * (number == arm) + t * weight for number, weight in enumerate(self.weights))

    @override
    def places(self, count: int, span: tuple[float, float], generator: torch.Generator) -> list[tuple[int, float]]:
        """Every arm as often as the others, in a random order; t as on a path."""
        rounds = -(-count // len(self.states))
        arms = torch.cat([torch.randperm(len(self.states), generator=generator) for _ in range(rounds)])
        return list(zip(arms[:count].tolist(), stratified(count, span, generator), strict=True))

    @override
    def moved(self, ends: Sequence[Mapping[str, Tensor]], bends: Sequence[Mapping[str, Tensor]]) -> Self:
        return replace(self, states=tuple(ends), bends=tuple(bends))
