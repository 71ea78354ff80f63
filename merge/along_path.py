"""Two models and the path between them: which alignment, which path, which t. All is chosen on the select text."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from ..align.alignment import Alignment
from ..align.families import family
from ..align.methods import LOOKING, Method
from ..align.universe import Universe
from ..checkpoint.errors import BadInput, TooLittleText
from ..checkpoint.inputs import Inputs
from ..checkpoint.model import log_probs, streamed_log_probs
from ..checkpoint.optimizer_evidence import Evidence
from ..eval.loss import SURE
from ..eval.progress import Progress
from ..eval.tasks.task_set import TaskSet
from ..eval.text_hashes import TextHashes
from .choosing import Choice, Chooser, climb, closed_forms
from .path import WeightPath
from .plans import CurvePlan, LearnPlan, MergePlan
from .probe import Probe, probed
from .saved_path import SavedPath, read_path
from .search import Search, grid, inside
from .spectra import restored_spectrum
from .task_scores import module_of
from .training.fitting import learning_record, movable, training_record
from .training.training_state import TrainingState
from .verify import require_same_function

if TYPE_CHECKING:
    from transformers import PretrainedConfig


@dataclass(frozen=True)
class Candidate:
    """One alignment, how many seconds it took, a path, and the search on the select text (None without text).

    `curve` is a path other than the straight line.
    `training` is what the report says of a curved path's training, `learning` of its alignment's; `seen` is the text
    that they were trained on, `run` where that is kept until the result is saved, `closed` the alignment that it began
    with, None where nothing was fitted.
    """

    aligned: Universe
    seconds: float
    curve: WeightPath | None = None
    search: Search | None = None
    training: Mapping[str, Any] = field(default_factory=dict)
    learning: Mapping[str, Any] | None = None
    seen: TextHashes = field(default_factory=TextHashes)
    run: TrainingState | None = None
    closed: Alignment | None = None

    @property
    def line(self) -> WeightPath:
        """The straight line from A to the aligned B."""
        return WeightPath.line(self.aligned.states)

    @property
    def path(self) -> WeightPath:
        """The path from A to the aligned B."""
        return self.curve or self.line

    @property
    def is_flat(self) -> bool:
        """Whether the barrier on the select text is within the noise of 0; not so without text."""
        return self.search is not None and self.search.is_flat

    def is_lower_than(self, other: Candidate) -> bool:
        """Whether the barrier is lower by more than the noise."""
        return self.search is not None and other.search is not None and self.search.lower_than(other.search)

    def at(self, t: float) -> Mapping[str, Tensor]:
        """θ(t), in a form in which spectra can be compared: a learned gauge is taken out again."""
        return self.comparable(self.path(t))

    def comparable(self, state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """A state of the path's form, computing the same, in a form in which spectra can be compared."""
        return self.aligned.neutral(state)


@dataclass(eq=False)
class PathChooser(Chooser):
    """Tries alignments and paths of two models, on the select part of their text."""

    saved: SavedPath | None = None
    tasks: TaskSet | None = None

    def align(self, *, in_table: bool) -> Candidate:
        """The alignment that is asked for; ``auto`` and ``learned`` end in a learned one where that helps."""
        plan = self.plan
        if self.saved is not None:
            return self._on_saved_path(self.saved)
        methods = closed_forms(plan.alignment, in_table=in_table)
        chosen = climb(
            [method for method in methods if self.folder is None or method not in LOOKING],
            self._closed_form,
            is_flat=lambda best: best.is_flat,
            is_lower=Candidate.is_lower_than,
        )
        if isinstance(plan.path, CurvePlan) or plan.alignment not in ("auto", "learned"):
            return chosen
        if plan.alignment == "learned":
            return self._learned(chosen, plan.learn)
        if not in_table or chosen.is_flat or self.inputs.head is not None or self.folder is not None:
            return chosen
        return self._learned_if_it_pays(chosen)

    def _learned_if_it_pays(self, chosen: Candidate) -> Candidate:
        """What ``auto`` does after the cheap closed forms: nothing of too little text, nothing that takes too long."""
        plan, labels = self.plan, self.text.training_labels(self.plan.fit_on)
        context = self.inputs.context
        try:
            other = self._closed_form("combined")
            chosen = other if other.is_lower_than(chosen) else chosen
            weights = sum(value.numel() for value in self.states[0].values())
            if chosen.is_flat or not plan.learn.affordable(weights, context, self.device):
                return chosen
            self.text.fit(plan.learn.training.tokens(len(labels), context))
            return self._learned(chosen, plan.learn)
        except TooLittleText:
            return chosen

    def _closed_form(self, method: Method) -> Candidate:
        """One alignment, and its path's profile on a grid."""
        began = time.monotonic()
        aligned = self.aligned_by(method)
        if self.plan.budget > 1:
            aligned = aligned.with_room(aligned.room_for(self.plan.budget), seed=self.plan.seed)
        return self._searched(Candidate(aligned, time.monotonic() - began), f"align {method}")

    def _learned(self, start: Candidate, plan: LearnPlan) -> Candidate:
        """The candidate with its alignment learned, or as it was where its barrier is no higher."""
        began = time.monotonic()
        asked = plan if self.plan.budget == 1 else (plan, self.plan.budget)
        labels, fitter = self.training(start.aligned, asked, plan.training)
        trained, run = fitter.learn(start.aligned, self.states, plan), fitter.run
        aligned = self.moved(trained.alignments)
        if start.aligned.widening is not None:
            aligned = aligned.with_room(start.aligned.widening, seed=self.plan.seed)
        record = {**learning_record(plan, trained, start.aligned.alignment.method), "fit_on": labels}
        seconds = start.seconds + time.monotonic() - began
        seen = TextHashes.of(fitter.fit[label] for label in labels)
        closed = start.aligned.alignment
        candidate = Candidate(aligned, seconds, learning=record, seen=seen, run=run, closed=closed)
        candidate = self._searched(candidate, "learned alignment")
        unfitted = replace(start, seconds=seconds, learning=record, seen=seen, run=run)
        if candidate.search and start.search and not candidate.search.no_higher_than(start.search):
            return unfitted
        if self.plan.alignment == "auto" and self._is_worse_elsewhere(candidate, start):
            return replace(unfitted, learning={**record, "worse_elsewhere": True})
        return candidate

    def _is_worse_elsewhere(self, fitted: Candidate, start: Candidate) -> bool:
        """Whether what was fitted lies higher than what it began with on text of another kind."""
        blocks = Probe(self.inputs, self.plan.data, self.writer).blocks("select")
        if not blocks:
            return False
        path, closed = ((one.path, one.aligned.config) for one in (fitted, start))
        return probed(path, closed, blocks, 0.5, self.device, self.progress).is_worse()

    def choose(self, start: Candidate, trained_by: Sequence[Evidence]) -> Choice:
        """The path from the aligned models, and its point; a curve is trained by the optimizer that suits both ends."""
        chosen = start
        if isinstance(self.plan.path, CurvePlan):
            optimizers = [evidence.optimizer for evidence in trained_by]
            chosen = self._bent(start, self.plan.path.for_endpoints(optimizers))
        t = self._point(chosen)
        point: Mapping[str, Tensor] = chosen.path(t)
        maker, refitted = f"the merge at t = {t:g}", None
        if self.plan.refit:
            point, refitted = self.refit(point, chosen.aligned, (1 - t, t))
        state = chosen.comparable(point)
        if chosen.aligned.alignment.method == "learned":
            what = f"taking the learned gauge out of {maker}"
            measure = streamed_log_probs if chosen.aligned.on_disk else log_probs
            require_same_function(point, state, chosen.aligned.config, what, seed=self.plan.seed, measure=measure)
        restored = None
        if self.plan.spectrum.restore:
            state, restored = self._restored(chosen, t)
        return Choice(
            chosen.aligned,
            state,
            self._record(chosen),
            maker,
            t,
            chosen.path,
            chosen.at,
            chosen.training,
            restored,
            refitted,
            chosen.seen,
            chosen.run,
            closed=chosen.closed,
        )

    def _record(self, chosen: Candidate) -> dict[str, Any]:
        alignment = chosen.aligned.alignment
        return {
            "method": alignment.method,
            "score": alignment.score,
            "max_log_prob_error": chosen.aligned.max_log_prob_error,
            "seconds": round(chosen.seconds, 3),
            "learning": chosen.learning,
            "widened": chosen.aligned.widened_record(),
            "tried": dict(self.tried),
        }

    def _bent(self, chosen: Candidate, curve: CurvePlan) -> Candidate:
        """The candidate with a trained curve for its path, and B's alignment learned with it where asked for."""
        with_alignment = self.plan.alignment == "learned"
        began, closed = time.monotonic(), chosen.aligned.alignment
        labels, fitter = self.training(chosen.aligned, (curve, with_alignment), curve.training)
        line, moving, config = chosen.line, None, chosen.aligned.config
        if with_alignment:
            ends, moving = movable(chosen.aligned, self.states, fitter.fit, self.folder)
            line = WeightPath.line(ends)
            config = Alignment("learned", {}, 0.0).config(config)
        trained, curve = fitter.curve(line, config, curve, moving)
        record, path = {**training_record(curve, trained), "fit_on": labels}, trained.path
        if with_alignment:
            aligned = self.moved(trained.alignments)
            path = replace(path, a=aligned.states[0], b=aligned.states[1])
            learning = {"start": chosen.aligned.alignment.method, "with_bends": True}
            seconds = chosen.seconds + time.monotonic() - began
            chosen = replace(chosen, aligned=aligned, seconds=seconds, learning=learning)
        seen = TextHashes.of(fitter.fit[label] for label in labels)
        bent = self._searched(
            replace(chosen, curve=path, training=record, seen=seen, run=fitter.run, closed=closed), curve.kind
        )
        if self.plan.alignment == "auto" and self._is_worse_elsewhere(bent, chosen):
            bends = tuple(line(number / (curve.bends + 1)) for number in range(1, curve.bends + 1))
            record = {**record, "best_step": 0, "worse_elsewhere": True}
            bent = self._searched(replace(bent, curve=replace(path, bends=bends), training=record), curve.kind)
        return bent

    def _on_saved_path(self, saved: SavedPath) -> Candidate:
        alignment, path = saved.alignment, saved.path
        aligned = Universe((path.a, path.b), alignment.config(self.config), (alignment,), 0.0, (alignment.score,))
        candidate = Candidate(aligned, 0.0, path, training=saved.record(), seen=saved.seen, closed=alignment)
        return self._searched(candidate, path.kind)

    def _restored(self, chosen: Candidate, t: float) -> tuple[Mapping[str, Tensor], dict[str, float | bool]]:
        """The point at `t` with its spectrum restored, or as it is where the loss would rise; and the two losses."""
        before = chosen.at(t)
        a, b = (chosen.comparable(state) for state in chosen.aligned.states)
        after = dict(restored_spectrum(dict(before), (a, b), (1 - t, t), family(chosen.aligned.config)))
        meter = self.meter("restoring the spectrum", chosen.aligned.config, 2)
        losses = [meter(state).mean for state in (before, after)]
        lowers = losses[1] <= losses[0]
        record = {"kept": lowers, "select_loss": losses[1], "select_loss_without": losses[0]}
        return after if lowers else before, record

    def _point(self, chosen: Candidate) -> float:
        """The t with the lowest objective, or the one that was asked for."""
        if self.plan.t is not None:
            return self.plan.t
        if self.tasks is not None and self.plan.objective == "task":
            return self._best_at_tasks(chosen, self.tasks)
        assert chosen.search is not None, "without text there is no loss to choose t by"
        return chosen.search.settle(self.plan.objective, self.plan.interior)

    def _best_at_tasks(self, chosen: Candidate, tasks: TaskSet) -> float:
        """The t of the grid nearest 1/2 whose score on the select documents is not surely below the highest."""
        ts = [t for t in sorted(grid(), key=lambda t: abs(t - 0.5)) if inside(t, self.plan.interior)]
        self.progress.stage("choosing t by the tasks", len(ts))
        scores = {}
        for t in ts:
            model = module_of(chosen.path(t), chosen.aligned.config)
            context, device = self.inputs.context, self.device
            scores[t] = tasks.scores(model, self.inputs.tokenizer(), "select", context=context, device=device)
            self.progress.advance()
        best = scores[max(ts, key=lambda t: scores[t].mean)]
        below = {t: best - own for t, own in scores.items()}
        return next(t for t in ts if below[t].mean <= SURE * below[t].stderr)

    def _searched(self, candidate: Candidate, name: str) -> Candidate:
        """The candidate with the search begun."""
        if not self.text:
            return candidate
        meter = self.meter(f"choosing: the path, {name}", candidate.aligned.config, len(grid()) // 2)
        search = Search(candidate.path, meter)
        search.explore()
        if not candidate.path.bends:
            self.tried[candidate.aligned.alignment.method] = search.barrier
        return replace(candidate, search=search)


def saved_path(plan: MergePlan, inputs: Inputs, progress: Progress) -> SavedPath | None:
    """The path between two models that was saved in the directory that the plan names; None where it names none."""
    if not isinstance(plan.path, Path):
        return None
    progress.stage("reading the path")
    saved = read_path(plan.path, *inputs.members)
    if plan.alignment not in ("auto", saved.alignment.method):
        raise BadInput(
            f"the path in '{plan.path.name}' was trained after {saved.alignment.method} alignment: leave --align out"
        )
    return saved


def closed_line(inputs: Inputs, alignment: Alignment) -> tuple[WeightPath, PretrainedConfig]:
    """The straight line between two models under an alignment, and the configuration of its points."""
    first, second = inputs.members
    if alignment.method == "none":
        return WeightPath.line((first.state, second.state)), first.config
    table = family(first.config)
    states = alignment.reference(first.state, table), alignment.apply(second.state, table)
    return WeightPath.line(states), alignment.config(first.config)
