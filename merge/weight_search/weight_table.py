"""What is searched for: a table of weights, a row for every group of tensors and a column for every model.

The groups are the whole model, its layers, or its matrices, each with its bias. A table becomes a recipe, whose filters
name the groups, so that what was measured can be written down and merged again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from ...checkpoint.layers import layer_of
from ..plans import Granularity
from ..recipes.recipe import Recipe, Setting

Table = tuple[tuple[float, ...], ...]

DIGITS = 6  # of a weight: what a recipe says of it is what was measured
LARGEST = 2.0  # of a task vector's weight


@dataclass(frozen=True)
class WeightSpace:
    """The weights of a recipe for models of tensors `names`: `filters` tell the groups apart, None the rest.

    A row sums to 1 (`simplex`) where there is no base to add to; else every weight is from 0 to `LARGEST`.
    """

    recipe: Recipe
    names: tuple[str, ...]
    filters: tuple[str | None, ...]

    @classmethod
    def of(cls, recipe: Recipe, names: Sequence[str], granularity: Granularity) -> WeightSpace:
        """The weights of whole models, of every layer and what is outside of them, or of every module with weights."""
        own = {name: filter_of(name, granularity) for name in names}
        filters = sorted(dict.fromkeys(own.values()), key=lambda part: part is None)  # the rest comes last
        space = cls(recipe, tuple(names), tuple(filters))
        if any(space.filters[group] != own[name] for name, group in space.groups.items()):
            longest_first = sorted(filters, key=lambda part: -len(part or ""))
            space = cls(recipe, tuple(names), tuple(longest_first))
        return space

    @cached_property
    def groups(self) -> Mapping[str, int]:
        """The group of every tensor: that of the first filter that is a part of its name."""
        cases = Setting(tuple((part, (0.0,)) for part in self.filters))
        return {name: group for name in self.names if (group := cases.case(name)) is not None}

    @property
    def simplex(self) -> bool:
        """Whether the weights of a group sum to 1."""
        return not self.recipe.operator.needs_base

    @property
    def models(self) -> int:
        """The number of models."""
        return len(self.recipe.models)

    @property
    def free_numbers(self) -> int:
        """How many numbers a table holds that the others do not settle."""
        return len(self.filters) * (self.models - int(self.simplex))

    def equal(self) -> Table:
        """Equal weights that sum to 1: the mean of models, or of task vectors."""
        return ((1.0 / self.models,) * self.models,) * len(self.filters)

    def weighed(self, table: Table) -> Recipe:
        """The recipe with these weights; of two models on an arc, t is the second's."""
        segment = self.recipe.segments[0]
        each = segment.each or ({},) * self.models
        rest = replace(self.recipe, shared=_without_weights(self.recipe.shared))
        columns = [
            tuple((part, (row[model],)) for part, row in zip(self.filters, table, strict=True))
            for model in range(self.models)
        ]
        if "weight" not in self.recipe.operator.parameters:
            return replace(rest, shared={**rest.shared, "t": Setting(columns[1])})
        own = tuple(
            {**_without_weights(one), "weight": Setting(column)} for one, column in zip(each, columns, strict=True)
        )
        return replace(rest, segments=(replace(segment, shared=_without_weights(segment.shared), each=own),))

    def values(self, table: Table) -> dict[str, dict[str, Any]]:
        """The operator's parameters by tensor, with these weights."""
        return self.weighed(table).values(self.names)


def filter_of(name: str, granularity: Granularity) -> str | None:
    """The part of a tensor's name that its group has in common; None for all, or for what is outside of layers."""
    if granularity == "matrix":
        module, dot, _ = name.rpartition(".")
        return module + dot or name
    if granularity == "model" or layer_of(name) is None:
        return None
    parts = name.split(".")
    number = next(place for place, part in enumerate(parts) if part.isdigit())
    return ".".join(parts[: number + 1]) + "."


def rounded(table: Sequence[Sequence[float]]) -> Table:
    """The table as it is measured and written down."""
    return tuple(tuple(round(float(weight), DIGITS) for weight in row) for row in table)


def _without_weights(settings: Mapping[str, Setting]) -> dict[str, Setting]:
    return {key: setting for key, setting in settings.items() if key not in ("weight", "t")}
