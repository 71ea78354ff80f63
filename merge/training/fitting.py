"""What is trained on text for a path: an alignment along the straight line, or the bends of a curve.

An alignment is learned from the best closed form on, with the loss in the middle of the straight line. Bends start on
that line.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ...align.activations import cross_correlations
from ...align.alignment import Alignment, turned
from ...align.families import family
from ...align.learned import LearnedAlignment, common_basis, has_basis
from ...align.methods import KEEP_FORM
from ...align.universe import Universe
from ...eval.barrier import profile
from ...eval.loss import LossMeter, weighed
from ...eval.progress import Progress
from ...eval.targets import shown
from ..path import WeightPath
from ..plans import CurvePlan, LearnPlan
from ..reading import blocks_to_look_at
from ..simplex import Simplex, Star
from ..spectra import restore_spectrum
from .path_training import Trained, train_path
from .text import a_little

if TYPE_CHECKING:
    from transformers import PretrainedConfig

    from .training_state import TrainingState

CALM = 0.4  # the share of the first and the last segment, next to the endpoints, where bends are not trained
BETWEEN = (0.3, 0.4, 0.5, 0.6, 0.7)


def movable(
    aligned: Universe, states: Sequence[Mapping[str, Tensor]], fit: Mapping[str, Tensor]
) -> tuple[tuple[Mapping[str, Tensor], ...], LearnedAlignment]:
    """The aligned states in canonical form, wider where they are, and the alignment that moves them on.

    `states` are these as they were; `aligned` may have kept their form. Their common basis is looked for on `fit` text.
    """
    widening, config = aligned.widening, Alignment("learned").config(aligned.config)
    aligned = aligned.narrow or aligned
    starts, table = aligned.alignments, family(aligned.config)
    begun = aligned.states
    if aligned.alignment.method in KEEP_FORM:
        identity, score = table.identity(), aligned.alignment.score
        starts = tuple(Alignment("orthogonal", identity | table.lifted(own.elements), score) for own in starts)
        moved = [start.apply(state, table) for start, state in zip(starts, states[1:], strict=True)]
        begun = (starts[0].reference(states[0], table), *moved)
    untied, narrow = table.untied(), Alignment("learned").config(aligned.config)
    if has_basis(untied):
        ids, (first, *others) = shown(blocks_to_look_at(fit)), begun
        stream = replace(untied, activations=tuple(one for one in untied.activations if one.space == table.stream))
        crosses = [cross_correlations(first, other, narrow, stream, ids)[table.stream] for other in others]
        basis = common_basis(sum(crosses[1:], crosses[0]), untied)
        begun = tuple(turned(state, untied, basis) for state in begun)
        starts = tuple(start.in_basis(basis, untied) for start in starts)
    moving = LearnedAlignment(starts, begun, untied, widening)
    if widening is not None:
        a, b = map(untied.split, begun)
        begun = tuple(map(family(config).join, widening.pieces(a, b, untied)))
    return begun, moving


def learn(
    start: Universe,
    states: Sequence[Mapping[str, Tensor]],
    fit: Mapping[str, Tensor],
    select: Mapping[str, Tensor],
    plan: LearnPlan,
    *,
    device: str,
    progress: Progress,
    run: TrainingState | None = None,
) -> Trained[WeightPath]:
    """Train the alignment of two states on `fit` blocks; the best one by the barrier on `select`, at worst the start.

    `states` are these as they were, `start` as their alignment in closed form made them.
    """
    ends, moving = movable(start, states, fit)
    line, config = WeightPath.line(ends), Alignment("learned").config(start.config)
    height = height_of(line, config, select, BETWEEN, device)
    progress.stage("learning the alignment", plan.steps)
    return train_path(
        line, config, fit, height, plan.training, moving=moving, device=device, run=run, progress=progress
    )


def learn_all(
    start: Universe,
    states: Sequence[Mapping[str, Tensor]],
    fit: Mapping[str, Tensor],
    select: Mapping[str, Tensor],
    plan: LearnPlan,
    *,
    device: str,
    progress: Progress,
    run: TrainingState | None = None,
) -> Trained[Simplex]:
    """As `learn`, for any number of states, with the loss of their averages; the best one by that of equal weights."""
    ends, moving = movable(start, states, fit)
    config, equal = Alignment("learned").config(start.config), (1 / len(ends),) * len(ends)
    meter = select_meter(config, select, device)
    losses = [meter(state) for state in ends]
    mean = weighed(losses, equal)

    def height(averages: Simplex) -> float:
        excess = meter(averages(equal)) - mean
        return max(excess.label_mean(label) for label in select)

    progress.stage("learning the alignment", plan.steps)
    return train_path(
        Simplex(ends), config, fit, height, plan.training, moving=moving, device=device, run=run, progress=progress
    )


def learning_record(plan: LearnPlan, trained: Trained[Any], start: str) -> dict[str, Any]:
    """What the report says of the learning, JSON-ready; `start` is the method of the closed form."""
    return {"start": start, **asdict(plan), **trained.record(plan.steps)}


def train_curve(
    line: WeightPath,
    config: PretrainedConfig,
    fit: Mapping[str, Tensor],
    select: Mapping[str, Tensor],
    plan: CurvePlan,
    *,
    device: str,
    progress: Progress,
    run: TrainingState | None = None,
    moving: LearnedAlignment | None = None,
) -> tuple[Trained[WeightPath], CurvePlan]:
    """Bend the straight path `line` as planned, with the optimizer settled; the plan comes back as it was used.

    B's alignment is learned with the bends where it is `moving`.
    """
    plan = plan.for_endpoints(())
    assert plan.optimizer != "auto"
    table = family(config)
    ts = [number / (plan.bends + 1) for number in range(1, plan.bends + 1)]
    progress.stage("starting the bends", len(ts))
    bends = []
    for t in ts:
        state = dict(line(t))
        bends.append(restore_spectrum(state, line.ends, (1 - t, t), table) if plan.start == "restored" else state)
        progress.advance()
    start = WeightPath(plan.kind, line.a, line.b, tuple(bends))

    between = [number / (2 * plan.bends + 2) for number in range(1, 2 * plan.bends + 2)]
    height = height_of(line, config, select, between, device)
    apart = CALM / (plan.bends + 1)
    training = replace(plan.training, optimizer=plan.optimizer, span=plan.training.span or (apart, 1 - apart))
    bent = f"training {plan.bends} bend{'s' * (plan.bends > 1)} ({plan.optimizer})"
    progress.stage(f"{bent} and the alignment" if moving else bent, training.steps)
    trained = train_path(start, config, fit, height, training, moving=moving, device=device, run=run, progress=progress)
    return trained, replace(plan, training=training)


def train_star(
    star: Star,
    config: PretrainedConfig,
    fit: Mapping[str, Tensor],
    select: Mapping[str, Tensor],
    plan: CurvePlan,
    *,
    device: str,
    progress: Progress,
    run: TrainingState | None = None,
    moving: LearnedAlignment | None = None,
) -> tuple[Trained[Star], CurvePlan]:
    """Train the centre of a star as planned, with the optimizer settled; the plan comes back as it was used.

    The centre starts where that of `star` is. The best one is chosen by the highest excess half-way along every arm and
    at its end. The alignment is learned with it where it is `moving`.
    """
    plan = plan.for_endpoints(())
    assert plan.optimizer != "auto"
    meter = select_meter(config, select, device)
    losses = [meter(state) for state in star.ends]
    places = [(0, 1.0), *((arm, 0.5) for arm in range(len(losses)))]

    def height(star: Star) -> float:
        excesses = [meter(star(place)) - weighed(losses, star.shares(place)) for place in places]
        return float(torch.tensor([[one.label_mean(label) for label in select] for one in excesses]).max())

    training = replace(plan.training, optimizer=plan.optimizer, span=plan.training.span or (CALM, 1.0))
    centre = f"training the centre of {len(losses)} models ({plan.optimizer})"
    progress.stage(f"{centre} and the alignment" if moving else centre, training.steps)
    trained = train_path(star, config, fit, height, training, moving=moving, device=device, run=run, progress=progress)
    return trained, replace(plan, training=training)


def select_meter(config: PretrainedConfig, select: Mapping[str, Tensor], device: str) -> LossMeter:
    """What measures losses on a little of every text to select on."""
    return LossMeter(config, a_little(select), device=device)


def height_of(
    line: WeightPath, config: PretrainedConfig, select: Mapping[str, Tensor], between: Sequence[float], device: str
) -> Callable[[WeightPath], float]:
    """The height of any path with the ends of `line`: its highest excess at the t in `between`, on the worst label of
    some select text; NaN where a loss is NaN.
    """
    meter = select_meter(config, select, device)
    ends = profile(line, meter, (0.0, 1.0))

    def height(path: WeightPath) -> float:
        measured = ends.with_points((t, meter(path(t))) for t in between)
        excesses = [measured.excess(t) for t in between]
        return float(torch.tensor([[one.label_mean(label) for label in select] for one in excesses]).max())

    return height


def training_record(plan: CurvePlan, trained: Trained[Any]) -> dict[str, Any]:
    """What the report says of the training, JSON-ready."""
    training, settings = plan.training, {"kind": plan.kind, "bends": plan.bends, "start": plan.start}
    return {**settings, **asdict(training), "lr": training.peak, **trained.record(training.steps)}
