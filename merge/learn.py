"""An alignment that is learned: from the best closed form, with the loss in the middle of the straight line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from torch import Tensor

from ..align.alignment import KEEP_FORM, Alignment
from ..align.families import family
from ..align.learned import LearnedAlignment
from ..align.pipeline import Aligned
from ..checkpoint.errors import BadInput, TooLittleText
from .curve import height_of, train_with_bar
from .path import WeightPath
from .training import MAX_PASSES, PathTraining, Precision, Trained

if TYPE_CHECKING:
    from .progress import Progress
    from .training_state import TrainingState

SPAN = (0.3, 0.7)
FEWEST_STEPS = 20
BETWEEN = (0.3, 0.4, 0.5, 0.6, 0.7)
# Weights times tokens that `auto` will spend on learning: minutes on two cores, or on one GPU.
AFFORDABLE = {"cpu": 2e12, "cuda": 1e15}


@dataclass(frozen=True)
class LearnPlan:
    """How an alignment is learned along a straight line; `batch` blocks a step, over all processes."""

    steps: int = 1000
    batch: int = 8
    precision: Precision | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.steps, self.batch) < 1:
            raise BadInput("--align-steps and --align-batch are at least 1")

    @property
    def training(self) -> PathTraining:
        """The settings of the run."""
        return PathTraining(self.steps, self.batch, precision=self.precision, span=SPAN, seed=self.seed)

    def within(self, blocks: Sequence[int]) -> LearnPlan:
        """The plan with no more steps than so many blocks of every label last for.

        Raises TooLittleText where that would be too few to learn anything.
        """
        most = int(MAX_PASSES * min(blocks)) * len(blocks) // self.batch
        if most < FEWEST_STEPS:
            raise TooLittleText(f"there is text for {most} steps only")
        return replace(self, steps=min(self.steps, most))

    def affordable(self, weights: int, context: int, device: str) -> bool:
        """Whether `auto` may spend this much on a model of so many weights."""
        return weights * self.steps * self.batch * context <= AFFORDABLE[device.partition(":")[0]]


def movable(aligned: Aligned, a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> tuple[WeightPath, LearnedAlignment]:
    """The straight line from A to the aligned B in canonical form, and that B to be moved on.

    `a` and `b` are both states as they were; `aligned` may have kept their form.
    """
    start, table = aligned.alignment, family(aligned.config)
    line = WeightPath("linear", aligned.a, aligned.b)
    if start.method in KEEP_FORM:
        start = Alignment("orthogonal", table.identity() | table.lifted(start.elements), start.score)
        line = replace(line, a=start.reference(a, table), b=start.apply(b, table))
    return line, LearnedAlignment(start, line.b, table.untied())


def learn(
    start: Aligned,
    a: Mapping[str, Tensor],
    b: Mapping[str, Tensor],
    fit: Mapping[str, Tensor],
    select: Mapping[str, Tensor],
    plan: LearnPlan,
    *,
    device: str,
    progress: Progress,
    kept: TrainingState | None = None,
) -> Trained:
    """Train the alignment of B on the `fit` blocks; the best one by the barrier on `select`, at worst the start."""
    line, moving = movable(start, a, b)
    config = Alignment("learned", {}, 0.0).config(start.config)
    height = height_of(line, config, select, BETWEEN, device)
    return train_with_bar(
        "learning the alignment",
        line,
        config,
        fit,
        height,
        plan.training,
        moving=moving,
        device=device,
        kept=kept,
        progress=progress,
    )


def learning_record(plan: LearnPlan, trained: Trained, start: str) -> dict[str, Any]:
    """What the report says of the learning, JSON-ready; `start` is the method of the closed form."""
    return {
        "start": start,
        **asdict(plan),
        "steps": trained.steps,
        "asked_steps": plan.steps,
        "best_step": trained.best,
        "diverged_at": trained.diverged,
        "history": trained.history_record(),
    }
