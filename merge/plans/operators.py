"""An operator for any number of models, and how its weights are searched for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from typing import Any, Literal, get_args

from ...checkpoint.errors import BadInput
from ..options import OPERATORS, option
from .refusals import refuse
from .words import read_gradients, read_parameters

Soup = Literal["uniform", "greedy", "search"]
SearchMethod = Literal["coordinate", "gradient", "cma"]
Granularity = Literal["model", "layer", "matrix"]
SEARCHES: tuple[SearchMethod, ...] = get_args(SearchMethod)
LEAST_EVALUATIONS = 6  # of a search by evolution

operator_option = partial(option, panel=OPERATORS)


@dataclass(frozen=True)
class SearchPlan:
    """How weights of an operator are searched for, and for what: whole models, layers, or matrices of them.

    ``coordinate`` moves the weights of one model after the other, ``gradient`` learns them from the loss on the fit
    text, `steps` times on `batch` blocks; ``cma`` is evolution, and tries `evaluations` weights. All of them choose on
    the select text.
    """

    method: SearchMethod = operator_option(
        "coordinate", "How weights are searched for.", name="--search", recorded=False
    )
    granularity: Granularity = operator_option(
        "model", "What has weights of its own, for gradient and cma: model, layer or matrix."
    )
    evaluations: int = operator_option(200, "Weights that --search cma tries at most.", minimum=LEAST_EVALUATIONS)
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
class OperatorPlan:
    """An operator for any number of models, as options give it, for `isthmus.merge.recipes.recipe.recipe`.

    `weights` and `densities` are given once for all models or once for each, a number or a gradient over the layers.
    `last` takes only the last checkpoints of a run.
    """

    method: str | None = operator_option(
        None, "Merge by an operator instead of a path; linear for more than two models.", shown_default="linear"
    )
    base: str | None = operator_option(None, "The model that the others were trained from.")
    weights: Sequence[Sequence[float]] = operator_option(
        (),
        "A model's weight, once for all or once for each: a number, or a gradient over the layers (0,0.5,1).",
        name="--weight",
        read=partial(read_gradients, "--weight"),
    )
    densities: Sequence[Sequence[float]] = operator_option(
        (),
        "The share of a task vector that ties, dare, della and breadcrumbs keep, as --weight.",
        name="--density",
        read=partial(read_gradients, "--density"),
    )
    scale: float | None = operator_option(None, "What merged task vectors are multiplied by.", name="--lambda")
    parameters: Sequence[tuple[str, tuple[Any, ...]]] = operator_option(
        (),
        "Another parameter of the method, by its name in recipes: gamma=0.02. Repeatable.",
        name="--parameter",
        read=read_parameters,
    )
    soup: Soup = operator_option(
        "uniform", "greedy leaves out models that do not lower the loss; search is --search coordinate."
    )
    last: int | None = operator_option(
        None, "Of the checkpoints of a run, only this many: those with the highest numbers in their names.", minimum=1
    )


def read_search(word: str | None, plan: Callable[[], SearchPlan]) -> SearchPlan | None:
    """What `--search` says: how weights are searched for; None where it is not given. Raises BadInput for others."""
    if word is None:
        return None
    if word not in SEARCHES:
        raise BadInput(f"--search takes {', '.join(SEARCHES)}; got '{word}'")
    return plan()
