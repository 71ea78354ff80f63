"""Which alignment, which path, which t: every candidate is measured on the select text, and on no other."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from ..align.alignment import LOOKING, Alignment, Method
from ..align.families import family
from ..align.gauge import neutral
from ..align.pipeline import Aligned, align_states
from ..checkpoint.finite import finite_algebra
from ..checkpoint.loading import Checkpoint
from ..eval.loss import LossMeter
from ..eval.text import Blocks
from ..eval.text_hashes import TextHashes as Seen
from .curve import CurvePlan, train_curve, training_record
from .learn import LearnPlan, learn, learning_record, movable
from .path import WeightPath
from .point import Objective, grid
from .progress import Progress
from .restore import restore_spectrum
from .search import Search
from .stored import StoredPath
from .training_state import TrainingState

ACTIVATION_TOKENS = 16_384


@dataclass(frozen=True)
class Candidate:
    """One alignment, how many seconds it took, a path, and the search on the select text (None without text).

    `training` is what the report says of a curved path's training, `learning` of its alignment's; `seen` is the text
    that they were trained on.
    """

    aligned: Aligned
    seconds: float
    path: WeightPath
    search: Search | None = None
    training: Mapping[str, Any] = field(default_factory=dict)
    learning: Mapping[str, Any] | None = None
    seen: Seen = field(default_factory=Seen)

    @property
    def line(self) -> WeightPath:
        """The straight line from A to the aligned B."""
        return WeightPath("linear", self.aligned.a, self.aligned.b)

    @property
    def is_flat(self) -> bool:
        """Whether the barrier on the select text is within the noise of 0; not so without text."""
        return self.search is not None and self.search.is_flat

    def at(self, t: float) -> Mapping[str, Tensor]:
        """θ(t), in a form in which spectra can be compared: a learned gauge is taken out again."""
        return self.comparable(self.path(t))

    def comparable(self, state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """A state of the path's form, computing the same, in a form in which spectra can be compared."""
        learned = self.aligned.alignment.method == "learned"
        return neutral(state, family(self.aligned.config)) if learned else state


def looked_at(fit: Mapping[str, Tensor]) -> Tensor:
    """The token ids whose activations are matched: `ACTIVATION_TOKENS` of the fit text, the same of every label."""
    blocks = {label: -(-ACTIVATION_TOKENS // (len(fit) * rows.shape[1])) for label, rows in fit.items()}
    return torch.cat([rows[: blocks[label]] for label, rows in fit.items()])


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
        read_more: Callable[[int], Sequence[Blocks]] | None = None,
    ):
        """`read_more` gives text to fit on, so many tokens of every label, where `text` was read without."""
        self.first, self.second, self.text, self.read_more = first, second, tuple(text), read_more
        self.device, self.seed, self.progress = device, seed, progress
        self.parts = {part.label: part.select for part in text}
        self.context = int(first.config.max_position_embeddings)
        self.tried: dict[str, float] = {}

    def align(self, method: Method, *, stream: bool = False) -> Aligned:
        """The pair aligned by one method; with `stream`, without having it in memory."""
        if method != "none":
            self.progress.stage(f"aligning ({method})")
        ids = looked_at(self.fit(-(-ACTIVATION_TOKENS // max(1, len(self.text))))) if method in LOOKING else None
        with finite_algebra(f"{method} alignment"):
            return align_states(
                self.first.state,
                self.second.state,
                self.first.config,
                method,
                ids=ids,
                stream=stream,
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
        """The candidate with the lowest barrier; a later one only where it is lower by more than the noise.

        A barrier within the noise ends the search.
        """
        best = self.candidate(methods[0])
        for method in methods[1:]:
            if best.is_flat:
                break
            best = self.better(best, method)
        return best

    def better(self, best: Candidate, method: Method) -> Candidate:
        """The candidate that another method gives, where its barrier is lower by more than the noise; else `best`."""
        other = self.candidate(method)
        return other if other.search and best.search and other.search.lower_than(best.search) else best

    def fit(self, tokens: int) -> dict[str, Tensor]:
        """The text to fit on by label, at least `tokens` of each where there are; read now if it has not been.

        Raises TooLittleText where there is none.
        """
        if self.read_more is not None and any(part.fit.numel() < tokens for part in self.text):
            more = {part.label: part.fit for part in self.read_more(tokens)}
            self.text = tuple(replace(part, fit=more[part.label]) for part in self.text)
        return {part.label: part.fit for part in self.text}

    def learned(
        self, start: Candidate, plan: LearnPlan, fit_on: Sequence[str], keep_in: TrainingState | None
    ) -> Candidate:
        """The candidate with its alignment learned, or as it was where its barrier is no higher."""
        began = time.monotonic()
        fit = {part.label: part.fit for part in self.text if part.label in fit_on}
        a, b = self.first.state, self.second.state
        trained = learn(
            start.aligned, a, b, fit, self.parts, plan, device=self.device, progress=self.progress, kept=keep_in
        )
        aligned = self._moved(trained.alignment)
        record = {**learning_record(plan, trained, start.aligned.alignment.method), "fit_on": list(fit_on)}
        seconds = start.seconds + time.monotonic() - began
        line, seen = WeightPath("linear", aligned.a, aligned.b), Seen.of(fit.values())
        found = self._searched(Candidate(aligned, seconds, line, learning=record, seen=seen), "learned alignment")
        if found.search and start.search and not found.search.no_higher_than(start.search):
            return replace(start, seconds=seconds, learning=record, seen=seen)
        return found

    def _moved(self, alignment: Alignment | None) -> Aligned:
        """The pair under an alignment that was learned, verified."""
        assert alignment is not None
        table, config = family(self.first.config), self.second.config
        a, b = alignment.reference(self.first.state, table), alignment.apply(self.second.state, table)
        error = alignment.verify(self.second.state, b, config, seed=self.seed)
        return Aligned(a, b, alignment.config(config), alignment, error)

    def bent(
        self,
        chosen: Candidate,
        plan: CurvePlan,
        fit_on: Sequence[str],
        keep_in: TrainingState | None,
        *,
        with_alignment: bool = False,
    ) -> Candidate:
        """The candidate with a trained curve for its path; trained on the fit text of the labels `fit_on`.

        B's alignment is learned together with the curve if that is asked for.
        """
        began = time.monotonic()
        fit = {part.label: part.fit for part in self.text if part.label in fit_on}
        line, moving, config = chosen.line, None, chosen.aligned.config
        if with_alignment:
            line, moving = movable(chosen.aligned, self.first.state, self.second.state)
            config = Alignment("learned", {}, 0.0).config(config)
        trained, plan = train_curve(
            line,
            config,
            fit,
            self.parts,
            plan,
            device=self.device,
            progress=self.progress,
            kept=keep_in,
            moving=moving,
        )
        record = {**training_record(plan, trained), "fit_on": list(fit_on)}
        path = trained.path
        if with_alignment:
            aligned = self._moved(trained.alignment)
            path = replace(path, a=aligned.a, b=aligned.b)
            learning = {"start": chosen.aligned.alignment.method, "with_bends": True}
            seconds = chosen.seconds + time.monotonic() - began
            chosen = replace(chosen, aligned=aligned, seconds=seconds, learning=learning)
        bent = replace(chosen, path=path, training=record, seen=Seen.of(fit.values()))
        return self._searched(bent, plan.kind)

    def stored(self, found: StoredPath) -> Candidate:
        """The candidate of a path that was trained before."""
        alignment = found.alignment
        aligned = Aligned(found.path.a, found.path.b, alignment.config(self.first.config), alignment, 0.0)
        candidate = Candidate(aligned, 0.0, found.path, training=_record(found), seen=found.seen)
        return self._searched(candidate, found.path.kind)

    def restored(self, chosen: Candidate, t: float) -> tuple[Mapping[str, Tensor], dict[str, float | bool]]:
        """The point at `t` with its spectrum restored, or as it is where the loss would rise; and what was found."""
        before = chosen.at(t)
        a, b = (chosen.comparable(state) for state in (chosen.aligned.a, chosen.aligned.b))
        after = restore_spectrum(dict(before), a, b, t, family(chosen.aligned.config))
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
        if not found.path.bends:
            self.tried[found.aligned.alignment.method] = search.barrier
        return replace(found, search=search)

    def _meter(self, stage: str, aligned: Aligned, points: int) -> LossMeter:
        self.progress.stage(stage, points * sum(map(len, self.parts.values())))
        return LossMeter(aligned.config, self.parts, device=self.device, on_blocks=self.progress.advance)


def _record(stored: StoredPath) -> dict[str, Any]:
    """The record of a stored path's training, whole where the file left something out."""
    usual = {"kind": stored.path.kind, "steps": 0, "best_step": 0, "optimizer": "unknown", "diverged_at": None}
    return {**usual, **stored.training, "bends": len(stored.path.bends)}
