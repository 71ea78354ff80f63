"""From a straight path to a curved one: where the bends start, who trains them, and what came of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, get_args

from torch import Tensor

from ..align.families import family
from ..checkpoint.errors import BadInput
from ..eval.barrier import profile
from ..eval.loss import LossMeter
from .optimizers import OptimizerName
from .path import WeightPath
from .progress import Progress
from .restore import restore_spectrum
from .training import PathTraining, Trained, train_path

if TYPE_CHECKING:
    from transformers import PretrainedConfig

    from ..align.learned import LearnedAlignment
    from .training_state import TrainingState

SELECT_BLOCKS = 32
CALM = 0.4  # the share of the first and the last segment, next to the endpoints, where bends are not trained


@dataclass(frozen=True)
class CurvePlan:
    """A curve to be trained: its kind, the number of bends, and how.

    `optimizer` ``auto`` is the one that trained both endpoints, where it is known and one of these, else AdamW
    (`for_endpoints`). The bends start on the straight line, at `start` ``restored`` with the endpoints' singular values
    put back (`restore_spectrum`).
    """

    kind: Literal["polychain", "bezier"] = "polychain"
    bends: int = 1
    optimizer: Literal["auto"] | OptimizerName = "auto"
    start: Literal["midpoint", "restored"] = "restored"
    training: PathTraining = field(default_factory=PathTraining)

    def __post_init__(self) -> None:
        settings = self.training
        if self.bends < 1:
            raise BadInput(f"a {self.kind} has at least one bend; got --bends {self.bends}")
        if min(settings.steps, settings.batch, settings.accumulate) < 1:
            raise BadInput("--steps, --batch and --accumulate are at least 1")
        if settings.lr is not None and not settings.lr > 0:
            raise BadInput(f"--bend-lr is above 0; got {settings.lr:g}")

    def for_endpoints(self, optimizers: Sequence[str | None]) -> CurvePlan:
        """The plan with its optimizer settled for endpoints that these trained (None for unknown)."""
        if self.optimizer != "auto":
            return self
        shared = optimizers[0] if len(set(optimizers)) == 1 else None
        known: dict[str | None, OptimizerName] = {name: name for name in get_args(OptimizerName)}
        return replace(self, optimizer=known.get(shared, "adamw"))


def train_curve(
    line: WeightPath,
    config: PretrainedConfig,
    fit: Mapping[str, Tensor],
    select: Mapping[str, Tensor],
    plan: CurvePlan,
    *,
    device: str,
    progress: Progress,
    kept: TrainingState | None = None,
    moving: LearnedAlignment | None = None,
) -> tuple[Trained, CurvePlan]:
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
        bends.append(restore_spectrum(state, line.a, line.b, t, table) if plan.start == "restored" else state)
        progress.advance()
    start = WeightPath(plan.kind, line.a, line.b, tuple(bends))

    between = [number / (2 * plan.bends + 2) for number in range(1, 2 * plan.bends + 2)]
    height = height_of(line, config, select, between, device)
    apart = CALM / (plan.bends + 1)
    training = replace(plan.training, optimizer=plan.optimizer, span=plan.training.span or (apart, 1 - apart))
    name = f"training {plan.bends} bend{'s' * (plan.bends > 1)} ({plan.optimizer})"
    name += " and the alignment" if moving else ""
    trained = train_with_bar(
        name, start, config, fit, height, training, moving=moving, device=device, kept=kept, progress=progress
    )
    return trained, replace(plan, training=training)


def height_of(
    line: WeightPath, config: PretrainedConfig, select: Mapping[str, Tensor], between: Sequence[float], device: str
) -> Callable[[WeightPath], float]:
    """The height of any path with the ends of `line`: its highest excess at the t in `between`, on some select text."""
    meter = LossMeter(config, {label: blocks[:SELECT_BLOCKS] for label, blocks in select.items()}, device=device)
    ends = profile(line, meter, (0.0, 1.0))
    return lambda path: ends.with_points((t, meter(path(t))) for t in between).highest(between)


def train_with_bar(
    name: str,
    start: WeightPath,
    config: PretrainedConfig,
    fit: Mapping[str, Tensor],
    height: Callable[[WeightPath], float],
    training: PathTraining,
    *,
    moving: LearnedAlignment | None,
    device: str,
    kept: TrainingState | None,
    progress: Progress,
) -> Trained:
    """`train_path` as a stage of a longer computation, its newest barrier beside the bar."""
    progress.stage(name, training.steps)
    done = 0

    def follow(step: int, newest: float) -> None:
        nonlocal done
        progress.note(f"barrier {max(0.0, newest):.3f}")
        progress.advance(step - done)
        done = step

    return train_path(start, config, fit, height, training, moving=moving, device=device, kept=kept, on_step=follow)


def training_record(plan: CurvePlan, trained: Trained) -> dict[str, Any]:
    """What the report says of the training, JSON-ready."""
    settings = asdict(plan.training)
    return {
        "kind": plan.kind,
        "bends": plan.bends,
        "start": plan.start,
        **settings,
        "lr": plan.training.peak,
        "steps": trained.steps,
        "asked_steps": plan.training.steps,
        "best_step": trained.best,
        "diverged_at": trained.diverged,
        "history": trained.history_record(),
    }
