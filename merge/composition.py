"""Models that are put together before they are merged: of layers of several models, and of stages, which are merges.

Nothing of them is on disk or in memory as a whole: a tensor is computed when it is looked up, from the tensors that it
is made of. A tensor of a stage that is read again at once, by an operator that passes over it twice or as the part of
two models, is kept, if it is small enough.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from ..align.families import FAMILIES
from ..checkpoint.config import schema_of
from ..checkpoint.errors import BadInput, IncompatibleModels
from ..checkpoint.layers import Layer, Stack, restacked
from ..checkpoint.model import Schema
from ..checkpoint.naming import Conversion, Naming
from ..checkpoint.rows import ComputedState, in_blocks
from .operators.combined import Combined
from .recipes.recipe import Recipe, Segment, own_names_of
from .recipes.recipe_effect import require_effect

WORTH_KEEPING = 2**24  # items of a tensor of a stage
KEPT = 2  # tensors of a stage


class Model(Protocol):
    """What a model is made of: a checkpoint, or a stage."""

    @property
    def facts(self) -> Mapping[str, Any]:
        """The content of config.json."""
        ...

    @property
    def schema(self) -> Schema:
        """Its tensors."""
        ...

    @property
    def state(self) -> Mapping[str, Tensor]:
        """Their values, computed when they are looked up."""
        ...


@dataclass(frozen=True)
class Composed:
    """A model that a recipe makes. `layers` are those of the first model that its layers come from, where layers move:
    what the files of the first model call a tensor, they would call it there.
    """

    facts: Mapping[str, Any]
    schema: Schema
    state: Mapping[str, Tensor] = field(repr=False)
    layers: tuple[int, ...] = ()


def composed(recipe: Recipe, given: Mapping[str, Model], *, seed: int) -> Composed:
    """The model that a recipe makes of the `given` models, by their names in it, and of its stages.

    Every stage draws its own random numbers. Raises BadInput, with the line, for layers that a model does not have and
    for settings without effect; IncompatibleModels for tensors of different shapes.
    """
    models: dict[str, Model] = dict(given)
    for place, stage in enumerate(recipe.stages, start=1):
        made = _composed(stage.recipe, models, seed=seed + place)
        models[stage.name] = Composed(made.facts, made.schema, _KeptState(made.state), made.layers)
    return _composed(recipe, models, seed=seed)


def _composed(recipe: Recipe, models: Mapping[str, Model], *, seed: int) -> Composed:
    parts = {name: models[name] for name in recipe.ingredients}
    first_name = recipe.ingredients[0]
    first = parts[first_name]
    if not recipe.moves:
        _require_one_shape(parts)
        names = list(first.schema.shapes)
        require_effect(recipe, [*names, *first.schema.tied])
        merged = Combined(recipe.operator, [one.state for one in parts.values()], recipe.values(names), seed=seed)
        return Composed(first.facts, first.schema, merged)
    stacks = {name: Stack.of(list(part.schema.shapes)) for name, part in parts.items()}
    layers = [origin for segment in recipe.segments for origin in _layers(recipe, segment, stacks)]
    described = [Layer(parts[name].facts, stacks[name].count, number) for name, number in layers]
    facts = restacked(first.facts, first_name, stacks[first_name].count, described)
    schema = schema_of(facts, first_name, FAMILIES)
    schema = schema if first.schema.tied or not schema.tied else schema.untied()
    require_effect(recipe, [*schema.shapes, *schema.tied])
    state = _moved(recipe, parts, schema, seed=seed)
    return Composed(facts, schema, state, tuple(number for _, number in layers))


def _layers(recipe: Recipe, segment: Segment, stacks: Mapping[str, Stack]) -> list[tuple[str, int]]:
    """The layers of the first model of a segment. Raises BadInput for those that one of its models does not have."""
    assert segment.stop is not None, "where layers move, every slice says which"
    count = segment.stop - segment.start
    for origin in segment.origins:
        if origin.first + count > stacks[origin.model].count:
            raise BadInput(
                f"{segment.place}: layer_range [{origin.first}, {origin.first + count}] of '{origin.model}' ends "
                f"beyond the last of its {stacks[origin.model].count} layers"
            )
    first = segment.origins[int(recipe.operator.needs_base)]
    return [(first.model, first.first + place) for place in range(count)]


def _require_one_shape(parts: Mapping[str, Model]) -> None:
    (first_name, first), *others = parts.items()
    for name, part in others:
        differing = [one for one, shape in first.schema.shapes.items() if part.schema.shapes.get(one) != shape]
        differing += [one for one in part.schema.shapes if one not in first.schema.shapes]
        if differing:
            raise IncompatibleModels(
                f"'{first_name}' and '{name}' cannot be merged: '{differing[0]}' is in one alone, or has another shape "
                "there; merge models of one shape, or slices of equal length"
            )


def _moved(recipe: Recipe, parts: Mapping[str, Model], schema: Schema, *, seed: int) -> Mapping[str, Tensor]:
    """The state of a model whose layers are others', merged segment by segment."""
    names = list(schema.shapes)
    stack = Stack.of(names)
    values = recipe.values(names)
    by_segment: dict[int, dict[str, tuple[str, ...]]] = {}
    segments: dict[int, Segment] = {}
    for name, segment, _ in recipe.located(names):
        own = own_names_of(segment, name, stack)
        for origin, own_name in zip(segment.origins, own, strict=True):
            shape = parts[origin.model].schema.shapes.get(own_name)
            if shape != schema.shapes[name]:
                has = "does not have it" if shape is None else f"has it as {list(shape)}"
                raise IncompatibleModels(
                    f"{segment.place}: '{name}' of the merge is {list(schema.shapes[name])}, to be made of "
                    f"'{own_name}' of '{origin.model}', which {has}: only layers of one shape fit into one model"
                )
        by_segment.setdefault(id(segment), {})[name] = own
        segments[id(segment)] = segment
    places: dict[str, Combined] = {}
    for key, own_names in by_segment.items():
        states = [
            _renamed(parts[origin.model].state, {name: own[place] for name, own in own_names.items()})
            for place, origin in enumerate(segments[key].origins)
        ]
        part = Combined(recipe.operator, states, {name: values[name] for name in own_names}, seed=seed)
        places |= dict.fromkeys(own_names, part)
    return ComputedState(names, lambda name: places[name][name], lambda name: places[name].blocks(name))


def _renamed(state: Mapping[str, Tensor], names: Mapping[str, str]) -> ComputedState:
    return ComputedState(names, lambda name: state[names[name]], lambda name: in_blocks(state, names[name]))


class _KeptState(ComputedState):
    """The state of a stage that keeps the last tensors that were looked up, unless they are large."""

    def __init__(self, state: Mapping[str, Tensor]):
        super().__init__(state, self._looked_up, self._in_blocks)
        self._state = state
        self._last: OrderedDict[str, list[Tensor]] = OrderedDict()

    def _looked_up(self, name: str) -> Tensor:
        blocks = list(self._in_blocks(name))
        return torch.cat(blocks) if blocks[0].ndim else blocks[0]

    def _in_blocks(self, name: str) -> Iterator[Tensor]:
        if name in self._last:
            self._last.move_to_end(name)
            yield from self._last[name]
            return
        blocks: list[Tensor] = []
        items = 0
        for block in in_blocks(self._state, name):
            items += block.numel()
            if items <= WORTH_KEEPING:
                blocks.append(block)
            else:
                blocks.clear()
            yield block
        if items <= WORTH_KEEPING:
            self._last[name] = blocks
            while len(self._last) > KEPT:
                self._last.popitem(last=False)


def naming_of(naming: Naming, schema: Schema, layers: Sequence[int]) -> Naming:
    """How the files of a model would name the tensors of one with other layers, each of which was one of `layers`."""
    if not layers:
        return naming
    own = naming.by_name()
    stack = Stack.of(list(own))
    conversions: dict[tuple[str, ...], Conversion] = {}
    for name in [*schema.shapes, *schema.tied]:
        layer = stack.layer(name)
        there = own.get(name if layer is None else stack.at(name, layers[layer]))
        if there is None:
            continue
        if layer is not None:
            names = tuple(stack.at(one, layer) for one in there.names)
            there = type(there)(
                tuple(_numbered(one, layer) for one in there.stored), names, there.rule, there.model, there.rules
            )
        conversions[there.names] = there
    return Naming(tuple(conversions.values()), model=naming.model, rules=naming.rules)


def _numbered(stored: str, layer: int) -> str:
    """A name with another number of its layer, the first in it."""
    parts = stored.split(".")
    place = next(place for place, part in enumerate(parts) if part.isdigit())
    return ".".join([*parts[:place], str(layer), *parts[place + 1 :]])
