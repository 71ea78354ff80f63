"""The loss on the plane through three models (Garipov et al. 2018, arXiv 1802.10026).

The origin is the first model, the x axis points to the second, and the y axis is the part of the third's direction that
is orthogonal to x. Both are in units of ‖θ_2 − θ_1‖, so that the models lie at (0, 0), (1, 0) and (x, y).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..checkpoint.errors import BadInput
from ..checkpoint.rows import ComputedState, rows_of
from .loss import LossMeter

State = Mapping[str, Tensor]
MARGIN = 0.25
FLATTEST = 1e-6


@dataclass(frozen=True)
class Plane:
    """Losses on a grid: `loss[i][j]` at (xs[j], ys[i]), and where the three models lie."""

    xs: tuple[float, ...]
    ys: tuple[float, ...]
    loss: tuple[tuple[float, ...], ...]
    models: dict[str, tuple[float, float]]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready; a loss that is NaN, as it may be far outside, becomes None."""
        rows = [[value if value == value else None for value in row] for row in self.loss]
        models = [{"name": name, "x": x, "y": y} for name, (x, y) in self.models.items()]
        return {"x": list(self.xs), "y": list(self.ys), "loss": rows, "models": models}


def affine_combination(states: Sequence[State], weights: Sequence[float]) -> ComputedState:
    """Σ w_i θ_i over three states with weights that sum to 1 and may be negative, tensor by tensor."""

    def combined(tensors: Iterable[Tensor]) -> Tensor:
        return torch.stack([w * tensor for w, tensor in zip(weights, tensors, strict=True)]).sum(0)

    def rows(name: str, start: int, stop: int) -> Tensor:
        return combined(rows_of(state, name, start, stop) for state in states)

    return ComputedState(states[0], lambda name: combined(state[name] for state in states), rows=rows)


def coordinates(states: Sequence[State]) -> tuple[float, float]:
    """Where the third state lies, (x, y), with the first at (0, 0) and the second at (1, 0); y is not negative.

    Raises BadInput when the three lie on one line, or the first two are the same.
    """
    first, second, third = states
    square = inner = length = 0.0
    for name in first:
        base = first[name].double()
        u, v = second[name].double() - base, third[name].double() - base
        square += u.square().sum().item()
        inner += (u * v).sum().item()
        length += (v * v).sum().item()
    if square == 0:
        raise BadInput("the first two models are the same: they span no plane")
    x = inner / square
    height = length / square - x * x
    if height <= FLATTEST**2:
        raise BadInput("the three models lie on one line: they span no plane")
    return x, height**0.5


def measure_plane(
    states: Mapping[str, State], meter: LossMeter, *, resolution: int = 15, margin: float = MARGIN
) -> Plane:
    """Losses of `resolution` x `resolution` points around three named states, which are of one form.

    The grid leaves `margin` times the longer side of their box around them.

    Raises BadInput as `coordinates` does.
    """
    names, ends = list(states), list(states.values())
    x, y = coordinates(ends)
    models = dict(zip(names, ((0.0, 0.0), (1.0, 0.0), (x, y)), strict=True))
    places = [[point[i] for point in models.values()] for i in (0, 1)]
    room = margin * max(max(along) - min(along) for along in places)
    xs, ys = (
        tuple(torch.linspace(min(along) - room, max(along) + room, resolution, dtype=torch.float64).tolist())
        for along in places
    )

    def loss(along: float, height: float) -> float:
        third = height / y
        second = along - third * x
        return meter(affine_combination(ends, (1 - second - third, second, third))).mean

    return Plane(xs, ys, tuple(tuple(loss(along, height) for along in xs) for height in ys), models)
