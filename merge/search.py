"""The search for the lowest and the highest point of a path, with few forward passes.

A coarse grid on a quarter of the blocks first; then the neighbours of the lowest and of the highest point, until both
are inside; then a race: the points that the paired standard error cannot tell from the lowest are measured on twice as
many blocks, until one is left or all blocks are used. All points see the same blocks in the same order, so that every
comparison is paired, on the blocks that both points were measured on.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence

from torch import Tensor

from ..eval.barrier import Profile
from ..eval.loss import ROUNDING, SURE, Losses, LossMeter
from .plans import Objective

QUARTERS = 4
FEWEST_BLOCKS = 4
COARSE = (0, 1, 3, 5, 7, 9, 10)


class Search:
    """One path, its profile so far on the select text, and the search for its lowest point."""

    def __init__(self, path: Callable[[float], Mapping[str, Tensor]], meter: LossMeter):
        self.path, self.meter = path, meter
        self.ts = grid()
        self._losses: dict[float, Losses] = {}
        self._depth: dict[float, int] = {}

    @property
    def profile(self) -> Profile:
        """The points measured so far, possibly on different numbers of blocks."""
        return Profile(tuple(sorted(self._losses.items())))

    @property
    def barrier(self) -> float:
        """The highest excess so far, in nats."""
        return self.profile.barrier

    def explore(self, objective: Objective = "mean", interior: float = 0.1) -> None:
        """The coarse grid, and then the neighbours of its lowest and its highest point."""
        self._measure((self.ts[index] for index in COARSE), 1)
        while True:
            ends = (self._best(self._inside(interior), objective), self._highest())
            places = [self.ts.index(t) for t in ends if t in self.ts]
            new = {self.ts[i] for place in places for i in (place - 1, place + 1) if 0 <= i < len(self.ts)}
            if new <= self._losses.keys():
                return
            self._measure(sorted(new - self._losses.keys()), 1)

    def lower_than(self, other: Search) -> bool:
        """Whether this path's barrier is lower than the other's by more than the noise, if needed on all blocks."""
        for depth in (1, QUARTERS):
            highest = [search._highest() for search in (self, other)]
            for search, t in zip((self, other), highest, strict=True):
                search._measure((0.0, t, 1.0), depth)
            difference = other.profile.excess(highest[1]) - self.profile.excess(highest[0])
            if difference.is_surely_positive or (-difference).is_surely_positive:
                break
        return difference.is_surely_positive

    @property
    def is_flat(self) -> bool:
        """Whether the barrier so far is within the noise of 0."""
        return not self.profile.excess(self._highest()).is_surely_positive

    def no_higher_than(self, other: Search) -> bool:
        """Whether this path's barrier is at most the other's, both on all blocks."""
        self._measure(list(self._losses), QUARTERS)
        highest = other._highest()
        other._measure((0.0, highest, 1.0), QUARTERS)
        if self.barrier <= other.profile.excess(highest).mean:  # the other barrier cannot be lower than at this point
            return True
        other._measure(list(other._losses), QUARTERS)
        return self.barrier <= other.barrier

    def settle(self, objective: Objective, interior: float) -> float:
        """The t of the grid with the lowest objective, or a point half-way to a neighbour that is surely lower."""
        self.explore(objective, interior)
        ends = (0.0, 1.0) if objective == "worst" else ()
        depth, rivals = 1, self._rivals(objective, self._inside(interior))
        while len(rivals) > 1 and depth < QUARTERS:
            depth *= 2
            self._measure({*rivals, *ends}, depth)
            rivals = self._rivals(objective, rivals)
        best = self._best(rivals, objective)
        place = self.ts.index(best)
        beside = [round((self.ts[i] + best) / 2, 6) for i in (place - 1, place + 1) if 0 <= i < len(self.ts)]
        beside = [t for t in beside if inside(t, interior)]
        self._measure(beside, 1)
        lower = [t for t in beside if _sure(gap(self.profile, best, t, objective))]
        return self._best(lower, objective) if lower else best

    def _measure(self, ts: Iterable[float], depth: int) -> None:
        for t in ts:
            seen = self._depth.get(t, 0)
            if depth > seen:
                new = self.meter(self.path(t), self._blocks(seen, depth))
                self._losses[t] = self._losses[t].joined(new) if seen else new
                self._depth[t] = depth

    def _blocks(self, seen: int, depth: int) -> dict[str, Tensor]:
        """The blocks of every label from quarter `seen` up to quarter `depth`."""
        chosen = {}
        for label, blocks in self.meter.blocks.items():
            first, last = (_share(blocks.shape[0], quarters) for quarters in (seen, depth))
            if first < last:
                chosen[label] = blocks[first:last]
        return chosen

    def _inside(self, interior: float) -> list[float]:
        return [t for t in self._losses if inside(t, interior)]

    def _best(self, ts: Sequence[float], objective: Objective) -> float:
        """The t with the lowest objective, compared in pairs; the one nearest 1/2 among equals."""
        best, *others = sorted(ts, key=lambda t: abs(t - 0.5))
        for t in others:
            if gap(self.profile, t, best, objective)[0] < 0:
                best = t
        return best

    def _rivals(self, objective: Objective, ts: Sequence[float]) -> list[float]:
        """The points that are not higher than the lowest of `ts` by more than the noise."""
        best = self._best(ts, objective)
        return [t for t in ts if not _sure(gap(self.profile, t, best, objective))]

    def _highest(self) -> float:
        return max(self._losses, key=lambda t: self.profile.excess(t).mean)


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


def _sure(difference: tuple[float, float]) -> bool:
    """Whether a difference (mean, standard error) is above 0 by more than the noise."""
    return difference[0] > max(SURE * difference[1], ROUNDING)


def _share(blocks: int, quarters: int) -> int:
    """The number of a label's blocks in so many quarters of them."""
    return min(blocks, max(FEWEST_BLOCKS, math.ceil(blocks * quarters / QUARTERS))) if quarters else 0
