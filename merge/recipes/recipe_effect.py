"""The check that every setting of a recipe has an effect on these models: one without is an error with its place."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

from ...checkpoint.errors import BadInput
from ...checkpoint.layers import Stack
from ..operators.registry import Value
from .recipe import Recipe, Setting, Settings, own_names_of

Uses = Mapping[tuple[int, int], set[int]]  # (id of a setting, case) → the values of its gradient that count
UNLISTED = frozenset({"weight", "bias"})  # parts of names that tell no tensors apart


def require_effect(recipe: Recipe, names: Sequence[str]) -> None:
    """Raise BadInput for the first setting of a recipe that changes nothing in a model of tensors `names`.

    These are a filter that no name contains, a case after others that cover all tensors, a parameter that every model
    or slice overrides, a gradient over one layer, and a value of a gradient that no layer is near enough to use.
    """
    uses = _uses(recipe, names)
    for key, setting, scope in _settings(recipe, names):
        for case, (part, values) in enumerate(setting.cases):
            why = _without_effect(key, part, values, scope, uses.get((id(setting), case)))
            if why is not None:
                place = setting.places[case] if setting.places else f"'{key}'"
                raise BadInput(f"{place}: {why}")


def _uses(recipe: Recipe, names: Sequence[str]) -> Uses:
    """The values of settings that count for at least one tensor."""
    uses: dict[tuple[int, int], set[int]] = defaultdict(set)
    stack = Stack.of(names)
    for name, segment, depth in recipe.located(names):
        own = segment.each or ({},) * len(recipe.models)
        own_names = own_names_of(segment, name, stack)[-len(own) :] if segment.origins else (name,) * len(own)
        for key, parameter in recipe.operator.parameters.items():
            for mine, own_name in zip(own, own_names, strict=True) if parameter.each else (({}, name),):
                for settings in (mine, segment.shared, recipe.shared):
                    case = settings[key].case(own_name) if key in settings else None
                    if case is not None:
                        values = settings[key].cases[case][1]
                        uses[id(settings[key]), case].update(_anchors(values, depth))
                        break
    return uses


def _anchors(values: Sequence[Value], depth: float) -> Iterator[int]:
    """The values of a gradient that count at a depth."""
    place = depth * (len(values) - 1)
    yield int(place)
    if place > int(place) and not isinstance(values[int(place)], bool):
        yield int(place) + 1


def _settings(recipe: Recipe, names: Sequence[str]) -> Iterator[tuple[str, Setting, list[str]]]:
    """Every setting with its parameter and the tensors in its scope; those of models before those of all."""
    scopes: dict[int, list[str]] = defaultdict(list)
    for name, segment, _ in recipe.located(names):
        scopes[id(segment)].append(name)
    groups: list[tuple[Settings, list[str]]] = []
    for segment in recipe.segments:
        groups += [(own, scopes[id(segment)]) for own in (*segment.each, segment.shared)]
    for settings, scope in (*groups, (recipe.shared, list(names))):
        for key, setting in settings.items():
            yield key, setting, scope


def _without_effect(
    key: str, part: str | None, values: Sequence[Value], scope: Sequence[str], counting: set[int] | None
) -> str | None:
    """The reason why a case changes nothing, or None; `counting` are those of its values that count."""
    if part is not None and not any(part in name for name in scope):
        parts = dict.fromkeys(part for name in scope for part in name.split(".") if not part.isdigit())
        listed = ", ".join(part for part in parts if part not in UNLISTED)
        return f"no tensor's name here contains the filter '{part}': names are made of {listed}"
    if counting is None:
        return f"'{key}' has no effect here: cases before it, or settings closer to a model, cover all of its tensors"
    if len(values) == 1:
        return None
    stack = Stack.of(scope)
    layers = {stack.layer(name) for name in scope} - {None}
    if len(layers) < 2:
        return f"'{key}' is a gradient, and there is one layer here: give one value"
    idle = [str(place + 1) for place in range(len(values)) if place not in counting]
    if idle:
        which = f"value {idle[0]} has" if len(idle) == 1 else f"values {', '.join(idle)} have"
        return f"'{key}' is a gradient of {len(values)} values over {len(layers)} layers, and {which} no effect"
    return None
