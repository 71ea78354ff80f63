"""The merge point: which t is saved."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from isthmus.eval.barrier import Profile

Objective = Literal["mean", "worst"]


def grid(points: int = 11) -> list[float]:
    """Evenly spaced t in [0, 1], ends included, free of rounding noise."""
    return [round(index / (points - 1), 6) for index in range(points)]


def objective_at(measured: Profile, t: float, objective: Objective) -> float:
    """What is minimised over t: the mean over labels of the loss, or the largest excess of any label."""
    if objective == "mean":
        return measured.at(t).mean
    excess = measured.excess(t)
    return max(excess.label_mean(label) for label in excess.per_block)


def choose_t(measured: Profile, *, objective: Objective = "mean", interior: float = 0.1) -> float:
    """The measured t in [interior, 1 − interior] with the lowest objective; the one nearest 1/2 among equals."""
    inside = [t for t, _ in measured.points if interior - 1e-9 <= t <= 1 - interior + 1e-9]
    return min(inside, key=lambda t: (objective_at(measured, t, objective), abs(t - 0.5)))


def neighbours(measured: Profile, t: float, interior: float) -> list[float]:
    """Half-way points between t and the measured points beside it, inside the interior: where to look closer."""
    ts = [point for point, _ in measured.points]
    place = ts.index(t)
    halves = [round((ts[i] + t) / 2, 6) for i in (place - 1, place + 1) if 0 <= i < len(ts)]
    return [half for half in halves if interior - 1e-9 <= half <= 1 - interior + 1e-9]
