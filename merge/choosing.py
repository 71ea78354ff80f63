"""What a merge chooses on the select text, and how alignments are tried: the cheapest first, while it helps."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from torch import Tensor

from ..align.alignment import Alignment
from ..align.families import family
from ..align.methods import LOOKING, Method
from ..align.universe import Universe, align_all
from ..checkpoint.adapters.extracted import ExtractedAdapter
from ..checkpoint.finite import finite_algebra
from ..checkpoint.inputs import Inputs
from ..eval.corpora import WRITTEN
from ..eval.loss import LossMeter
from ..eval.processes import from_main, sharding
from ..eval.progress import Progress
from ..eval.samples import Writer
from ..eval.targets import shown
from ..eval.text_hashes import TextHashes
from .observed import Observed
from .path import WeightPath
from .plans import Align, MergePlan, PathTraining
from .reading import MergeText, blocks_to_look_at, tokens_per_label, writer_of
from .recipes.recipe import Recipe
from .refit import refitted
from .shared_folder import SharedFolder
from .simplex import Star
from .training.fitting import Fitter
from .training.text import with_written
from .training.training_state import TrainingState

if TYPE_CHECKING:
    from transformers import PretrainedConfig

CLOSED: tuple[Method, ...] = ("none", "orthogonal", "combined")
Candidate = TypeVar("Candidate")


def closed_forms(align: Align, *, in_table: bool, all_of_them: bool = False) -> tuple[Method, ...]:
    """The closed forms that are tried, in a family that has a table or not; ``learned`` starts from the best."""
    if align == "learned":
        return CLOSED
    if align == "auto":
        return CLOSED[:1] if not in_table else CLOSED if all_of_them else CLOSED[:2]
    return (align,)


def climb(
    methods: Iterable[Method],
    candidate: Callable[[Method], Candidate],
    *,
    is_flat: Callable[[Candidate], bool],
    is_lower: Callable[[Candidate, Candidate], bool],
) -> Candidate:
    """The best candidate of some methods: a later one only where it is surely lower, and none once one is flat."""
    first, *others = methods
    best = candidate(first)
    for method in others:
        if is_flat(best):
            break
        other = candidate(method)
        best = other if is_lower(other, best) else best
    return best


@dataclass(frozen=True)
class Choice:
    """What is merged: the `aligned` models, and the `state` that comes of them, on the rows that all of them have.

    `aligned` is None where nothing is aligned or measured. `alignment` is what the report says of it; `maker` says in
    errors what made the weights. Of two models, the state is the point at `t` of a `path`, and `point` gives others in
    a form in which spectra can be compared; `training` is what the report says of the path's training, `restored` of
    the spectrum, `refitted` of what least squares fitted; `seen` is the text that the path was trained on, `run` where
    the training is kept until the result is saved, `closed` the alignment that it began with, None where nothing was
    fitted. By an operator, `recipe` is the one with the weights that were chosen, `soup` what the report says of them,
    `star` the arms to the state where that is a trained centre, `training` then how it was,
    and `equal` what equal weights make, computed when it is looked up. `adapter` is the one that the
    state is made by, where the merge is saved as one; `observed` compares the state with the models while it is read.
    """

    aligned: Universe | None
    state: Mapping[str, Tensor]
    alignment: Mapping[str, Any]
    maker: str
    t: float | None = None
    path: WeightPath | None = None
    star: Star | None = field(default=None, kw_only=True)
    point: Callable[[float], Mapping[str, Tensor]] | None = None
    training: Mapping[str, Any] = field(default_factory=dict)
    restored: Mapping[str, float | bool] | None = None
    refitted: Mapping[str, float | bool] | None = None
    seen: TextHashes = field(default_factory=TextHashes)
    run: TrainingState | None = None
    recipe: Recipe | None = None
    soup: Mapping[str, Any] | None = None
    equal: Mapping[str, Tensor] | None = None
    closed: Alignment | None = None
    adapter: ExtractedAdapter | None = None
    observed: Observed | None = None

    @property
    def universe(self) -> Universe:
        """The aligned models. Where nothing is aligned or measured there are none."""
        assert self.aligned is not None, "only of what is streamed from disk to disk there is no universe"
        return self.aligned

    @property
    def element(self) -> Alignment:
        """The alignment of the second model to the first."""
        return self.aligned.alignment if self.aligned is not None else Alignment("none", {}, 0.0)


@dataclass(eq=False)
class Chooser:
    """Aligns some models by any method, and measures what comes of it on the select part of their text.

    `tried` says how high what was tried lies there, by method; `beside` is the output beside which a training is kept.
    """

    inputs: Inputs
    text: MergeText
    plan: MergePlan
    device: str
    progress: Progress
    beside: Path | None = field(default=None, kw_only=True)
    tried: dict[str, float] = field(init=False, default_factory=dict)

    @cached_property
    def states(self) -> list[Mapping[str, Tensor]]:
        """The states as they were."""
        return [member.state for member in self.inputs.members]

    @property
    def writer(self) -> Writer:
        """What the models write."""
        return writer_of(self.inputs, self.plan, self.device, self.progress)

    @property
    def config(self) -> PretrainedConfig:
        """Their configuration."""
        return self.inputs.first.config

    def aligned_by(self, method: Method, *, stream: bool = False) -> Universe:
        """The states next to each other; with `stream`, of two, without having them in memory."""
        if method != "none":
            self.progress.stage(f"aligning ({method})")
        ids = shown(self.blocks_to_look_at()) if method in LOOKING else None
        seed, advance = self.plan.seed, self.progress.advance
        if self.folder is not None and method != "none":
            return self._aligned_by_main(method, self.folder)
        with finite_algebra(f"{method} alignment"):
            states = self.states
            if self.inputs.contexts is not None and method != "none":  # rows of other models must not be matched
                states = [self.inputs.contexts.with_mean_rows(*placed) for placed in enumerate(states)]
            if (vocabulary := self.inputs.borrowing) is not None and method != "none":
                states = [vocabulary.with_mean_rows(*placed) for placed in enumerate(states)]
            aligned = align_all(states, self.config, method, ids=ids, stream=stream, seed=seed, on_match=advance)
        return self.completed(aligned)

    def _aligned_by_main(self, method: Method, folder: SharedFolder) -> Universe:
        """The same of two models that are shared: the main process aligns them layer by layer, and all read that."""
        seed, advance = self.plan.seed, self.progress.advance

        def align() -> Universe:
            with finite_algebra(f"{method} alignment"):
                return align_all(self.states, self.config, method, stream=True, seed=seed, on_match=advance)

        return self._made_by_main(method, align, folder)

    def _moved_by_main(self, alignments: Sequence[Alignment], folder: SharedFolder) -> Universe:
        def move() -> Universe:
            return Universe.learned(self.states, self.config, alignments, stream=True, seed=self.plan.seed)

        return self._made_by_main("learned", move, folder)

    def _made_by_main(self, name: str, make: Callable[[], Universe], folder: SharedFolder) -> Universe:
        """Two aligned models that the main process makes, layer by layer, and all read from a folder."""
        own: list[Universe] = []

        def made() -> tuple[Alignment, float]:
            own.append(make())
            return own[0].alignment, own[0].max_log_prob_error

        alignment, error = from_main(made)
        config, states = alignment.config(self.config), own[0].states if own else (None, None)
        shapes = family(config).schema().shapes
        a, b = (folder.put(f"{name}-{end}", shapes, state) for end, state in zip("ab", states, strict=True))
        return Universe((a, b), config, (alignment,), error, (alignment.score,), on_disk=True)

    @cached_property
    def folder(self) -> SharedFolder | None:
        """Where states lie that no process has whole; None where every process has all it needs."""
        return SharedFolder(self.beside) if sharding() else None

    def training(self, start: Universe, plan: object, training: PathTraining) -> tuple[list[str], Fitter]:
        """The labels to train on, and what trains on them."""
        labels = self.text.training_labels(self.plan.fit_on)
        fit, select = with_written(
            self.writer, training, self.inputs.context, self.text.fit(0, labels), self.text.select
        )
        given = {label: fit[label] for label in labels if label != WRITTEN}  # what is written, the rest says
        run = TrainingState.of_run(self.beside, self.inputs.members, start, plan, given)
        return labels, Fitter(fit, select, self.device, self.progress, run, self.folder)

    def moved(self, alignments: Sequence[Alignment]) -> Universe:
        """The models under alignments that were learned, verified."""
        if self.folder is not None:
            return self._moved_by_main(alignments, self.folder)
        return self.completed(Universe.learned(self.states, self.config, alignments, seed=self.plan.seed))

    def completed(self, aligned: Universe) -> Universe:
        """Aligned models with what one gives to others: rows of positions or tokens that they lack, or its head."""
        if self.inputs.contexts is not None and aligned.alignment.method != "none":
            aligned = replace(aligned, states=tuple(self.inputs.contexts.with_rows_of_owner(aligned.states)))
        if self.inputs.borrowing is not None and aligned.alignment.method != "none":
            aligned = replace(aligned, states=tuple(self.inputs.borrowing.with_rows_of_others(aligned.states)))
        return self._with_one_head(aligned)

    def _with_one_head(self, aligned: Universe) -> Universe:
        """The same; where one classifier gives its head to all, each with that head as it is after the alignment."""
        owner = self.inputs.head
        if owner is None or aligned.alignment.method == "none":
            return aligned
        head = {name: aligned.states[owner][name] for name in self.inputs.first.schema.head}
        return replace(aligned, states=tuple({**state, **head} for state in aligned.states))

    def refit(
        self, average: Mapping[str, Tensor], aligned: Universe, shares: Sequence[float]
    ) -> tuple[Mapping[str, Tensor], dict[str, float | bool]]:
        """An average of the aligned states with its maps to the stream fitted by least squares, or as it is where the
        loss on the select text would rise; and the two losses.
        """
        self.progress.stage("fitting maps to the stream by least squares", len(aligned.states) + 1)
        table, ids = family(aligned.config), shown(self.blocks_to_look_at())
        fitted = refitted(average, aligned.states, shares, aligned.config, table, ids, on_pass=self.progress.advance)
        meter = self.meter("choosing: what least squares fitted, or not", aligned.config, 2)
        before, after = (meter(state).mean for state in (average, fitted))
        record = {"kept": after < before, "select_loss": after, "select_loss_without": before}
        return fitted if after < before else average, record

    def blocks_to_look_at(self) -> Tensor:
        """The blocks on which models are looked at, for alignment or for statistics."""
        return blocks_to_look_at(self.text.fit(tokens_per_label(len(self.text.labels))))

    def meter(self, stage: str, config: PretrainedConfig, points: int) -> LossMeter:
        """What measures so many states of a configuration on the select text, as a stage."""
        select = self.text.select
        self.progress.stage(stage, points * sum(map(len, select.values())))
        return LossMeter(config, select, device=self.device, on_blocks=self.progress.advance)
