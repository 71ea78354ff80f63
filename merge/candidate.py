"""Which alignment, which path, which t: every candidate is measured on the select text, and on no other."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

from isthmus.align.alignment import Method
from isthmus.align.families import family
from isthmus.align.pipeline import Aligned, align_states
from isthmus.checkpoint.loading import Checkpoint
from isthmus.eval.loss import LossMeter
from isthmus.eval.seen import Seen
from isthmus.eval.text import Blocks
from isthmus.merge.curve import CurvePlan, train_curve, training_record
from isthmus.merge.path import WeightPath
from isthmus.merge.point import Objective, grid
from isthmus.merge.progress import Progress
from isthmus.merge.restore import restore_spectrum
from isthmus.merge.search import Search
from isthmus.merge.stored import StoredPath
from isthmus.merge.training_state import TrainingState


@dataclass(frozen=True)
class Candidate:
    """One alignment, how many seconds it took, a path, and the search on the select text (None without text).

    `training` is what the report says of a curved path's training, `seen` the text that it was trained on.
    """

    aligned: Aligned
    seconds: float
    path: WeightPath
    search: Search | None = None
    training: Mapping[str, Any] = field(default_factory=dict)
    seen: Seen = field(default_factory=Seen)

    @property
    def line(self) -> WeightPath:
        """The straight line from A to the aligned B."""
        return WeightPath("linear", self.aligned.a, self.aligned.b)


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
        self.first, self.second, self.text = first, second, text
        self.device, self.seed, self.progress = device, seed, progress
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
        line = WeightPath("linear", aligned.a, aligned.b)
        return self._searched(Candidate(aligned, time.monotonic() - began, line), f"align {method}")

    def best(self, methods: Sequence[Method]) -> Candidate:
        """The candidate with the lowest barrier; a later one only where it is lower by more than the noise."""
        best, *others = [self.candidate(method) for method in methods]
        for other in others:
            if other.search and best.search and other.search.lower_than(best.search):
                best = other
        return best

    def bent(
        self, chosen: Candidate, plan: CurvePlan, fit_on: Sequence[str], keep_in: TrainingState | None
    ) -> Candidate:
        """The candidate with a trained curve for its path; trained on the fit text of the labels `fit_on`."""
        fit = {part.label: part.fit for part in self.text if part.label in fit_on}
        trained, plan = train_curve(
            chosen.line,
            chosen.aligned.config,
            fit,
            self.parts,
            plan,
            device=self.device,
            progress=self.progress,
            kept=keep_in,
        )
        record = {**training_record(plan, trained), "fit_on": list(fit_on)}
        bent = replace(chosen, path=trained.path, training=record, seen=Seen.of(fit.values()))
        return self._searched(bent, plan.kind)

    def stored(self, found: StoredPath) -> Candidate:
        """The candidate of a path that was trained before."""
        alignment = found.alignment
        aligned = Aligned(found.path.a, found.path.b, alignment.config(self.first.config), alignment, 0.0)
        candidate = Candidate(aligned, 0.0, found.path, training=found.training, seen=found.seen)
        return self._searched(candidate, found.path.kind)

    def restored(self, chosen: Candidate, t: float) -> tuple[Mapping[str, Tensor], dict[str, float | bool]]:
        """The point at `t` with its spectrum restored, or as it is where the loss would rise; and what was found."""
        before = chosen.path(t)
        line, table = chosen.line, family(chosen.aligned.config)
        after = restore_spectrum(dict(before), line.a, line.b, t, table)
        meter = self._meter("restoring the spectrum", chosen.aligned, 2)
        losses = [meter(state).mean for state in (before, after)]
        kept = losses[1] <= losses[0]
        return after if kept else before, {"kept": kept, "select_loss": losses[1], "select_loss_without": losses[0]}

    def point(self, chosen: Candidate, objective: Objective, interior: float) -> float:
        """The t with the lowest objective."""
        assert chosen.search is not None, "without text there is no loss to choose t by"
        return chosen.search.settle(objective, interior)

    def _searched(self, found: Candidate, name: str) -> Candidate:
        """The candidate with the search begun."""
        if not self.parts:
            return found
        search = Search(found.path, self._meter(f"choosing: the path, {name}", found.aligned, len(grid()) // 2))
        search.explore()
        return replace(found, search=search)

    def _meter(self, stage: str, aligned: Aligned, points: int) -> LossMeter:
        self.progress.stage(stage, points * sum(map(len, self.parts.values())))
        return LossMeter(aligned.config, self.parts, device=self.device, on_blocks=self.progress.advance)
