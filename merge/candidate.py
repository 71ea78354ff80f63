"""Which alignment, and which t: every candidate's path is measured on the select text, and on no other."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from isthmus.align.alignment import Method
from isthmus.align.pipeline import Aligned, align_states
from isthmus.checkpoint.loading import Checkpoint
from isthmus.eval.barrier import Profile, profile
from isthmus.eval.loss import LossMeter
from isthmus.eval.text import Blocks
from isthmus.merge.path import LinearPath
from isthmus.merge.point import Objective, choose_t, grid, neighbours
from isthmus.merge.progress import Progress


@dataclass(frozen=True)
class Candidate:
    """One alignment, how many seconds it took, and the profile of its path on the select text (None without text)."""

    aligned: Aligned
    seconds: float
    select: Profile | None

    @property
    def path(self) -> LinearPath:
        """The straight line from A to the aligned B."""
        return LinearPath(self.aligned.a, self.aligned.b)


class Chooser:
    """Tries alignments of one pair and chooses t, on the select part of `text`."""

    def __init__(
        self,
        first: Checkpoint,
        second: Checkpoint,
        text: Sequence[Blocks],
        *,
        device: str,
        seed: int,
        progress: Progress,
    ):
        self.first, self.second, self.device, self.seed, self.progress = first, second, device, seed, progress
        self.parts = {part.label: part.select for part in text}

    def align(self, method: Method) -> Aligned:
        """The pair aligned by one method."""
        if method != "none":
            self.progress.stage(f"aligning ({method})")
        return align_states(
            self.first.state,
            self.second.state,
            self.first.config,
            method,
            seed=self.seed,
            on_sweep=lambda *_: self.progress.advance(),
        )

    def candidate(self, method: Method) -> Candidate:
        """One alignment, and its path's profile on a grid."""
        began = time.monotonic()
        aligned = self.align(method)
        found = Candidate(aligned, time.monotonic() - began, None)
        if not self.parts:
            return found
        ts = grid()
        meter = self._meter(f"choosing: the path, align {method}", aligned, len(ts))
        return replace(found, select=profile(found.path, meter, ts))

    def best(self, methods: Sequence[Method]) -> Candidate:
        """The candidate with the lowest barrier; the first among equals."""
        candidates = [self.candidate(method) for method in methods]
        return min(candidates, key=lambda found: found.select.barrier if found.select else 0.0)

    def point(self, chosen: Candidate, objective: Objective, interior: float) -> float:
        """The t with the lowest objective: on the grid first, then half-way around the best point of it."""
        assert chosen.select is not None, "without text there is no loss to choose t by"
        coarse = choose_t(chosen.select, objective=objective, interior=interior)
        closer = neighbours(chosen.select, coarse, interior)
        meter = self._meter("choosing t", chosen.aligned, len(closer))
        finer = chosen.select.with_points((t, meter(chosen.path(t))) for t in closer)
        return choose_t(finer, objective=objective, interior=interior)

    def _meter(self, stage: str, aligned: Aligned, points: int) -> LossMeter:
        self.progress.stage(stage, points * sum(map(len, self.parts.values())))
        return LossMeter(aligned.config, self.parts, device=self.device, on_blocks=self.progress.advance)
