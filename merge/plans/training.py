"""How bends and alignments are trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Literal, get_args

from ..common_options import seed_option
from ..options import TRAINING, option
from .refusals import refuse, require_number

OptimizerName = Literal["adamw", "muon", "lion"]
CurveKind = Literal["polychain", "bezier"]
Precision = Literal["no", "bf16"]
CURVES: tuple[CurveKind, ...] = get_args(CurveKind)
LEARNING_RATES: Mapping[OptimizerName, float] = {"muon": 5e-3, "adamw": 1e-3, "lion": 2e-4}
# Weights times tokens that `auto` will spend on learning: minutes on two cores, or on one GPU.
AFFORDABLE = {"cpu": 2e12, "cuda": 1e15}
MAX_PASSES = 4.0  # over the text that is trained on

_part_seed = partial(seed_option, recorded=False)  # the plan that holds this one records it
training_option = partial(option, panel=TRAINING)
_precision = partial(
    training_option,
    None,
    "bf16 trains in bfloat16 where that is safe; by default as accelerate was launched.",
    name="--mixed-precision",
)


@dataclass(frozen=True)
class PathTraining:
    """How a path is trained: at t in `span`, None for what suits the path. `optimizer`, `lr` and `weight_decay` are for
    the bends.

    A step reads `batch` blocks over all processes, in `accumulate` micro-batches. `lr` None takes `LEARNING_RATES`,
    `precision` None what accelerate was launched with. Training stops when the height of the path on the select text
    has not fallen in `patience` evaluations, whatever it was at the start.
    """

    steps: int = training_option(300, "Training steps.", minimum=1)
    batch: int = training_option(32, "Blocks of text per step, over all processes.", minimum=1)
    accumulate: int = training_option(1, "Micro-batches per step, each at its own t.", minimum=1)
    optimizer: OptimizerName = "adamw"
    lr: float | None = training_option(
        None, "Peak learning rate; each optimizer has its own default.", name="--bend-lr"
    )
    weight_decay: float = training_option(
        0.2,
        "Decoupled weight decay; without it, training inflates the spectrum.",
        minimum=0.0,
        name="--bend-weight-decay",
    )
    precision: Precision | None = _precision()
    patience: int = 6
    span: tuple[float, float] | None = None
    seed: int = _part_seed()

    def tokens(self, labels: int, context: int) -> int:
        """The tokens of every label that training reads, blocks of `context` each."""
        return -(-self.steps * self.batch // max(1, labels)) * context

    @property
    def peak(self) -> float:
        """The highest learning rate."""
        return self.lr or LEARNING_RATES[self.optimizer]


@dataclass(frozen=True)
class LearnPlan:
    """How an alignment is learned, along a straight line or for the averages of more models; `batch` blocks a step,
    over all processes.
    """

    steps: int = training_option(1000, "Steps of a learned alignment.", minimum=1, name="--align-steps")
    batch: int = training_option(8, "Blocks of text per step of a learned alignment.", minimum=1, name="--align-batch")
    precision: Precision | None = _precision()
    seed: int = _part_seed()

    def __post_init__(self) -> None:
        refuse({"--align-steps and --align-batch are at least 1": min(self.steps, self.batch) < 1})

    @property
    def training(self) -> PathTraining:
        """The settings of the run."""
        return PathTraining(self.steps, self.batch, precision=self.precision, span=(0.3, 0.7), seed=self.seed)

    def affordable(self, weights: int, context: int, device: str) -> bool:
        """Whether `auto` may spend this much on a model of this many weights."""
        return weights * self.steps * self.batch * context <= AFFORDABLE[device.partition(":")[0]]


@dataclass(frozen=True)
class CurvePlan:
    """A curve to be trained: its kind, the number of bends, and how.

    `optimizer` ``auto`` is the one that trained both endpoints, where it is known and one of these, else AdamW
    (`for_endpoints`). The bends start on the straight line, at `start` ``restored`` with the endpoints' singular values
    put back (`isthmus.merge.spectra.restored_spectrum`).
    """

    kind: CurveKind = training_option(
        "polychain",
        "Straight segments through the bends, or a smooth curve towards them.",
        name="--path",
        recorded=False,
    )
    bends: int = training_option(1, "Bends of a curved path.", minimum=1)
    optimizer: Literal["auto"] | OptimizerName = training_option(
        "auto", "auto: the one that trained both models, where that is known, else adamw.", name="--bend-optimizer"
    )
    start: Literal["midpoint", "restored"] = training_option(
        "restored",
        "Where bends start on the straight line: as they are, or with the singular values put back.",
        name="--bend-start",
    )
    training: PathTraining = field(default_factory=PathTraining)

    def __post_init__(self) -> None:
        settings, lr = self.training, self.training.lr
        sizes = settings.steps, settings.batch, settings.accumulate
        refuse(
            {
                f"a {self.kind} has at least one bend; got --bends {self.bends}": self.bends < 1,
                "--steps, --batch and --accumulate are at least 1": min(sizes) < 1,
                f"--bend-lr is above 0; got {lr or 0.0:g}": lr is not None and not lr > 0,
            }
        )
        require_number("--bend-lr", lr)
        require_number("--bend-weight-decay", settings.weight_decay)

    def for_endpoints(self, optimizers: Sequence[str | None]) -> CurvePlan:
        """The plan with its optimizer settled for endpoints that these trained (None for unknown)."""
        if self.optimizer != "auto":
            return self
        shared = optimizers[0] if len(set(optimizers)) == 1 else None
        names: dict[str | None, OptimizerName] = {name: name for name in get_args(OptimizerName)}
        return replace(self, optimizer=names.get(shared, "adamw"))
