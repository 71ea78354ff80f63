"""What can be asked of a merge: every choice with its default and its option, stated once.

The command line takes its options from here (`Option`), the pipeline its settings, the report its record, and the
command that makes a merge again its words. Nothing here imports torch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from ..align.methods import LOOKING, Method
from ..checkpoint.errors import BadInput, GateRefused, NotFinite
from .common_options import (
    context_option,
    data_option,
    device_option,
    seed_option,
    task_path_option,
    tasks_option,
    tokens_option,
)
from .options import ALIGNMENT, GATES, MEMBERS, OPERATORS, PATH, RUNNING, SPECTRUM, TEXT, TRAINING, option

if TYPE_CHECKING:
    from ..eval.spectrum import SpectrumReport

Align = Literal["auto"] | Method
CurveKind = Literal["polychain", "bezier"]
OptimizerName = Literal["adamw", "muon", "lion"]
Precision = Literal["no", "bf16"]
Objective = Literal["mean", "worst", "task"]
Soup = Literal["uniform", "greedy", "search"]
SearchMethod = Literal["coordinate", "gradient", "cma"]
Granularity = Literal["model", "layer", "matrix"]
Dtype = Literal["float32", "float16", "bfloat16"]

CURVES: tuple[CurveKind, ...] = get_args(CurveKind)
LEARNING_RATES: Mapping[OptimizerName, float] = {"muon": 5e-3, "adamw": 1e-3, "lion": 2e-4}
# Weights times tokens that `auto` will spend on learning: minutes on two cores, or on one GPU.
AFFORDABLE = {"cpu": 2e12, "cuda": 1e15}
SEARCHES: tuple[SearchMethod, ...] = get_args(SearchMethod)
LEAST_EVALUATIONS = 6  # of a search by evolution
MAX_PASSES = 4.0  # over the text that is trained on


def read_point(word: str) -> float | None:
    """What `--t` says: a number, or None for auto. Raises BadInput for anything else."""
    if word == "auto":
        return None
    try:
        return float(word)
    except ValueError:
        raise BadInput(f"--t takes auto or a number from 0 to 1; got '{word}'") from None


def read_rank(word: str | None) -> int | Literal["exact"] | None:
    """What `--as-lora` says: a rank, or ``exact``; None where it is not given. Raises BadInput for anything else."""
    if word is None:
        return None
    if word == "exact":
        return "exact"
    if not word.isdecimal() or int(word) < 1:
        raise BadInput(f"--as-lora takes a rank, 1 or more, or exact; got '{word}'")
    return int(word)


def read_path(word: str, curve: Callable[[], CurvePlan]) -> Literal["linear"] | CurvePlan | Path:
    """What `--path` says: the straight line, a curve to be trained, or the directory of one that was.

    Raises BadInput for anything else.
    """
    if word == "linear":
        return "linear"
    if word in CURVES:
        return curve()
    if not Path(word).is_dir():
        raise BadInput(f"--path {word}: give linear, {', '.join(CURVES)}, or a directory that `isthmus path` wrote")
    return Path(word)


def read_search(word: str | None, plan: Callable[[], SearchPlan]) -> SearchPlan | None:
    """What `--search` says: how weights are searched for; None where it is not given. Raises BadInput for others."""
    if word is None:
        return None
    if word not in SEARCHES:
        raise BadInput(f"--search takes {', '.join(SEARCHES)}; got '{word}'")
    return plan()


def read_gradients(option: str, words: Sequence[str]) -> tuple[tuple[float, ...], ...]:
    """What an option that is given once for all models or once for each says: a number, or several with commas."""
    return tuple(_gradient(option, word) for word in words)


def _gradient(option: str, word: str) -> tuple[float, ...]:
    try:
        return tuple(map(float, word.split(",")))
    except ValueError:
        raise BadInput(f"{option} takes a number, or a gradient of numbers with commas; got '{word}'") from None


def read_parameters(words: Sequence[str]) -> tuple[tuple[str, tuple[float | bool, ...]], ...]:
    """What `--parameter` says: names of parameters, and a value, or a gradient of several with commas, of each."""
    given = [_parameter(word) for word in words]
    names = [name for name, _ in given]
    twice = next((name for name in names if names.count(name) > 1), None)
    refuse({f"--parameter {twice} is given twice: leave one out": twice is not None})
    return tuple(given)


def _parameter(word: str) -> tuple[str, tuple[float | bool, ...]]:
    name, _, values = word.partition("=")
    flags = {"true": True, "false": False}
    try:
        return name, tuple(flags[value] if value in flags else float(value) for value in values.split(","))
    except ValueError:
        raise BadInput(f"--parameter takes name=value, a number, true or false; got '{word}'") from None


# Fields of several plans.
_part_seed = partial(seed_option, recorded=False)  # the plan that holds this one records it
_training = partial(option, panel=TRAINING)
_precision = partial(
    _training,
    None,
    "bf16 trains in bfloat16 where that is safe; by default as accelerate was launched.",
    name="--mixed-precision",
)
_spectrum = partial(option, panel=SPECTRUM)
_gate = partial(option, panel=GATES, recorded=False)
_operator = partial(option, panel=OPERATORS)


@dataclass(frozen=True)
class LearnPlan:
    """How an alignment is learned, along a straight line or for the averages of more models; `batch` blocks a step,
    over all processes.
    """

    steps: int = _training(1000, "Steps of a learned alignment.", minimum=1, name="--align-steps")
    batch: int = _training(8, "Blocks of text per step of a learned alignment.", minimum=1, name="--align-batch")
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
class PathTraining:
    """How a path is trained: at t in `span`, None for what suits the path. `optimizer`, `lr` and `weight_decay` are for
    the bends.

    A step reads `batch` blocks over all processes, in `accumulate` micro-batches. `lr` None takes `LEARNING_RATES`,
    `precision` None what accelerate was launched with. Training stops when the height of the path on the select text
    has not fallen in `patience` evaluations.
    """

    steps: int = _training(300, "Training steps.", minimum=1)
    batch: int = _training(32, "Blocks of text per step, over all processes.", minimum=1)
    accumulate: int = _training(1, "Micro-batches per step, each at its own t.", minimum=1)
    optimizer: OptimizerName = "adamw"
    lr: float | None = _training(None, "Peak learning rate; each optimizer has its own default.", name="--bend-lr")
    weight_decay: float = _training(
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
class CurvePlan:
    """A curve to be trained: its kind, the number of bends, and how.

    `optimizer` ``auto`` is the one that trained both endpoints, where it is known and one of these, else AdamW
    (`for_endpoints`). The bends start on the straight line, at `start` ``restored`` with the endpoints' singular values
    put back (`isthmus.merge.spectra.restore_spectrum`).
    """

    kind: CurveKind = _training(
        "polychain",
        "Straight segments through the bends, or a smooth curve towards them.",
        name="--path",
        recorded=False,
    )
    bends: int = _training(1, "Bends of a curved path.", minimum=1)
    optimizer: Literal["auto"] | OptimizerName = _training(
        "auto", "auto: the one that trained both models, where that is known, else adamw.", name="--bend-optimizer"
    )
    start: Literal["midpoint", "restored"] = _training(
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


@dataclass(frozen=True)
class SearchPlan:
    """How weights of an operator are searched for, and for what: whole models, layers, or matrices of them.

    ``coordinate`` moves the weights of one model after the other, ``gradient`` learns them from the loss on the fit
    text, `steps` times on `batch` blocks; ``cma`` is evolution, and tries `evaluations` weights. All of them choose on
    the select text.
    """

    method: SearchMethod = _operator("coordinate", "How weights are searched for.", name="--search", recorded=False)
    granularity: Granularity = _operator(
        "model", "What has weights of its own, for gradient and cma: model, layer or matrix."
    )
    evaluations: int = _operator(200, "Weights that --search cma tries at most.", minimum=LEAST_EVALUATIONS)
    steps: int = 40
    batch: int = 16

    def tokens(self, context: int) -> int:
        """The tokens of every label that weights are learned from, blocks of `context` each: as many as the whole run
        reads, so that what is drawn comes from many documents.
        """
        return self.steps * self.batch * context

    def __post_init__(self) -> None:
        whole, evolves = self.granularity == "model", self.method == "cma"
        refuse(
            {
                f"a search is one of {', '.join(SEARCHES)}; got {self.method!r}": self.method not in SEARCHES,
                f"granularity is one of {', '.join(get_args(Granularity))}; got {self.granularity!r}": (
                    self.granularity not in get_args(Granularity)
                ),
                f"--search coordinate is for the weights of whole models: take gradient or cma for --granularity "
                f"{self.granularity}": self.method == "coordinate" and not whole,
                f"--search cma tries {LEAST_EVALUATIONS} weights at least; got --evaluations {self.evaluations}": (
                    evolves and self.evaluations < LEAST_EVALUATIONS
                ),
                "the steps and the batch of a search are at least 1": min(self.steps, self.batch) < 1,
                "--search cma needs the package cma: pip install 'isthmus[search]'": (
                    evolves and find_spec("cma") is None
                ),
            }
        )


@dataclass(frozen=True)
class SpectrumPlan:
    """Whether the spectrum is measured, or restored; from which excess on, in nats, it is no longer preserved.

    `measure` None measures it unless the merge is a plain average without text. `restore` puts the singular values of
    the merge to the point between its endpoints', where the loss on the select text does not rise by it.
    """

    measure: bool | None = _spectrum(
        None,
        "Measure the spectrum. Default: yes, except for a plain average without --data.",
        name="--spectrum/--no-spectrum",
    )
    restore: bool = _spectrum(
        False,
        "Put the merge's singular values between the endpoints', unless the loss rises by it.",
        name="--restore-spectrum",
    )
    max_excess: float = _spectrum(
        0.1, "Highest spectral excess, in nats, that is preserved; 0.4 of it is a transition."
    )
    same_kind: float = _spectrum(0.2, "Endpoints closer than this, in nats, share a kind of spectrum.")

    def __post_init__(self) -> None:
        require_number("--max-excess", self.max_excess)
        require_number("--same-kind", self.same_kind)


@dataclass(frozen=True)
class Gates:
    """What a merge must satisfy to be saved. `None` and False ask for nothing."""

    max_barrier: float | None = _gate(None, "Refuse a higher barrier, in nats, on any text.")
    require_spectrum: bool = _gate(False, "Refuse a contracted or inflated spectrum.")
    require_gain: bool = _gate(False, "Refuse a merge worse than the better endpoint.")
    require_task: Sequence[str] = _gate((), "Refuse a lower score on a task: NAME>=0.6, or NAME>=60%. Repeatable.")

    def __post_init__(self) -> None:
        require_number("--max-barrier", self.max_barrier)

    @property
    def need_loss(self) -> bool:
        """Whether any of them can only be judged on text."""
        return self.max_barrier is not None or self.require_gain

    def pass_loss(self, losses: Mapping[str, Any]) -> None:
        """Judge `barrier` and `merge_point` of a report: neither the path nor the merge itself may lie higher.

        Raises NotFinite, whatever the gates, where a loss is NaN or Inf; GateRefused.
        """
        from ..checkpoint.finite import place_of_nan

        place = place_of_nan(losses)
        if place is not None:
            raise NotFinite(
                f"'{place}' is NaN or Inf on the report text, so nothing is saved: check the models, or take other "
                "parameters"
            )
        point = losses["merge_point"]
        heights = [("barrier", losses["barrier"]), ("excess loss of the merge", point["excess"])]
        heights += [(f"barrier on the text '{label}'", height) for label, height in losses.get("barriers", {}).items()]
        heights += [(f"barrier on other text, '{row['label']}',", row["barrier"]) for row in losses["probe"]]
        for what, height in heights:
            if self.max_barrier is not None and not height <= self.max_barrier:
                raise GateRefused(
                    f"refused: the {what} is {height:.3f} nats, above --max-barrier {self.max_barrier:g}; "
                    "nothing was saved"
                )
        gains = [("", point["gain"], point["gain_stderr"], point["gain"] > 0)]
        for row in losses["probe"]:
            gain, error = row["gain"], row["gain_stderr"]
            fitted = row["barrier_without_fitting"] is not None
            gains.append((f" on other text, '{row['label']}',", gain, error, not fitted or gain > -2 * error))
        for where, gain, error, passes in gains:
            if self.require_gain and not passes:
                raise GateRefused(
                    f"refused: the merge is worse than the better endpoint{where} by {-gain:.3f} ± {error:.3f} nats "
                    "(--require-gain); nothing was saved"
                )

    def pass_spectrum(self, verdict: SpectrumReport) -> None:
        """Judge a spectrum. Raises GateRefused when it is contracted or inflated."""
        if self.require_spectrum and verdict.verdict in ("contracted", "inflated"):
            raise GateRefused(
                f"refused: the spectrum is {verdict.verdict} (excess {verdict.excess:.3f} nats, at most "
                f"{verdict.limit:g}; --require-spectrum); nothing was saved"
            )


@dataclass(frozen=True)
class MergePlan:
    """What is asked of a merge of two models along a path, or of any number by an operator.

    `data` are corpora as `--data` takes them (`isthmus.eval.text.corpus`); each gives `tokens` tokens to select on and
    as many to report on; those of the labels `report_on` only report. Without them, a curve or a ``learned`` alignment
    is fitted to text that the two models write; else no loss is measured, and `t` and `align` have to be given.

    **Alignment.** ``auto`` goes from ``none`` over ``orthogonal`` and ``combined`` to ``learned`` (two models on a
    straight line), takes what lowers the barrier by more than the noise, and stops where the barrier is within it;
    before a curve it stops after ``orthogonal``, and it does not learn where the model is too large
    (`LearnPlan.affordable`). ``learned`` that is asked for is for any number of models. None is ``auto`` for two models
    and, with text, for more; else ``none``. With a `budget` above 1, neurons that fit badly stay twice, and the MLPs of
    the merge are that much wider (`isthmus.align.width`).

    `refit` fits the maps of an average that write to the residual stream by least squares, to what the models write
    there (`isthmus.merge.refit`), where the loss on the select text falls by it.

    **Two models** are merged at a point of `path`: the straight line, a curve to be trained on the fit text of the
    labels `fit_on` (by default all but `report_on`), or the directory of a path that was saved. `t` None is the t in
    [interior, 1 − interior] with the lowest `objective` on the select text. `optimizers` are those that trained A and
    B, where the user knows better than their files and weights tell.

    **By an operator**, `soup` says where weights come from: the recipe (``uniform``), or a ``greedy`` choice of models
    on the select text; or they are searched for, as `search` says (``search`` is the older word for ``coordinate``).
    `max_memory`, a size such as ``6GB``, is for models larger than memory: they are merged from disk to disk and
    measured from there.

    `dtype` is what the result is saved in: by default the recipe's, else the models' own when they share one, else
    float32. `vocabulary` brings models with tokens of their own to one vocabulary. With `as_lora`, a rank, the merge is
    saved as an adapter of the base that the models share or that the operator has; ``exact`` is the lowest rank that
    loses nothing but rounding. `tasks`, of the harness's own or of `task_path`, are run on all models and on the merge;
    with the `objective` ``task``, t or weights are chosen on one half of their documents, and the other is reported.
    `head` is the letter of the classifier whose head is taken, None where heads are merged.
    """

    data: Sequence[str] = data_option(shown_default="what the models write, for curves and --align learned")
    tasks: Sequence[str] = tasks_option()
    task_path: Sequence[str] = task_path_option()
    learn: LearnPlan = field(default_factory=LearnPlan)
    path: Literal["linear"] | CurvePlan | Path = option(
        "linear",
        "linear, polychain or bezier; or a directory that `isthmus path` wrote, for these two models. Of three or "
        "more, polychain trains one centre for all.",
        PATH,
        read=read_path,
        recorded=False,
    )
    align: Align | None = option(
        None,
        "auto tries none, orthogonal, combined and (two models) learned in turn, until the barrier is within the "
        "noise.",
        ALIGNMENT,
        shown_default="auto; none for a recipe, and for a method without --data",
    )
    budget: float = option(
        1.0,
        "Let the MLPs of the merge have this many times the neurons, so that pairs that fit badly stay twice: 1 to 2.",
        ALIGNMENT,
    )
    refit: bool = option(
        False,
        "Fit the maps that write to the residual stream by least squares, to what the models write there on average, "
        "unless the loss rises by it.",
        ALIGNMENT,
    )
    soup: Soup = "uniform"
    search: SearchPlan | None = _operator(
        None,
        "Search for weights: coordinate, gradient (on the fit text) or cma; coordinate where no word follows.",
        read=read_search,
        recorded=False,
    )
    t: float | None = option(
        None, "The merge point: auto, or a number from 0 (A) to 1 (B).", PATH, unset="auto", read=read_point
    )
    objective: Objective = option(
        "mean",
        "What t is chosen by: the mean loss over texts, the worst text's excess, or the score on half of the tasks; "
        "weights by the mean or by tasks.",
        PATH,
    )
    interior: float = option(0.1, "Keep t this far from both ends.", PATH)
    fit_on: Sequence[str] = _training((), "Train on the text of this label only. Repeatable.")
    report_on: Sequence[str] = option(
        (), "Only report on the text of this label: nothing is fitted to it or chosen on it. Repeatable.", TEXT
    )
    spectrum: SpectrumPlan = field(default_factory=SpectrumPlan)
    tokens: int = tokens_option()
    context: int = context_option()
    dtype: Dtype | None = option(
        None, "What to save in; auto keeps the models' when they share one.", RUNNING, unset="auto"
    )
    vocabulary: Literal["union", "base", "A", "transplant"] | None = option(
        None,
        "One vocabulary for models with tokens of their own: the union of all, or that of the base or of A; transplant "
        "gives models of other tokenizers that of the first.",
        RUNNING,
    )
    as_lora: int | Literal["exact"] | None = option(
        None,
        "Save the merge as an adapter (LoRA) of the models' base, of this rank; exact: the lowest that loses nothing.",
        RUNNING,
        read=read_rank,
    )
    head: str | None = option(
        None,
        "Of classifiers whose labels differ: all take the head of this one (A, B, ...), and the rest is merged.",
        RUNNING,
    )
    seed: int = seed_option()
    max_memory: str | None = _operator(
        None, "For models larger than memory: measure them with this much of one in memory (6GB), the rest from disk."
    )
    optimizers: tuple[str | None, str | None] = (None, None)
    gates: Gates = field(default_factory=Gates)
    device: str = device_option()

    @property
    def alignment(self) -> Align:
        """The alignment that is asked for, once `open_job` has settled it."""
        return self.align or "auto"

    @property
    def weight_search(self) -> SearchPlan | None:
        """How weights are searched for; None where they are given, or chosen greedily."""
        return SearchPlan() if self.search is None and self.soup == "search" else self.search

    @property
    def chooses_weights(self) -> bool:
        """Whether weights are chosen on text."""
        return self.soup != "uniform" or self.search is not None

    @property
    def choice_of_weights(self) -> str:
        """How weights are chosen, in words."""
        return f"--search {self.search.method}" if self.search is not None else f"a {self.soup} soup"

    @property
    def wants_spectrum(self) -> bool:
        """Whether a spectrum is asked for."""
        return bool(self.spectrum.measure) or self.gates.require_spectrum

    @property
    def is_plain(self) -> bool:
        """Whether weights are averaged, and nothing is measured."""
        return (
            not self.data
            and self.alignment == "none"
            and self.path == "linear"
            and not self.wants_spectrum
            and self.budget == 1
        )

    @property
    def writes_text(self) -> bool:
        """Whether two models write the text themselves: bends and learned alignments take some, and none is given."""
        return not self.data and (isinstance(self.path, CurvePlan) or self.learns_on_line)

    @property
    def learns_on_line(self) -> bool:
        """Whether an alignment may be learned for a straight line; only with text where that is not asked for."""
        chosen = self.alignment == "learned" or (self.alignment == "auto" and bool(self.data))
        return self.path == "linear" and chosen

    @property
    def trains(self) -> bool:
        """Whether bends or an alignment may be trained."""
        return isinstance(self.path, CurvePlan) or self.learns_on_line


@dataclass(frozen=True)
class OperatorPlan:
    """An operator for any number of models, as options give it, for `isthmus.merge.recipes.recipe.recipe`.

    `weights` and `densities` are given once for all models or once for each, a number or a gradient over the layers.
    `last` takes only the last checkpoints of a run.
    """

    method: str | None = _operator(
        None, "Merge by an operator instead of a path; linear for more than two models.", shown_default="linear"
    )
    base: str | None = _operator(None, "The model that the others were trained from.")
    weights: Sequence[Sequence[float]] = _operator(
        (),
        "A model's weight, once for all or once for each: a number, or a gradient over the layers (0,0.5,1).",
        name="--weight",
        read=partial(read_gradients, "--weight"),
    )
    densities: Sequence[Sequence[float]] = _operator(
        (),
        "The share of a task vector that ties, dare, della and breadcrumbs keep, as --weight.",
        name="--density",
        read=partial(read_gradients, "--density"),
    )
    scale: float | None = _operator(None, "What merged task vectors are multiplied by.", name="--lambda")
    parameters: Sequence[tuple[str, tuple[Any, ...]]] = _operator(
        (),
        "Another parameter of the method, by its name in recipes: gamma=0.02. Repeatable.",
        name="--parameter",
        read=read_parameters,
    )
    soup: Soup = _operator(
        "uniform", "greedy leaves out models that do not lower the loss; search is --search coordinate."
    )
    last: int | None = _operator(
        None, "Of the checkpoints of a run, only this many: those with the highest numbers in their names.", minimum=1
    )


@dataclass(frozen=True)
class AlignPlan:
    """How B is moved next to A, and saved; ``activations``, ``combined`` and ``learned`` look at text, `data`.

    With `stream`, for models larger than memory, layers are read when it is their turn (``permutation`` and
    ``orthogonal``). `dtype` None is B's own.
    """

    method: Literal["permutation", "orthogonal", "activations", "combined", "learned"] = option(
        "orthogonal",
        "permutation keeps tied embeddings; orthogonal also rotates; activations, combined and learned look at "
        "--data, too.",
        ALIGNMENT,
    )
    data: Sequence[str] = data_option()
    learn: LearnPlan = field(default_factory=LearnPlan)
    context: int = context_option()
    stream: bool = option(False, "For models larger than memory: read layers when it is their turn.", RUNNING)
    dtype: Dtype | None = option(None, "What to save in; auto keeps B's.", RUNNING, unset="auto")
    device: str = device_option()
    seed: int = seed_option()

    @property
    def needs_text(self) -> bool:
        """Whether the method looks at text."""
        return self.method == "learned" or self.method in LOOKING


@dataclass(frozen=True)
class PlanePlan:
    """The loss on the plane through three models, B and C aligned to A: `tokens` of every text at `resolution`²
    points.
    """

    data: Sequence[str] = data_option()
    align: Literal["none", "permutation", "orthogonal"] = option(
        "orthogonal", "How B and C are aligned to A.", ALIGNMENT
    )
    tokens: int = option(2048, "Tokens of each text to measure on.", TEXT, minimum=1)
    context: int = context_option()
    resolution: int = option(13, "Points along each side.", minimum=2)
    device: str = device_option()
    seed: int = seed_option()


@dataclass(frozen=True)
class EnsemblePlan:
    """Members of an ensemble beside their soup and their best weighted average, on the report text.

    `path` is the directory of a path between the first two models, whose points `at` are members, too. `tasks`, of the
    harness's own or of `task_path`, are run on all of them.
    """

    data: Sequence[str] = data_option()
    path: Path | None = option(None, "A path between the first two, as `isthmus path` wrote it.", MEMBERS)
    at: Sequence[float] = option((), "A point of the path that is a member, too. Repeatable.", MEMBERS)
    average: Literal["probabilities", "logits"] = option(
        "probabilities", "What is averaged; logits are the geometric mean.", MEMBERS
    )
    align: Literal["auto", "none", "permutation", "orthogonal", "activations", "combined"] = option(
        "auto", "How the models are aligned for their soup and their merge.", ALIGNMENT
    )
    tokens: int = tokens_option()
    context: int = context_option()
    device: str = device_option()
    seed: int = seed_option()
    tasks: Sequence[str] = tasks_option()
    task_path: Sequence[str] = task_path_option()


@dataclass(frozen=True)
class ExplainPlan:
    """Why a merge is what it is: with `data`, which layers and parts cost loss when they alone are a parent's, selected
    on `tokens` of every text and reported on as many.
    """

    data: Sequence[str] = data_option()
    tokens: int = tokens_option()
    context: int = context_option()
    device: str = device_option()
    seed: int = seed_option()


def refuse(rules: Mapping[str, bool]) -> None:
    """Raise BadInput with the first sentence that applies."""
    for sentence, applies in rules.items():
        if applies:
            raise BadInput(sentence)


def require_number(name: str, value: float | None) -> None:
    """Raise BadInput for an option whose value is NaN or Inf; None is an option that was not given."""
    if value is not None and not math.isfinite(value):
        raise BadInput(f"{name} takes a finite number; got {value}")


@dataclass(frozen=True)
class ExtractPlan:
    """A fine-tune as an adapter of its base: of one `rank`, or of the ranks that keep a share `energy` of the squared
    norm of every matrix's difference. `data`, `tokens` and `context` are as for a merge: what the adapter loses.
    """

    rank: int | None = option(None, "One rank for all matrices.", minimum=1)
    energy: float = option(
        0.99,
        "Share of the squared norm of every matrix's difference to keep, by the lowest rank that does.",
        minimum=0.0,
    )
    data: Sequence[str] = data_option()
    tokens: int = option(8192, "Tokens of each text to measure on.", TEXT, minimum=1)
    context: int = context_option()
    device: str = device_option()
    seed: int = seed_option()

    def __post_init__(self) -> None:
        require_number("--energy", self.energy)
        refuse(
            {
                f"--energy is a share, above 0 and at most 1; got {self.energy:g}": not 0 < self.energy <= 1,
                f"--rank is 1 or more; got {self.rank}": self.rank is not None and self.rank < 1,
            }
        )
