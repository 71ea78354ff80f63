"""Operators by name: what each takes, and how many models."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Literal

import torch
from torch import Tensor

from ...checkpoint.errors import BadInput
from .averages import fisher, karcher, linear, model_stock, regmean, slerp
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

    It merges `least` to `most` models, not counting the base. One that is `random` also takes a `key`. `knows` names
    the statistics of every model on text that it needs: the Fisher information, as blocks after those of the models, or
    the moments of the inputs of linear maps, as `grams` and their `axis`.
    """

    name: str
    run: Callable[..., Iterator[Tensor]]
    parameters: Mapping[str, Parameter]
    needs_base: bool = False
    least: int = 1
    most: int | None = None
    random: bool = False
    knows: Literal["fisher", "inputs"] | None = None

    def require_count(self, models: int) -> None:
        """Raise BadInput for a number of models, without the base, that it does not take."""
        if models < self.least or (self.most is not None and models > self.most):
            several = f"{self.least}" if self.most == self.least else f"at least {self.least}"
            beside = " beside the base" if self.needs_base else ""
            raise BadInput(f"{self.name} merges {several} models{beside}; got {models}")

    def require_weights(self, values: Mapping[str, Any], tensor: str) -> None:
        """Raise BadInput for weights of a `tensor` that leave nothing of the models, or only rounding errors.

        These are weights that cancel where the operator divides by their sum, and weights that are all 0 where there is
        no base to add to.
        """
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
        if size and (self.knows or values.get("normalize")) and _cancel(weights, subsets=self.name in ELECTING):
            raise BadInput(
                f"the weights {shown} of {self.name} for '{tensor}' cancel, and it divides by their sum: give weights "
                "that do not"
            )

    def arguments(self, values: Mapping[str, Any], key: str) -> dict[str, Any]:
        """The keywords of `run` from values by parameter name."""
        named = {parameter.argument: values[name] for name, parameter in self.parameters.items()}
        return named | ({"key": key} if self.random else {})


def _cancel(weights: Sequence[float], *, subsets: bool) -> bool:
    """Whether weights, or with `subsets` some of them, sum to less than `CANCELLED` of their size; subsets not to 0."""
    if abs(sum(weights)) < CANCELLED * sum(map(abs, weights)):
        return True
    if not subsets or min(weights) >= 0 or len(weights) > MOST_SUBSETS:
        return False
    parts = (part for size in range(2, len(weights)) for part in combinations(weights, size))
    return any(0 < abs(sum(part)) < CANCELLED * sum(map(abs, part)) for part in parts)


ELECTING = frozenset({"ties", "dare_ties"})  # divide by the weights of those models that agree in an entry
CANCELLED = 1e-3  # what is left of weights that cancel: their shares would be above a thousand
MOST_SUBSETS = 12  # the most models whose subsets are checked
LARGEST_WEIGHTS = torch.finfo(torch.float32).max
WEIGHT = Parameter("weights", each=True)
IMPORTANCE = Parameter("weights", each=True, lowest=0.0)  # multiplied by what is not negative
DENSITY = Parameter("densities", 1.0, each=True, lowest=0.0, highest=1.0)
SCALE = Parameter("scale", 1.0)


def _task_vectors(normalize: bool, rescale: bool | None) -> dict[str, Parameter]:
    parameters = {"weight": WEIGHT, "lambda": SCALE, "normalize": Parameter("normalize", normalize)}
    if rescale is not None:
        parameters |= {"density": DENSITY, "rescale": Parameter("rescale", rescale)}
    return parameters


OPERATORS = {
    operator.name: operator
    for operator in (
        Operator("linear", linear, {"weight": WEIGHT, "normalize": Parameter("normalize", True)}),
        Operator("slerp", slerp, {"t": Parameter("t", lowest=0.0, highest=1.0)}, least=2, most=2),
        Operator(
            "karcher",
            karcher,
            {"max_iter": Parameter("steps", 10, lowest=1), "tol": Parameter("tolerance", 1e-5, lowest=0.0)},
        ),
        Operator("task_arithmetic", task_arithmetic, _task_vectors(False, None), needs_base=True),
        Operator("ties", ties, _task_vectors(True, False), needs_base=True),
        Operator("dare_linear", dare_linear, _task_vectors(False, True), needs_base=True, random=True),
        Operator("dare_ties", dare_ties, _task_vectors(False, True), needs_base=True, random=True),
        Operator("model_stock", model_stock, {"filter_wise": Parameter("by_row", False)}, needs_base=True, least=2),
        Operator(
            "fisher", fisher, {"weight": IMPORTANCE, "floor": Parameter("floor", 1e-6, lowest=0.0)}, knows="fisher"
        ),
        Operator(
            "regmean",
            regmean,
            {"weight": IMPORTANCE, "shrink": Parameter("shrink", 0.9, lowest=0.0, highest=1.0)},
            knows="inputs",
        ),
    )
}


def operator(name: str) -> Operator:
    """The operator of a name. Raises BadInput, with the list of all, for another name."""
    if name not in OPERATORS:
        raise BadInput(f"there is no method '{name}': take one of {', '.join(OPERATORS)}")
    return OPERATORS[name]
