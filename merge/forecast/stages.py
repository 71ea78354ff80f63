"""The stages of a merge, in order, with what each works and holds in memory: what `isthmus.merge.pipeline` will do."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ...align.methods import LOOKING, Method
from ...checkpoint.gguf_source import GgufSource
from ...eval.memorization import BLOCKS as HEART_BLOCKS
from ...eval.memorization import LENGTH as HEART_LENGTH
from ...eval.samples import texts_at_once
from ..choosing import closed_forms
from ..plane import BLOCKS as PLANE_BLOCKS
from ..plane import RESOLUTION
from ..plans import MAX_PASSES, CurvePlan, PathTraining
from ..probe import BETWEEN as PROBED
from ..probe import LENGTH as PROBE_LENGTH
from ..probe import TOKENS as PROBE_TOKENS
from ..reading import ACTIVATION_TOKENS
from ..search import grid
from ..training.fitting import BETWEEN
from ..training.path_training import EVALUATIONS, SPACING
from ..training.text import SELECT_BLOCKS
from ..weight_search.coordinate import EVALUATIONS as COORDINATE_EVALUATIONS
from . import alignments
from .amounts import FLOAT32, Amounts
from .work import NOTHING, Stage, Work

if TYPE_CHECKING:
    pass

EXPLORED = 2.5  # times the select text that a path is measured on until its lowest and highest points are inside
COMPARED = 10.0  # times, where a learned alignment is held against what it began with, all points on all of it
SETTLED = 2.0  # times, until the lowest point is told from the others
GRADIENTS = 1.5  # times what is kept for a backward pass is there in the middle of it: measured 1.45 to 1.7
SAMPLE_TOKENS = 64  # of every sample
FIGURES, PAGES = 1.5, 0.3  # seconds that the report and the card take, with figures and without


@dataclass(frozen=True)
class Outline(Amounts):
    """What one merge will do."""

    def stages(self) -> list[Stage]:
        """All stages, in order."""
        plan = self.job.plan
        if plan.is_plain or plan.max_memory is not None or self.job.is_composed:
            return [*self._streamed(), *self._saving()]
        steps = self._by_operator() if self.job.recipe is not None else self._along_path()
        return [*self._opening(), *steps, *self._measuring(), *self._saving()]

    def _on_disk(self) -> float:
        """Bytes of the weights of all models in their files."""
        models = self.job.inputs.whole
        shapes = ((model.dtype.itemsize, shape) for model in models for shape in model.schema.shapes.values())
        return float(sum(size * math.prod(shape) for size, shape in shapes))

    def _opening(self) -> Iterator[Stage]:
        yield Stage("reading the models", Work(read=self._on_disk(), moved=2 * self.held), self.held)
        if self.job.plan.writes_text:
            yield self._writing_text(2 * self.job.plan.tokens, times=2)

    def _streamed(self) -> Iterator[Stage]:
        """Models that are merged tensor by tensor, and measured from the disk where there is text."""
        read = self._on_disk()
        if not self.text:
            yield Stage("merging", Work(read=read, moved=4 * self.models * self.state), 2 * self.largest)
            return
        memory = self.state if self.job.plan.max_memory is None else 0.0
        passes = self.ends + 2 + self.job.base
        work = Work(evaluated=passes * self.report, read=2 * read + passes * self.state, stored=2 * self.state)
        yield Stage("merging and measuring from disk", work, memory + self.forward)

    def _along_path(self) -> Iterator[Stage]:
        plan = self.job.plan
        if isinstance(plan.path, Path):
            work = self._measured(EXPLORED * self.select, 10)
            yield Stage("choosing: the path", work, self.universe + self.aligned + self.forward)
            yield from self._spectra()
            return
        methods = closed_forms(plan.alignment, in_table=self.job.in_table)
        learned = self.learns
        if learned and plan.alignment == "auto":
            methods = (*methods, "combined")
        for method in methods:
            yield from self._closed_form(method)
        if learned:
            yield from self._learning()
        yield from self._spectra()
        if isinstance(plan.path, CurvePlan):
            yield from self._bends(plan.path)
        if plan.t is None and self.select:
            yield Stage("choosing t", self._measured(SETTLED * self.select, 6), self.universe + self.forward)

    def _measured(self, tokens: float, states: float) -> Work:
        """Losses of so many states, on so many tokens together."""
        return Work(evaluated=tokens, moved=states * 3 * self.aligned)

    def _aligning(self, method: Method) -> Iterator[Stage]:
        if method != "none":
            assert self.table is not None
            tokens = ACTIVATION_TOKENS if method in LOOKING else 0
            work = alignments.alignment(self.table, method, self.models, tokens)
            yield Stage(f"aligning ({method})", work, self.universe + 2.5 * self.aligned)

    def _closed_form(self, method: Method) -> Iterator[Stage]:
        yield from self._aligning(method)
        if self.select:
            work = self._measured(EXPLORED * self.select, 10)
            yield Stage(f"choosing: the path, align {method}", work, self.universe + self.forward)

    def _learning(self) -> Iterator[Stage]:
        training = self.job.plan.learn.training
        yield from self._training("learning the alignment", training, len(BETWEEN))
        work = self._measured((EXPLORED + COMPARED) * self.select, 20)
        yield Stage("choosing: the path, learned alignment", work, self.universe + self.forward)
        if self.job.plan.alignment == "auto":
            yield from self._probe("measuring on other text", 2, own=False)

    def _bends(self, curve: CurvePlan) -> Iterator[Stage]:
        assert self.table is not None
        if curve.start == "restored":
            work = curve.bends * alignments.restored(self.table, self.ends)
            yield Stage("starting the bends", work, self.universe + self.aligned)
        bends = curve.bends if self.ends == 2 else 1
        what = f"{bends} bend{'s' * (bends > 1)}" if self.ends == 2 else f"the centre of {self.ends} models"
        points = 2 * bends + 1 if self.ends == 2 else self.ends + 1
        yield from self._training(f"training {what}", curve.training, points)
        work = self._measured(EXPLORED * self.select, 10)
        yield Stage("choosing: the path", work, self.universe + self.aligned + self.forward)
        if self.job.plan.alignment == "auto" and self.ends == 2:
            yield from self._probe("measuring on other text", 2, own=False)

    def _training(self, name: str, training: PathTraining, points: int) -> Iterator[Stage]:
        """Text that the models write, and the steps, with an evaluation of some points now and then."""
        trainee = self.trainee
        assert trainee is not None
        if self.writes:
            given = self.labels if self.text else 0
            blocks = max(SELECT_BLOCKS, training.steps * training.batch / (given + 1) / MAX_PASSES)
            yield self._writing_text((blocks + SELECT_BLOCKS) * self.context, times=2)
        every = max(training.steps // EVALUATIONS, -(-SPACING // training.batch))
        evaluations = 1 + -(-training.steps // every)
        looked_at = (evaluations * points + trainee.models) * SELECT_BLOCKS * self.context
        tokens = training.steps * training.batch * self.context
        work = Work(trained=tokens, steps=training.steps * training.accumulate)
        # Ends as teachers and, where they move, as they began and as the best of them are; bends with their gradients,
        # two moments, the best of them and the newest.
        copies = trainee.models * (1 + 2.5 * trainee.moving) + 6 * trainee.bends
        micro = training.batch // training.accumulate * self.context
        backward = GRADIENTS * (self.kept.besides + self.kept.by_token * micro)
        holds = self.universe + copies * self.aligned + backward
        yield Stage(name, work + self._measured(looked_at, evaluations * points), holds)

    def _writing_text(self, tokens: float, times: int = 1) -> Stage:
        """Text that two models write, so many times."""
        return Stage("writing text", self._written(tokens, self.context, 2 * times), self.universe)

    def _written(self, tokens: float, length: int, models: int) -> Work:
        """So many tokens in texts of a length, by some models in turn; as many texts at a time as memory allows."""
        at_once = texts_at_once(self.job.inputs.first.config, length)
        texts = math.ceil(tokens / length / models)
        return Work(written=tokens, moments=models * math.ceil(texts / at_once) * length)

    def _spectra(self) -> Iterator[Stage]:
        if self.table is not None and (self.job.measures_spectrum or self.is_curve):
            work = self.ends * alignments.spectrum(self.table)
            yield Stage("measuring the models' spectra", work, self.universe + 0.5 * self.aligned)

    def _by_operator(self) -> Iterator[Stage]:
        plan, recipe = self.job.plan, self.job.recipe
        assert recipe is not None
        tries = plan.alignment in ("auto", "learned")
        methods = closed_forms(plan.alignment, in_table=self.job.in_table, all_of_them=True)
        for number, method in enumerate(methods):
            yield from self._aligning(method)
            if tries:
                times = 1 + (number == 0) * self.ends
                work = self._measured(times * self.select, times)
                yield Stage("choosing the alignment", work, self.universe + self.forward)
        if self.learns:
            yield from self._training("learning the alignment", plan.learn.training, 1)
        yield from self._spectra()
        if isinstance(plan.path, CurvePlan):
            yield from self._bends(plan.path)
            return
        if recipe.operator.knows is not None:
            passes = 3.0 if recipe.operator.knows == "fisher" else 2.0
            work = self.models * Work(evaluated=passes * ACTIVATION_TOKENS)
            yield Stage(f"statistics for {recipe.operator.name}", work, self.universe + self.models * self.aligned)
        yield from self._weights()
        work = Work(moved=4 * self.models * self.aligned)
        yield Stage(f"merging ({recipe.operator.name})", work, self.universe + self.aligned)

    def _weights(self) -> Iterator[Stage]:
        if not self.job.plan.chooses_weights:
            return
        search, learned = self.job.plan.weight_search, NOTHING
        if search is None:  # a greedy soup
            evaluations = 2.0 * self.ends
        elif search.method == "gradient":
            evaluations, learned = 4.0, Work(evaluated=3.0 * search.tokens(self.context))
        else:
            evaluations = search.evaluations if search.method == "cma" else COORDINATE_EVALUATIONS / 2
        merged = 4 * self.models * self.aligned * evaluations
        work = Work(evaluated=evaluations * self.select, moved=merged) + learned
        yield Stage("choosing weights", work, self.universe + self.aligned + self.forward)

    def _measuring(self) -> Iterator[Stage]:
        """All that comes after the merge is built."""
        is_path, plan = self.job.recipe is None, self.job.plan
        held = self.universe + 2 * self.aligned + self.forward
        if plan.refit:
            work = self.models * Work(evaluated=2.0 * ACTIVATION_TOKENS) + self._measured(2 * self.select, 2)
            yield Stage("fitting maps to the stream by least squares", work, held)
        if plan.spectrum.restore and self.table is not None:
            work = alignments.restored(self.table, self.ends) + self._measured(2 * self.select, 2)
            yield Stage("restoring the spectrum", work, held)
        if self.report:
            aligns = plan.alignment != "none" and self.table is not None
            passes = float(self.ends + 2 + aligns + self.job.base)
            if is_path:
                passes = (len(grid()) * (1 + aligns + self.is_curve)) + 1
            yield Stage("measuring on the report text", self._measured(passes * self.report, passes), held)
            if self.is_curve and not is_path:
                points = 4 * self.ends + 1
                yield Stage("measuring the arms of the star", self._measured(points * self.report, points), held)
            if is_path:
                fitted = self.learns or self.is_curve
                yield from self._probe("measuring on other text", 1 + fitted, own=fitted)
            yield from self._known_by_heart(held)
        if self.job.measures_spectrum and self.table is not None:
            points = len(grid()) - 2 if is_path else 1
            work = points * alignments.spectrum(self.table)
            yield Stage("measuring the spectrum", work, self.universe + 1.5 * self.aligned)
        if self.report and self.writes and self.job.inputs.tokenizer_owner.has_tokenizer and self.text:
            yield Stage("writing samples", Work(moments=float((min(3, self.ends) + 1) * SAMPLE_TOKENS)), held)
        drawn = (is_path and self.is_curve) or (not is_path and self.ends == 3)
        if self.report and drawn:
            blocks = sum(min(len(rows), PLANE_BLOCKS) for rows in self.text.report.values()) or PLANE_BLOCKS
            work = self._measured(RESOLUTION**2 * blocks * self.context, RESOLUTION**2)
            yield Stage("measuring the plane", work, held)
        yield Stage("comparing weights", Work(moved=8 * self.models * self.aligned), held)

    def _probe(self, name: str, paths: int, *, own: bool) -> Iterator[Stage]:
        """Text of another kind: what the models write, and text of the standard library."""
        if self.job.inputs.first.schema.classifies:
            return
        length, labels = min(PROBE_LENGTH, self.context), 1
        points = len(PROBED) + 2
        if self.text and self.writes:
            labels = 2
            work = self._written(PROBE_TOKENS, length, 2)
            yield Stage("writing text", work, self.universe)
        tokens = paths * points * labels * PROBE_TOKENS + own * paths * points * self.report
        yield Stage(name, self._measured(tokens, paths * points * (1 + own)), self.universe + self.forward)

    def _known_by_heart(self, held: float) -> Iterator[Stage]:
        labels = len(self.text.report)
        if labels and self.writes:
            length = min(HEART_LENGTH, self.context)
            blocks = sum(min(HEART_BLOCKS, len(rows)) for rows in self.text.report.values())
            tokens = self.ends * blocks * length
            work = Work(evaluated=2.0 * tokens, written=tokens / 2, moments=float(self.ends * labels * length // 2))
            yield Stage("looking for text that the models know by heart", work, held)
        for member in self.job.inputs.whole[self.job.base :]:
            inner = member.source.parts[0] if member.source is not None else None
            if labels and isinstance(inner, GgufSource) and inner.quantized:
                yield Stage("estimating what quantization cost", Work(evaluated=4 * self.report), held)

    def _saving(self) -> Iterator[Stage]:
        bytes_ = self.job.dtype.itemsize / FLOAT32 * (self.aligned if not self.job.plan.is_plain else self.state)
        work = Work(stored=bytes_, read=bytes_, moved=2 * self.aligned, fixed=FIGURES if self.report else PAGES)
        held = 0.0 if self.job.plan.is_plain else self.universe + 2 * self.aligned
        if self.text:
            work += Work(evaluated=self.report)
            held += self.forward
        yield Stage("saving", work, held)
