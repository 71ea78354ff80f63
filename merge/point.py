"""The merge point: which t is saved."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

from ..eval.loss import Losses

if TYPE_CHECKING:
    from ..eval.barrier import Profile

Objective = Literal["mean", "worst"]


def grid(points: int = 11) -> list[float]:
    """Evenly spaced t in [0, 1], ends included, free of rounding noise."""
    return [round(index / (points - 1), 6) for index in range(points)]


def inside(t: float, interior: float) -> bool:
    """Whether t is in [interior, 1 − interior]."""
    return interior - 1e-9 <= t <= 1 - interior + 1e-9


def objective_losses(measured: Profile, t: float, objective: Objective) -> Losses:
    """What is minimised over t, block by block: the losses of all labels, or the excess of the worst label."""
    if objective == "mean":
        return measured.at(t)
    excess = measured.excess(t)
    worst = max(excess.per_block, key=excess.label_mean)
    return Losses({worst: excess.per_block[worst]})


def gap(measured: Profile, t: float, other: float, objective: Objective) -> tuple[float, float]:
    """Objective at t − objective at `other`, and its standard error; paired, unless two labels are the worst."""
    mine, theirs = (objective_losses(measured, point, objective) for point in (t, other))
    if mine.per_block.keys() == theirs.per_block.keys():
        difference = mine - theirs
        return difference.mean, difference.stderr
    return mine.mean - theirs.mean, math.hypot(mine.stderr, theirs.stderr)
