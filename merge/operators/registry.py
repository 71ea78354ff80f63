"""Operators by name: what each takes, and how many models."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import combinations
from typing import Any, Literal

import torch
from torch import Tensor

from ...checkpoint.errors import BadInput
from .averages import fisher, linear, model_stock, passthrough, regmean
from .pruning import breadcrumbs, breadcrumbs_ties, della, della_linear
from .selection import arcee_fusion, nearswap, ram, ramplus_tl, sce
from .slopes import SLOPES
from .sphere import karcher, multislerp, nuslerp, slerp
from .task_vectors import dare_linear, dare_ties, task_arithmetic, ties

Value = float | bool


@dataclass(frozen=True)
class Parameter:
    """One parameter of an operator, and the `argument` that it becomes: with `each`, a list with one value per model.

    A parameter whose `default` is None is required. Values lie between `lowest` and `highest`; flags are bool.
    """

    argument: str
    default: Value | None = None
    each: bool = False
    lowest: float = float("-inf")
    highest: float = float("inf")

    @property
    def kind(self) -> type:
        """The type of its values: bool, int or float."""
        return type(self.default) if isinstance(self.default, (bool, int)) else float

    def require(self, name: str, value: object) -> Value:
        """The value, converted. Raises BadInput for another type, and for one outside the bounds."""
        if self.kind is bool:
            if not isinstance(value, bool):
                raise BadInput(f"{name} is true or false; got {value!r}")
            return value
        if isinstance(value, str):
            with suppress(ValueError):
                value = float(value)  # YAML reads 1e-5 as text
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise BadInput(f"{name} is a number; got {value!r}")
        if not abs(value) <= sys.float_info.max:  # of NaN and of integers, too
            raise BadInput(f"{name} is a finite number; got {value if isinstance(value, float) else 'a larger one'}")
        if not self.lowest <= value <= self.highest:
            raise BadInput(f"{name} is {_bounds(self.lowest, self.highest)}; got {value:g}")
        return int(value) if self.kind is int else float(value)


def _bounds(lowest: float, highest: float) -> str:
    return f"from {lowest:g} to {highest:g}" if highest < float("inf") else f"at least {lowest:g}"


@dataclass(frozen=True)
class Operator:
    """An operator: `run` takes blocks (the base first, if it `needs_base`) and its parameters as keywords.

    It merges `least` to `most` models, not counting the base. One whose base is `optional` becomes one that needs it
    (`with_base`), and is told so (`based`). One that `divides` divides weights by their sum whatever is asked for. One
    that is `random` also takes a `key`. `knows` names the statistics of every model on text that it needs: the Fisher
    information, as blocks after those of the models, or the moments of the inputs of linear maps, as `grams` and their
    `axis`.
    """

    name: str
    run: Callable[..., Iterator[Tensor]]
    parameters: Mapping[str, Parameter]
    needs_base: bool = False
    least: int = 1
    most: int | None = None
    random: bool = False
    knows: Literal["fisher", "inputs"] | None = None
    optional: bool = False
    divides: bool = False

    def with_base(self) -> Operator:
        """The operator with a base, where it may have one."""
        return replace(self, needs_base=True, run=partial(self.run, based=True)) if self.optional else self

    @property
    def slopes(self) -> Callable[..., Iterator[list[Tensor]]] | None:
        """What takes what `run` takes, and yields for every block its derivatives by the weight of every model."""
        return SLOPES.get(self.name)

    @property
    def is_weighed(self) -> bool:
        """Whether the models have weights that can be searched for: ``weight``, or ``t``, that of the second of two."""
        return "weight" in self.parameters or ("t" in self.parameters and self.least > 1)

    def require_count(self, models: int) -> None:
        """Raise BadInput for a number of models, without the base, that it does not take."""
        if models < self.least or (self.most is not None and models > self.most):
            several = f"{self.least}" if self.most == self.least else f"at least {self.least}"
            beside = " beside the base" if self.needs_base else ""
            plural = "s" * (self.least != 1)
            raise BadInput(f"{self.name} merges {several} model{plural}{beside}; got {models}")

    def require_values(self, values: Mapping[str, Any], tensor: str) -> None:
        """Raise BadInput for parameters of a `tensor` that make no sense together: probabilities beyond 0 and 1, and
        weights that leave nothing of the models, or only rounding errors.

        Those are weights that cancel where the operator divides by their sum, and weights that are all 0 where there is
        no base to add to.
        """
        for density, epsilon in zip(values.get("density", ()), _listed(values.get("epsilon")), strict=False):
            if 0 < density < 1 and not epsilon < min(density, 1 - density):
                raise BadInput(
                    f"{self.name} keeps entries of '{tensor}' with probabilities from density - epsilon to density + "
                    f"epsilon, which must lie between 0 and 1; got {density:g} and {epsilon:g}"
                )
        weights = values.get("weight")
        if weights is None:
            return
        shown = ", ".join(f"{weight:g}" for weight in weights)
        size = sum(map(abs, weights))
        if size == 0 and not self.needs_base:
            raise BadInput(f"the weights of {self.name} for '{tensor}' are all 0: give one of the models some weight")
        if not size <= LARGEST_WEIGHTS:
            raise BadInput(
                f"the weights {shown} of {self.name} for '{tensor}' are so large that their sum overflows: give "
                "smaller ones"
            )
        divides = self.divides or self.knows or values.get("normalize") or values.get("normalize_weights")
        if size and divides and _cancel(weights, subsets=self.name in ELECTING):
            raise BadInput(
                f"the weights {shown} of {self.name} for '{tensor}' cancel, and it divides by their sum: give weights "
                "that do not"
            )

    def arguments(self, values: Mapping[str, Any], key: str) -> dict[str, Any]:
        """The keywords of `run` from values by parameter name."""
        named = {parameter.argument: values[name] for name, parameter in self.parameters.items()}
        return named | ({"key": key} if self.random else {})


def _listed(values: Any) -> Sequence[float]:
    """The values of a parameter with one for each model; none of one that is shared."""
    return values if isinstance(values, list) else ()


def _cancel(weights: Sequence[float], *, subsets: bool) -> bool:
    """Whether weights, or with `subsets` some of them, sum to less than `CANCELLED` of their size; subsets not to 0."""
    if abs(sum(weights)) < CANCELLED * sum(map(abs, weights)):
        return True
    if not subsets or min(weights) >= 0 or len(weights) > MOST_SUBSETS:
        return False
    parts = (part for size in range(2, len(weights)) for part in combinations(weights, size))
    return any(0 < abs(sum(part)) < CANCELLED * sum(map(abs, part)) for part in parts)


ELECTING = frozenset(
    {"ties", "dare_ties", "della", "breadcrumbs_ties"}
)  # divide by the weights of those models that agree in an entry
CANCELLED = 1e-3  # what is left of weights that cancel: their shares would be above a thousand
MOST_SUBSETS = 12  # the most models whose subsets are checked
LARGEST_WEIGHTS = torch.finfo(torch.float32).max
WEIGHT = Parameter("weights", each=True)
IMPORTANCE = Parameter("weights", each=True, lowest=0.0)  # multiplied by what is not negative
DENSITY = Parameter("densities", 1.0, each=True, lowest=0.0, highest=1.0)
SCALE = Parameter("scale", 1.0)
THRESHOLD = Parameter("threshold", 1e-5, lowest=0.0)


def _task_vectors(normalize: bool, rescale: bool | None) -> dict[str, Parameter]:
    parameters = {"weight": WEIGHT, "lambda": SCALE, "normalize": Parameter("normalize", normalize)}
    if rescale is not None:
        parameters |= {"density": DENSITY, "rescale": Parameter("rescale", rescale)}
    return parameters


EPSILON = {"epsilon": Parameter("epsilons", 0.15, each=True, lowest=0.0, highest=0.5)}
GAMMA = {"gamma": Parameter("gammas", 0.01, each=True, lowest=0.0, highest=1.0)}

OPERATORS = {
    operator.name: operator
    for operator in (
        Operator("linear", linear, {"weight": WEIGHT, "normalize": Parameter("normalize", True)}),
        Operator("passthrough", passthrough, {"scale": Parameter("factors", 1.0, each=True)}, most=1),
        Operator("slerp", slerp, {"t": Parameter("t", lowest=0.0, highest=1.0)}, least=2, most=2),
        Operator(
            "karcher",
            karcher,
            {"max_iter": Parameter("steps", 10, lowest=1), "tol": Parameter("tolerance", 1e-5, lowest=0.0)},
        ),
        Operator(
            "nuslerp",
            nuslerp,
            {
                "weight": WEIGHT,
                "nuslerp_flatten": Parameter("flatten", True),
                "nuslerp_row_wise": Parameter("first_axis", False),
            },
            least=2,
            most=2,
            optional=True,
            divides=True,
        ),
        Operator(
            "multislerp",
            multislerp,
            {
                "weight": WEIGHT,
                "normalize_weights": Parameter("normalize", True),
                "eps": Parameter("smallest", 1e-8, lowest=0.0),
            },
            optional=True,
        ),
        Operator("task_arithmetic", task_arithmetic, _task_vectors(False, None), needs_base=True),
        Operator("ties", ties, _task_vectors(True, False), needs_base=True),
        Operator(
            "dare_linear",
            dare_linear,
            _task_vectors(False, True),
            needs_base=True,
            random=True,
        ),
        Operator("dare_ties", dare_ties, _task_vectors(False, True), needs_base=True, random=True),
        Operator("della", della, _task_vectors(True, True) | EPSILON, needs_base=True, random=True),
        Operator("della_linear", della_linear, _task_vectors(False, True) | EPSILON, needs_base=True, random=True),
        Operator("breadcrumbs", breadcrumbs, _task_vectors(False, False) | GAMMA, needs_base=True),
        Operator("breadcrumbs_ties", breadcrumbs_ties, _task_vectors(False, False) | GAMMA, needs_base=True),
        Operator("sce", sce, {"select_topk": Parameter("share", 1.0, lowest=0.0, highest=1.0)}, needs_base=True),
        Operator("ram", ram, {"epsilon": THRESHOLD}, needs_base=True),
        Operator(
            "ramplus_tl",
            ramplus_tl,
            {
                "r": Parameter("rate", 0.1, lowest=0.0),
                "alpha": Parameter("limit", 0.2, lowest=0.0),
                "epsilon": THRESHOLD,
            },
            needs_base=True,
        ),
        Operator("nearswap", nearswap, {"t": Parameter("t", lowest=0.0)}, needs_base=True, most=1),
        Operator("arcee_fusion", arcee_fusion, {}, needs_base=True, most=1),
        Operator("model_stock", model_stock, {"filter_wise": Parameter("by_row", False)}, needs_base=True, least=2),
        Operator(
            "fisher",
            fisher,
            {"weight": IMPORTANCE, "floor": Parameter("floor", 1e-6, lowest=0.0)},
            knows="fisher",
        ),
        Operator(
            "regmean",
            regmean,
            {"weight": IMPORTANCE, "shrink": Parameter("shrink", 0.9, lowest=0.0, highest=1.0)},
            knows="inputs",
        ),
    )
}
