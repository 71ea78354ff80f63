"""The methods of a comparison: what `--method` says, and those that make sense for some models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ...checkpoint.errors import BadInput
from ..plans import read_parameters

if TYPE_CHECKING:
    from ..recipes.recipe import Recipe

AVERAGE = "plain average"
# Of models without a base, and of task vectors on one: what is usual, with the parameters that are usual.
OF_MODELS = ("linear", "fisher", "regmean")
OF_TASK_VECTORS = (
    "task_arithmetic",
    "ties:density=0.5",
    "dare_ties:density=0.5",
    "breadcrumbs:density=0.9",
    "sce:select_topk=0.5",
    "model_stock",
)


@dataclass(frozen=True)
class MethodSpec:
    """A method and its parameters, as `--method` names them: ``ties:density=0.2,lambda=1.1``."""

    name: str
    parameters: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    word: str = ""

    def recipe(self, models: Sequence[str], base: str | None) -> Recipe:
        """The recipe of the method for these models, with the `base` where it takes one; weights are equal.

        Raises BadInput for what the method does not take, and for a base that it needs and that is not given.
        """
        from ..operators.custom import operator
        from ..recipes.recipe import recipe

        given = {key: values for key, values in self.parameters.items() if key != "t"}
        t = float(self.parameters["t"][0]) if "t" in self.parameters else None
        takes_base = base is not None and operator(self.name).needs_base
        if self.name == "slerp" and t is None:
            t = 0.5
        return recipe(self.name, models, base=base if takes_base else None, t=t, parameters=given)


def method_specs(words: Sequence[str]) -> tuple[MethodSpec, ...]:
    """The methods that `--method` names, each once. Raises BadInput for words that name none."""
    specs = [_spec(word) for word in words]
    twice = next((word for word in words if list(words).count(word) > 1), None)
    if twice is not None:
        raise BadInput(f"--method {twice} is given twice: leave one out")
    return tuple(specs)


def _spec(word: str) -> MethodSpec:
    name, _, rest = word.partition(":")
    if not rest and ":" in word:
        raise BadInput(f"--method takes NAME, or NAME:parameter=value,...; got '{word}'")
    try:
        parameters = read_parameters(rest.split(",")) if rest else ()
    except BadInput:
        raise BadInput(f"--method takes NAME, or NAME:parameter=value,...; got '{word}'") from None
    weighed = [key for key, _ in parameters if key == "weight"]
    if weighed:
        raise BadInput(f"--method {word}: weights are searched for here: leave them out, or merge with them")
    return MethodSpec(name, dict(parameters), word)


def usual_methods(models: int, *, with_base: bool) -> tuple[MethodSpec, ...]:
    """The methods that make sense for this number of models."""
    arc = "slerp" if models == 2 else "karcher"
    words = (*OF_MODELS[:1], arc, *OF_MODELS[1:], *(OF_TASK_VECTORS if with_base else ()))
    return method_specs(words)
