"""A recipe: an operator, models, and parameters that may differ by model, by tensor and by layer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ...checkpoint.card import letter
from ...checkpoint.checks.finding import Finding
from ...checkpoint.errors import BadInput
from ...checkpoint.layers import Stack
from ...checkpoint.path_conflicts import Place, model_places
from ..operators.custom import operator
from ..operators.registry import Operator, Value


@dataclass(frozen=True)
class Setting:
    """Values of one parameter: the first case counts whose filter is a part of a tensor's name; None fits all names.

    Several values are a gradient: evenly spaced over the layers, and interpolated between them. `places` says where
    every case was given: a line of a file, or an option.
    """

    cases: tuple[tuple[str | None, tuple[Value, ...]], ...]
    places: tuple[str, ...] = field(default=(), compare=False, repr=False)

    @classmethod
    def of(cls, *values: Value, place: str | None = None) -> Setting:
        """One value, or a gradient, for all tensors."""
        return cls(((None, values),), () if place is None else (place,))

    def case(self, name: str) -> int | None:
        """The case that counts for a tensor; None where none does."""
        return next((i for i, (part, _) in enumerate(self.cases) if part is None or part in name), None)

    def at(self, name: str, depth: float) -> Value | None:
        """The value for a tensor at a depth from 0, the first layer, to 1, the last; None where no case counts."""
        case = self.case(name)
        return None if case is None else _between(self.cases[case][1], depth)

    def written(self) -> Any:
        """As it is written in a recipe, JSON-ready."""
        plain = [values[0] if len(values) == 1 else list(values) for _, values in self.cases]
        if len(plain) == 1 and self.cases[0][0] is None:
            return plain[0]
        filters = [{} if part is None else {"filter": part} for part, _ in self.cases]
        return [{**there, "value": value} for there, value in zip(filters, plain, strict=True)]


def _between(values: Sequence[Value], depth: float) -> Value:
    place = depth * (len(values) - 1)
    low = int(place)
    if isinstance(values[low], bool):
        return values[low]
    high, share = min(low + 1, len(values) - 1), place - low
    return (1 - share) * values[low] + share * values[high] if share else values[low]


def _layers(start: int, stop: int) -> str:
    return f"layer {start} is" if stop - start == 1 else f"layers {start} to {stop - 1} are"


Settings = Mapping[str, Setting]


@dataclass(frozen=True)
class TokenRow:
    """Where the row of a token comes from: that of a `model`, of the `other` token where one is named, by text or id;
    zeros where there is no model. Models that have the token take it only with `force`.
    """

    token: str
    model: str | None
    other: str | int | None = None
    force: bool = False
    place: str = field(default="", compare=False)


@dataclass(frozen=True)
class Vocabulary:
    """The vocabulary of a merge: the ``union`` of all, or that of the model `source`; the rows of some `tokens`, and a
    number that the number of rows is a `multiple` of. `place` is where the source was given.
    """

    source: str
    tokens: tuple[TokenRow, ...] = ()
    multiple: int | None = None
    place: str = field(default="", compare=False)


@dataclass(frozen=True)
class Origin:
    """Where a model's part in a run of layers begins: its name, and the first of its layers."""

    model: str
    first: int


@dataclass(frozen=True)
class Stage:
    """A recipe whose result is a model of later ones, under a name."""

    name: str
    recipe: Recipe


def written(settings: Settings) -> dict[str, Any]:
    """Settings as they are written in a recipe, JSON-ready."""
    return {key: setting.written() for key, setting in settings.items()}


@dataclass(frozen=True)
class Segment:
    """Layers from `start` up to `stop` (None: all) with their own settings: those of all models, and of `each` model.

    Where layers move, `origins` are the models of these layers, the base first if the operator needs one, and which of
    their layers become them. `place` is where it was given: a line of a file.
    """

    start: int = 0
    stop: int | None = None
    shared: Settings = field(default_factory=dict)
    each: tuple[Settings, ...] = ()
    place: str = field(default="", compare=False)
    origins: tuple[Origin, ...] = ()


@dataclass(frozen=True)
class Recipe:
    """A merge of `models` by an operator, with a `base` where that needs one.

    A parameter comes from the model's settings in the segment of the tensor's layer, else from the segment's, else from
    `shared`, else it is the operator's default. `dtype` is the dtype to save in, by its name in torch; `vocabulary`
    says whose tokens the merge has, `template` is its chat template (``auto``: the models' most common one). `notes`
    are remarks on the recipe for the user.

    Models may be `stages`, which are merged before, each of models and of those before it.
    """

    operator: Operator
    models: tuple[str, ...]
    base: str | None = None
    shared: Settings = field(default_factory=dict)
    segments: tuple[Segment, ...] = (Segment(),)
    dtype: str | None = None
    vocabulary: Vocabulary | None = None
    template: str | None = None
    notes: tuple[Finding, ...] = ()
    stages: tuple[Stage, ...] = ()

    @property
    def tokenizer(self) -> str | None:
        """The model whose tokenizer is saved; None for that of the first model that has one."""
        source = None if self.vocabulary is None else self.vocabulary.source
        return None if source == "union" else source

    @property
    def moves(self) -> bool:
        """Whether layers become others than they are in their models, or not all models are in all layers."""
        return any(segment.origins for segment in self.segments)

    @property
    def moves_anywhere(self) -> bool:
        """Whether layers move in this recipe or in a stage."""
        return any(one.moves for one in self.recipes)

    @property
    def is_composed(self) -> bool:
        """Whether models are put together from others before they are merged, or from layers of several."""
        return bool(self.stages) or self.moves

    @property
    def recipes(self) -> tuple[Recipe, ...]:
        """The recipes of the stages, and this one."""
        return (*(stage.recipe for stage in self.stages), self)

    @property
    def given(self) -> tuple[str, ...]:
        """The models that are there, not made by a stage: this recipe's first."""
        if not self.is_composed:
            return self.ingredients  # of which two may be the same
        made = {stage.name for stage in self.stages}
        names = (name for one in reversed(self.recipes) for name in one.ingredients)
        return tuple(dict.fromkeys(name for name in names if name not in made))

    @property
    def has_given_base(self) -> bool:
        """Whether there is a base, and it is not made by a stage."""
        return self.operator.needs_base and self.base not in {stage.name for stage in self.stages}

    @property
    def ingredients(self) -> tuple[str, ...]:
        """All models in the order in which the operator sees them: the base first, if it needs one."""
        return ((str(self.base),) if self.operator.needs_base else ()) + self.models

    def values(self, names: Sequence[str]) -> dict[str, dict[str, Any]]:
        """The operator's parameters by tensor, for all tensors of a model in the order of its schema.

        Raises BadInput for one that has to be given and is not, and for segments that are not the model's layers.
        """
        stack = Stack.of(names)
        return {name: self._values(name, depth, segment, stack) for name, segment, depth in self.located(names)}

    def located(self, names: Sequence[str]) -> Iterator[tuple[str, Segment, float]]:
        """Every tensor with its segment and its depth in that, from 0 to 1.

        Raises BadInput for segments that are not the model's layers.
        """
        stack = Stack.of(names)
        places, layers = list(map(stack.layer, names)), stack.count
        self._require_all(layers)
        inside = [place for place, layer in enumerate(places) if layer is not None]
        for place, (name, layer) in enumerate(zip(names, places, strict=True)):
            segment, depth = self.segments[-1 if inside and place > inside[-1] else 0], 0.0
            if layer is not None:
                segment = next(s for s in self.segments if s.start <= layer < (layers if s.stop is None else s.stop))
                count = (layers if segment.stop is None else segment.stop) - segment.start
                depth = (layer - segment.start) / (count - 1) if count > 1 else 1.0
            yield name, segment, depth

    def _values(self, name: str, depth: float, segment: Segment, stack: Stack) -> dict[str, Any]:
        values: dict[str, Any] = {}
        models = self.models_of(segment)
        names = own_names_of(segment, name, stack)[-len(models) :] if segment.origins else (name,) * len(models)
        for key, parameter in self.operator.parameters.items():
            chain = [segment.shared, self.shared]
            if not parameter.each:
                values[key] = self._value(key, name, depth, chain, None)
                continue
            own = segment.each or ({},) * len(models)
            values[key] = [
                self._value(key, own_name, depth, [mine, *chain], model)
                for mine, own_name, model in zip(own, names, models, strict=True)
            ]
        self.operator.require_values(values, name)
        return values

    def models_of(self, segment: Segment) -> tuple[str, ...]:
        """The models of a run of layers, without the base, in the operator's order."""
        if not segment.origins:
            return self.models
        return tuple(origin.model for origin in segment.origins[int(self.operator.needs_base) :])

    def _value(self, key: str, name: str, depth: float, chain: Sequence[Settings], model: str | None) -> Value:
        for settings in chain:
            value = settings[key].at(name, depth) if key in settings else None
            if value is not None:
                return value
        default = self.operator.parameters[key].default
        if default is None:
            whose = f" of '{model}'" if model else ""
            where = next(
                (settings[key].places[0] + ": " for settings in chain if key in settings and settings[key].places), ""
            )
            raise BadInput(f"{where}{self.operator.name} needs '{key}'{whose}, and none is given for '{name}'")
        return default

    def _require_all(self, layers: int) -> None:
        if self.segments[0].stop is None or self.moves:
            return
        end = 0
        for segment in self.segments:
            stop = layers if segment.stop is None else segment.stop
            where = f"{segment.place}: " if segment.place else ""
            rule = f"the slices are not the {layers} layers of the models, each once and in order"
            if stop > layers:
                raise BadInput(f"{where}{rule}: layer_range [{segment.start}, {stop}] ends beyond the last")
            if segment.start > end:
                raise BadInput(f"{where}{rule}: {_layers(end, segment.start)} left out before this slice")
            if segment.start < end:
                raise BadInput(f"{where}{rule}: {_layers(segment.start, min(end, stop))} in an earlier slice already")
            end = stop
        if end != layers:
            raise BadInput(f"{where}{rule}: {_layers(end, layers)} left out after this slice")

    def to_dict(self) -> dict[str, Any]:
        """The recipe as JSON-ready data, models by their letters, stages by their names."""
        given = self.given[int(self.has_given_base) :]
        labels = {name: letter(place) for place, name in enumerate(given)}
        labels |= {str(self.base): "base"} if self.has_given_base else {}
        stages = [{"stage": one.name, **one.recipe._labelled(labels)} for one in self.stages]
        return {**self._labelled(labels), **({"stages": stages} if stages else {})}

    def _labelled(self, labels: Mapping[str, str]) -> dict[str, Any]:
        def label(model: str) -> str:
            return labels.get(model, model)

        return {
            "name": self.operator.name,
            "parameters": written(self.shared),
            "segments": [
                {
                    "layers": [segment.start, segment.stop],
                    "parameters": written(segment.shared),
                    "models": list(map(written, segment.each)),
                    **(
                        {"sources": [[label(origin.model), origin.first] for origin in segment.origins]}
                        if segment.origins
                        else {}
                    ),
                }
                for segment in self.segments
            ],
            "merged": list(map(label, self.ingredients)),
        }

    @property
    def weighs_alike(self) -> bool:
        """Whether all models have the same weight in all tensors: of two on an arc, t is in its middle."""
        settings = [self.shared, *(one for segment in self.segments for one in (segment.shared, *segment.each))]
        weights, places = (
            {value for one in settings if key in one for _, values in one[key].cases for value in values}
            for key in ("weight", "t")
        )
        return len(weights) <= 1 and places <= {0.5}

    def plain_weights(self) -> list[float] | None:
        """One weight per model, as shares of 1, where all are single non-negative numbers; else None."""
        if "weight" not in self.operator.parameters or len(self.segments) != 1:
            return None
        own = self.segments[0].each or ({},) * len(self.models)
        settings = [mine.get("weight", self.shared.get("weight")) for mine in own]
        cases = [setting.cases if setting else () for setting in settings]
        if any(len(case) != 1 or case[0][0] is not None or len(case[0][1]) != 1 for case in cases):
            return None
        weights = [float(case[0][1][0]) for case in cases]
        total = sum(weights)
        return [weight / total for weight in weights] if min(weights) >= 0 and total > 0 else None


def own_names_of(segment: Segment, name: str, stack: Stack) -> tuple[str, ...]:
    """What a tensor of the merge is called in every model of its run of layers, where layers move."""
    layer = stack.layer(name)
    if layer is None:
        return (name,) * len(segment.origins)
    return tuple(stack.at(name, layer - segment.start + origin.first) for origin in segment.origins)


def recipe_places(plan: Recipe) -> list[Place]:
    """The places of the models of a recipe, with its base and the model of its tokenizer."""
    made = {stage.name for stage in plan.stages}
    others = [model for model in (plan.base, plan.tokenizer) if model is not None and model not in made]
    return model_places((*plan.given, *others))


def recipe(
    method: str,
    models: Sequence[str],
    *,
    base: str | None = None,
    weights: Sequence[Sequence[float]] = (),
    densities: Sequence[Sequence[float]] = (),
    scale: float | None = None,
    t: float | None = None,
    parameters: Mapping[str, Sequence[Any]] | None = None,
) -> Recipe:
    """A recipe from options. Weights and densities are one for all models or one for each, a number or a gradient;
    `parameters` are others by the names that recipes give them, for all models: a value, or a gradient.

    Without weights all are equal: 1 / N, or 1 where they are summed over task vectors (a soup of N, or all of every
    task vector).

    Raises BadInput for an unknown method, for a wrong count of models or values, for what the method does not take.
    """
    chosen = operator(method)
    if base is not None:
        chosen = chosen.with_base()
    if chosen.needs_base and base is None:
        raise BadInput(f"{method} adds what models learned to the model that they were trained from: give --base")
    if not chosen.needs_base and base is not None:
        raise BadInput(f"{method} takes no --base")
    chosen.require_count(len(models))
    each: list[dict[str, Setting]] = [{} for _ in models]
    for key, option, values in (("weight", "--weight", weights), ("density", "--density", densities)):
        if not values:
            continue
        _require_known(chosen, key, option)
        if len(values) not in (1, len(models)):
            raise BadInput(f"{option} is given once for all models or once for each of the {len(models)}")
        for own, value in zip(each, values if len(values) > 1 else [values[0]] * len(models), strict=True):
            place = f"{option} {','.join(f'{one:g}' for one in value)}"
            own[key] = Setting.of(*(chosen.parameters[key].require(option, one) for one in value), place=place)
    shared = {}
    for key, option, number in (("lambda", "--lambda", scale), ("t", "--t", t)):
        if number is not None:
            _require_known(chosen, key, option)
            shared[key] = Setting.of(chosen.parameters[key].require(option, number), place=option)
    for key, gradient in (parameters or {}).items():
        option = f"--parameter {key}"
        _require_known(chosen, key, option)
        if key in shared or any(key in own for own in each):
            raise BadInput(f"{option} is given by its own option, too: leave one out")
        shared[key] = Setting.of(*(chosen.parameters[key].require(option, value) for value in gradient), place=option)
    if not weights and "weight" in chosen.parameters:
        shared.setdefault("weight", Setting.of(1.0))
    if "t" in chosen.parameters and "t" not in shared:
        what = "from 0 (the first model) to 1 (the second)"
        if chosen.name != "slerp":
            what = "the difference up to which an entry is the model's"
        raise BadInput(f"{method} needs --t, {what}")
    return Recipe(chosen, tuple(models), base, shared, (Segment(each=tuple(each)),))


def _require_known(chosen: Operator, key: str, option: str) -> None:
    if key not in chosen.parameters:
        others = [name for name in chosen.parameters if name not in ("weight", "density", "lambda", "t")]
        has = f": it has {', '.join(others)}" if option.startswith("--parameter") and others else ""
        raise BadInput(f"{chosen.name} takes no {option}{has}")
