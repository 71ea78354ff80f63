"""What is trained on text for a path: an alignment along the straight line, or the bends of a curve.

An alignment is learned from the best closed form on, with the loss in the middle of the straight line. Bends start on
that line.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ...align.activations import cross_correlations
from ...align.alignment import Alignment, turned
from ...align.families import family
from ...align.learned import LearnedAlignment, common_basis, has_basis
from ...align.methods import KEEP_FORM
from ...align.streamed import joined_state, stored_pieces
from ...align.universe import Universe
from ...eval.barrier import profile
from ...eval.loss import Losses, LossMeter, weighed
from ...eval.processes import from_main, sharding
from ...eval.progress import Progress
from ...eval.sharded import sharded_model
from ...eval.targets import shown
from ..path import Averages, WeightPath
from ..plans import CurvePlan, LearnPlan, PathTraining
from ..reading import blocks_to_look_at
from ..shared_folder import SharedFolder
from ..simplex import Simplex, Star
from ..spectra import restored_spectrum
from .path_loss import P
from .path_training import Trained, train_path
from .text import a_little

if TYPE_CHECKING:
    from transformers import PretrainedConfig

    from ...align.symmetry import Elements, Family
    from .training_state import TrainingState

CALM = 0.4  # the share of the first and the last segment, next to the endpoints, where bends are not trained
BETWEEN = (0.3, 0.4, 0.5, 0.6, 0.7)


def movable(
    aligned: Universe,
    states: Sequence[Mapping[str, Tensor]],
    fit: Mapping[str, Tensor],
    folder: SharedFolder | None = None,
) -> tuple[tuple[Mapping[str, Tensor], ...], LearnedAlignment]:
    """The aligned states in canonical form, wider where they are, and the alignment that moves them on.

    `states` are these as they were; `aligned` may have kept their form. Their common basis is looked for on `fit` text.
    With a `folder`, no process has them whole: they are made layer by layer, and lie there.
    """
    widening, config = aligned.widening, Alignment("learned").config(aligned.config)
    aligned = aligned.narrow or aligned
    starts, table, stream = aligned.alignments, family(aligned.config), folder is not None
    begun = aligned.states
    if aligned.alignment.method in KEEP_FORM:
        identity, score = table.identity(), aligned.alignment.score
        starts = tuple(Alignment("orthogonal", identity | table.lifted(own.elements), score) for own in starts)
        moving = list(zip(starts, states[1:], strict=True))
        if stream:
            moved = [start.streamed(state, table) for start, state in moving]
            begun = (starts[0].streamed_reference(states[0], table), *moved)
        else:
            begun = (starts[0].reference(states[0], table), *(start.apply(state, table) for start, state in moving))
    untied, narrow = table.untied(), Alignment("learned").config(aligned.config)
    if has_basis(untied):
        basis = from_main(lambda: _common_basis(begun, narrow, untied, fit, stream=stream))
        if stream:
            begun = tuple(joined_state(stored_pieces(state, untied), untied, basis) for state in begun)
        else:
            begun = tuple(turned(state, untied, basis) for state in begun)
        starts = tuple(start.in_basis(basis, untied) for start in starts)
    motion = LearnedAlignment(starts, untied, widening, begun if widening is not None else ())
    if widening is not None:
        a, b = map(untied.split, begun)
        begun = tuple(map(family(config).join, widening.pieces(a, b, untied)))
    if folder is not None:
        shapes = untied.schema().shapes
        begun = tuple(folder.put(f"begun-{number}", shapes, state) for number, state in enumerate(begun))
    return begun, motion


def _common_basis(
    begun: Sequence[Mapping[str, Tensor]],
    config: PretrainedConfig,
    untied: Family,
    fit: Mapping[str, Tensor],
    *,
    stream: bool = False,
) -> Elements:
    """The basis of the stream that states begin with, from what they compute on some of the text."""
    ids, (first, *others) = shown(blocks_to_look_at(fit)), begun
    table = replace(untied, activations=tuple(one for one in untied.activations if one.space == untied.stream))
    crosses = [cross_correlations(first, other, config, table, ids, stream=stream)[table.stream] for other in others]
    return common_basis(sum(crosses[1:], crosses[0]), untied)


@dataclass(frozen=True)
class Fitter:
    """Trains alignments and bends on `fit` blocks, label → (blocks, context), and takes the best by `select` blocks.

    `run` is where a training is kept while it goes on, and resumed from, `folder` where bends lie that no process has
    whole.
    """

    fit: Mapping[str, Tensor]
    select: Mapping[str, Tensor]
    device: str = "cpu"
    progress: Progress = field(default_factory=Progress)
    run: TrainingState | None = None
    folder: SharedFolder | None = None

    def learn(self, start: Universe, states: Sequence[Mapping[str, Tensor]], plan: LearnPlan) -> Trained[WeightPath]:
        """The alignment of two states, trained; the best one by the barrier, at worst the start.

        `states` are these as they were, `start` as their alignment in closed form made them.
        """
        ends, moving = movable(start, states, self.fit, self.folder)
        line, config = WeightPath.line(ends), Alignment("learned").config(start.config)
        height = self._height_of(line, config, BETWEEN)
        self.progress.stage("learning the alignment", plan.steps)
        return self._train(line, config, height, plan.training, moving)

    def learn_all(self, start: Universe, states: Sequence[Mapping[str, Tensor]], plan: LearnPlan) -> Trained[Simplex]:
        """As `learn`, for any number of states, with the loss of their averages; the best by that of equal weights."""
        ends, moving = movable(start, states, self.fit)
        config, equal = Alignment("learned").config(start.config), (1 / len(ends),) * len(ends)
        height = self._height_at(ends, config, (equal,))
        self.progress.stage("learning the alignment", plan.steps)
        return self._train(Simplex(ends), config, height, plan.training, moving)

    def curve(
        self, line: WeightPath, config: PretrainedConfig, plan: CurvePlan, moving: LearnedAlignment | None = None
    ) -> tuple[Trained[WeightPath], CurvePlan]:
        """The straight path `line`, bent as planned, with the optimizer settled; the plan comes back as it was used.

        B's alignment is learned with the bends where it is `moving`.
        """
        plan = plan.for_endpoints(())
        table = family(config)
        ts = [number / (plan.bends + 1) for number in range(1, plan.bends + 1)]
        self.progress.stage("starting the bends", len(ts))
        bends = []
        for t in ts:
            bends.append(self._placed(started(line(t), line.ends, (1 - t, t), plan, table), config))
            self.progress.advance()
        start = WeightPath(plan.kind, line.a, line.b, tuple(bends))
        between = [number / (2 * plan.bends + 2) for number in range(1, 2 * plan.bends + 2)]
        height, apart = self._height_of(line, config, between), CALM / (plan.bends + 1)
        what = f"{plan.bends} bend{'s' * (plan.bends > 1)}"
        return self._bent(start, config, height, plan, (apart, 1 - apart), what, moving)

    def star(
        self, star: Star, config: PretrainedConfig, plan: CurvePlan, moving: LearnedAlignment | None = None
    ) -> tuple[Trained[Star], CurvePlan]:
        """The same for the centre of a star, which starts where that of `star` is.

        The best one is that of the lowest highest excess half-way along every arm and at its end.
        """
        plan, models = plan.for_endpoints(()), len(star.ends)
        places = [(0, 1.0), *((arm, 0.5) for arm in range(models))]
        height = self._height_at(star.ends, config, places)
        return self._bent(star, config, height, plan, (CALM, 1.0), f"the centre of {models} models", moving)

    def _bent(
        self,
        start: P,
        config: PretrainedConfig,
        height: Callable[[P], float],
        plan: CurvePlan,
        span: tuple[float, float],
        what: str,
        moving: LearnedAlignment | None,
    ) -> tuple[Trained[P], CurvePlan]:
        """A path with its bends trained, at t in `span` unless the plan says where."""
        assert plan.optimizer != "auto"
        training = replace(plan.training, optimizer=plan.optimizer, span=plan.training.span or span)
        stage = f"training {what} ({plan.optimizer})"
        self.progress.stage(f"{stage} and the alignment" if moving else stage, training.steps)
        trained = self._train(start, config, height, training, moving)
        if self.folder is not None:
            shapes = {name: tuple(tensor.shape) for name, tensor in trained.path.bends[0].items()}
            bends = [self.folder.put(f"bend-{i}", shapes, bend) for i, bend in enumerate(trained.path.bends, start=1)]
            trained = replace(trained, path=trained.path.moved(start.ends, bends))
        return trained, replace(plan, training=training)

    def _placed(self, start: Mapping[str, Tensor], config: PretrainedConfig) -> Mapping[str, Tensor]:
        """The state that a bend starts at, in memory: of this process, or shared by all."""
        return sharded_model(config, self.device).shared_in_turn(start) if sharding() else dict(start)

    def _train(
        self,
        start: P,
        config: PretrainedConfig,
        height: Callable[[P], float],
        training: PathTraining,
        moving: LearnedAlignment | None,
    ) -> Trained[P]:
        return train_path(
            start,
            config,
            self.fit,
            height,
            training,
            moving=moving,
            device=self.device,
            run=self.run,
            progress=self.progress,
        )

    def _meter(self, config: PretrainedConfig) -> LossMeter:
        """What measures losses on a little of every text to select on."""
        return LossMeter(config, a_little(self.select), device=self.device)

    def _height_of(
        self, line: WeightPath, config: PretrainedConfig, between: Sequence[float]
    ) -> Callable[[WeightPath], float]:
        """The height of any path with the ends of `line`: its highest excess at the t in `between`, on the worst label
        of some select text; NaN where a loss is NaN.
        """
        meter = self._meter(config)
        ends = profile(line, meter, (0.0, 1.0))

        def height(path: WeightPath) -> float:
            measured = ends.with_points((t, meter(path(t))) for t in between)
            return self._highest([measured.excess(t) for t in between])

        return height

    def _height_at(
        self, ends: Sequence[Mapping[str, Tensor]], config: PretrainedConfig, places: Sequence[Any]
    ) -> Callable[[Averages], float]:
        """The same of averages of `ends`, at some places: how far these lie above the ends, each with its share."""
        meter = self._meter(config)
        losses = [meter(state) for state in ends]

        def height(averages: Averages) -> float:
            return self._highest([meter(averages(at)) - weighed(losses, averages.shares(at)) for at in places])

        return height

    def _highest(self, excesses: Sequence[Losses]) -> float:
        return float(torch.tensor([[one.label_mean(label) for label in self.select] for one in excesses]).max())


def started(
    state: Mapping[str, Tensor],
    ends: Sequence[Mapping[str, Tensor]],
    shares: Sequence[float],
    plan: CurvePlan,
    table: Family,
) -> Mapping[str, Tensor]:
    """Where a bend starts: at an average of `ends` with these `shares`, by default with their singular values; tensor
    by tensor when looked up.
    """
    return restored_spectrum(state, ends, shares, table) if plan.start == "restored" else state


def learning_record(plan: LearnPlan, trained: Trained[Any], start: str) -> dict[str, Any]:
    """What the report says of the learning, JSON-ready; `start` is the method of the closed form."""
    return {"start": start, **asdict(plan), **trained.record(plan.steps)}


def training_record(plan: CurvePlan, trained: Trained[Any]) -> dict[str, Any]:
    """What the report says of the training, JSON-ready."""
    training, settings = plan.training, {"kind": plan.kind, "bends": plan.bends, "start": plan.start}
    return {**settings, **asdict(training), "lr": training.peak, **trained.record(training.steps)}
