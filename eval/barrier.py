"""The loss along a path, and the barrier.

excess(t) = L(θ(t)) − [(1 − t) L(θ_A) + t L(θ_B)];  barrier = max over t of excess(t), in nats per token (Entezari et
al. 2022, arXiv 2110.06296; the form used by Theus et al. 2025, arXiv 2506.22712, and Zhang et al. 2026, arXiv
2605.09991). The endpoints have an excess of 0, so a barrier is never negative; an excess may be.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor

from .loss import Losses, LossMeter


@dataclass(frozen=True)
class Profile:
    """Losses at points t in [0, 1] along a path, in ascending order, the endpoints among them."""

    points: tuple[tuple[float, Losses], ...]

    @property
    def start(self) -> Losses:
        """Losses of θ(0)."""
        return self.points[0][1]

    @property
    def end(self) -> Losses:
        """Losses of θ(1)."""
        return self.points[-1][1]

    def at(self, t: float) -> Losses:
        """The losses at t. Raises KeyError for a t that was not measured."""
        return dict(self.points)[t]

    def excess(self, t: float) -> Losses:
        """Excess losses at t, block by block."""
        return self.at(t) - self.start.mixed(self.end, t)

    @property
    def barrier(self) -> float:
        """The highest excess, in nats per token; NaN where a loss is NaN."""
        return self.highest(t for t, _ in self.points)

    def highest(self, ts: Iterable[float]) -> float:
        """The highest excess at `ts`, which may be below 0; NaN where a loss is NaN."""
        excesses = [self.excess(t).mean for t in ts]
        return math.nan if any(map(math.isnan, excesses)) else max(excesses)

    def label_barrier(self, label: str) -> float:
        """The highest excess on the text of one label, in nats per token; NaN where a loss is NaN."""
        excesses = [self.excess(t).label_mean(label) for t, _ in self.points]
        return math.nan if any(map(math.isnan, excesses)) else max(excesses)

    def with_points(self, others: Iterable[tuple[float, Losses]]) -> Profile:
        """The profile with more points."""
        return Profile(tuple(sorted([*self.points, *others], key=lambda point: point[0])))


def profile(path: Callable[[float], Mapping[str, Tensor]], meter: LossMeter, ts: Iterable[float]) -> Profile:
    """Measure a path at `ts`, which must contain 0 and 1."""
    return Profile(tuple((t, meter(path(t))) for t in sorted(ts)))
