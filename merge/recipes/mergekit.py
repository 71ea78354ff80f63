"""mergekit's recipes: its YAML, read into a `Recipe`. An error names the line.

Only the recipe is opened: no model is looked for, on disk or on the Hub. Precedence, filters and gradients are those of
mergekit (https://github.com/arcee-ai/mergekit, 0.1): a model's parameters take precedence over its slice's, and those
over the recipe's; a filter is a part of a tensor's name; a list of numbers is a gradient over the layers. A file of
several documents has stages, by their names (`stages`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from yaml.nodes import Node

from ...checkpoint.checks.finding import Finding
from ...checkpoint.errors import BadInput
from ...checkpoint.reference import parse_reference, require_path
from ..operators.custom import method_names, operator
from ..operators.registry import Operator
from .recipe import Origin, Recipe, Segment, Settings
from .stages import Document, with_stages
from .tokenizer_reader import TokenizerReader
from .yaml_reader import documents, recipe_text

TOP = (
    "name", "merge_method", "models", "slices", "modules", "base_model", "parameters", "dtype", "out_dtype",
    "tokenizer_source", "tokenizer", "chat_template",
)  # fmt: skip
OF_TOKENS = ("tokenizer_source", "tokenizer", "chat_template")
PARTS = ("models", "slices", "modules")
NOT_TAKEN = {
    "residual_weight": "isthmus has no residual slices, and mergekit does not use it",
    "embed_slerp": "mergekit no longer has it; rows of tokens that a model lacks are averaged",
}
MODULE = "default"  # what mergekit calls a model that is one module
DTYPES = ("float32", "float16", "bfloat16")


def read_recipe(path: str | Path) -> Recipe:
    """The recipe in a YAML file. Raises BadInput, with the line, for whatever it cannot follow."""
    file = require_path(path, "the recipe")
    try:
        text = recipe_text(file)
    except UnicodeDecodeError:
        raise BadInput(f"'{file.name}' is not UTF-8 text: a recipe is YAML") from None
    except OSError as error:
        raise BadInput(f"cannot read the recipe '{file.name}': {error.strerror}") from None
    roots = documents(text, file.name)
    if not roots:
        raise BadInput(f"'{file.name}' is empty: a recipe needs merge_method and models")
    readers = [_RecipeReader(file.name, root) for root in roots]
    return with_stages([reader.read() for reader in readers])


@dataclass(frozen=True)
class _Input:
    """A model of a recipe: an item of `models`, or a source of a slice."""

    model: str
    node: Node
    settings: Settings
    layers: tuple[int, int] | None = None


@dataclass(frozen=True)
class _Slice:
    """A run of layers: the models that go into it, its own settings, and its node."""

    inputs: list[_Input]
    settings: Settings
    node: Node

    @property
    def first(self) -> int:
        """The first layer of the first model."""
        return self.inputs[0].layers[0] if self.inputs[0].layers else 0

    @property
    def count(self) -> int | None:
        """How many layers it has; None for all."""
        layers = self.inputs[0].layers
        return None if layers is None else layers[1] - layers[0]


class _RecipeReader(TokenizerReader):
    def __init__(self, name: str, root: Node):
        super().__init__(name, root, NOT_TAKEN)
        self.places: dict[str, str] = {}  # of models, where they are first named

    def read(self) -> Document:
        top = self.entries(self.root, TOP, "a recipe")
        name = self.text(top["name"], "name") if "name" in top else None
        if "merge_method" not in top:
            self.refuse(self.root, f"there is no merge_method: take one of {', '.join(method_names())}")
        self.operator = self.method(top["merge_method"])
        base = self.model(top["base_model"]) if "base_model" in top else None
        if base is not None:
            self.operator = self.operator.with_base()
        shared = self.settings(top.get("parameters"), of_model=False)
        slices, of_module = self.parts(top)
        shared = {**shared, **of_module}
        moves = self.moves(slices)
        models, segments = self.moved(slices, base, top) if moves else self.ordered(slices, base, top)
        recipe = Recipe(self.operator, models, base if self.operator.needs_base else None, shared, segments)
        self.require_given(recipe, top["merge_method"])
        return Document(
            name,
            replace(recipe, dtype=self.dtype(top), notes=tuple(self.notes)),
            self.place(top.get("name", self.root)),
            self.places,
            lambda given: self.vocabulary(top, given, base),
            self.template(top),
            next((self.place(top[key]) for key in OF_TOKENS if key in top), None),
        )

    def method(self, node: Node) -> Operator:
        name = self.text(node, "merge_method")
        try:
            return operator(name)
        except BadInput as error:
            self.refuse(node, str(error))

    def parts(self, top: Mapping[str, Node]) -> tuple[list[_Slice], Settings]:
        """What is merged: `models` or `slices`, of the recipe or of its one module; and parameters of that."""
        named = [key for key in PARTS if key in top]
        if len(named) != 1:
            self.refuse(self.root, "give either models or slices, not both")
        if "modules" not in top:
            return (self.slices(top["slices"]) if "slices" in top else self.models(top["models"])), {}
        modules = self.pairs(top["modules"], "modules")
        for name, (there, _) in modules.items():
            if name != MODULE:
                self.refuse(there, f"isthmus merges whole models, whose one module is '{MODULE}'; got '{name}'")
        if not modules:
            self.refuse(top["modules"], f"modules has to have '{MODULE}'")
        inside = self.entries(modules[MODULE][1], ("models", "slices", "parameters"), "a module")
        if ("models" in inside) == ("slices" in inside):
            self.refuse(modules[MODULE][0], "give either models or slices, not both")
        settings = self.settings(inside.get("parameters"), of_model=False)
        return (self.slices(inside["slices"]) if "slices" in inside else self.models(inside["models"])), settings

    def models(self, node: Node) -> list[_Slice]:
        """`models` as one slice of all layers."""
        items = self.items(node, "models")
        inputs = [self.input(item, self.entries(item, ("model", "parameters"), "a model")) for item in items]
        return [_Slice(inputs, {}, node)]

    def slices(self, node: Node) -> list[_Slice]:
        slices = []
        for item in self.items(node, "slices"):
            entries = self.entries(item, ("sources", "parameters"), "a slice")
            if "sources" not in entries:
                self.refuse(item, "a slice needs sources")
            inputs = []
            for source in self.items(entries["sources"], "sources"):
                parts = self.entries(source, ("model", "layer_range", "parameters"), "a source")
                if "layer_range" not in parts:
                    self.refuse(source, "a source needs layer_range: [first, end]")
                inputs.append(self.input(source, parts, self.layers(parts["layer_range"])))
            if len({stop - start for start, stop in (entry.layers for entry in inputs if entry.layers)}) > 1:
                self.refuse(entries["sources"], "the sources of a slice have different numbers of layers")
            settings = self.settings(entries.get("parameters"), of_model=False)
            slices.append(_Slice(inputs, settings, item))
        return slices

    def input(self, node: Node, entries: Mapping[str, Node], layers: tuple[int, int] | None = None) -> _Input:
        if "model" not in entries:
            self.refuse(node, "there is no model here: write '- model: directory or user/name'")
        settings = self.settings(entries.get("parameters"), of_model=True)
        return _Input(self.model(entries["model"]), entries["model"], settings, layers)

    def moves(self, slices: Sequence[_Slice]) -> bool:
        """Whether layers become others than they are, or other models are in some layers than in others."""
        if slices[0].count is None:
            return False
        place, names = 0, {entry.model for entry in slices[0].inputs}
        for one in slices:
            starts = {entry.layers[0] for entry in one.inputs if entry.layers}
            if starts != {place} or {entry.model for entry in one.inputs} != names:
                return True
            place += one.count or 0
        return self.operator.name == "passthrough"  # which may leave out the last layers

    def ordered(
        self, slices: list[_Slice], base: str | None, top: Mapping[str, Node]
    ) -> tuple[tuple[str, ...], tuple[Segment, ...]]:
        """The models in the operator's order, and the segments, whose settings are in that order."""
        method, names = self.operator, [entry.model for entry in slices[0].inputs]
        for one in slices:
            self.require_each_once(one)
        if method.needs_base:
            if base is None:
                self.refuse(top["merge_method"], f"{method.name} needs base_model: what they were trained from")
            names = [name for name in names if name != base]
            self.require_no_part(slices, base)
        elif base is not None and base not in names:
            names.append(base)  # as in mergekit, a base that has no part of its own is one more model
        elif base is not None and method.name != "slerp" and not self.takes_tokenizer(top):
            self.refuse(top["base_model"], f"{method.name} has no base, and '{base}' is among its models: leave it out")
        if method.name == "slerp":
            if base is None:
                self.refuse(top["merge_method"], "slerp needs base_model: the model at t = 0")
            names = [base, *(name for name in names if name != base)]
        self.require_count(len(names), top["merge_method"])
        segments = []
        for one in slices:
            own = {entry.model: entry.settings for entry in one.inputs}
            stop = None if one.count is None else one.first + one.count
            each = tuple(own.get(name, {}) for name in names)
            segments.append(Segment(one.first, stop, one.settings, each, self.place(one.node)))
        return tuple(names), tuple(segments)

    def moved(
        self, slices: list[_Slice], base: str | None, top: Mapping[str, Node]
    ) -> tuple[tuple[str, ...], tuple[Segment, ...]]:
        """The models, and the segments of the merge, with the layers of the models that they are made of."""
        method, segments, place = self.operator, [], 0
        everywhere = list(dict.fromkeys(entry.model for one in slices for entry in one.inputs))
        if method.needs_base or method.name == "slerp":
            if base is None:
                what = "the model at t = 0" if method.name == "slerp" else "what they were trained from"
                self.refuse(top["merge_method"], f"{method.name} needs base_model: {what}")
            if method.needs_base:
                self.require_no_part(slices, base)
        elif base is not None and base not in everywhere:
            self.refuse(top["base_model"], f"{method.name} has no base, and no slice has '{base}': leave it out")
        for one in slices:
            self.require_each_once(one)
            inputs = [entry for entry in one.inputs if entry.model != base or not method.needs_base]
            if method.name == "slerp":
                inputs.sort(key=lambda entry: entry.model != base)
                if inputs[0].model != base:
                    self.refuse(one.node, f"slerp needs base_model in every slice: this one has no '{base}'")
            self.require_count(len(inputs), one.node)
            origins = [Origin(entry.model, entry.layers[0]) for entry in inputs if entry.layers]
            if method.needs_base:
                origins.insert(0, self.base_origin(one, str(base), origins))
            stop = place + (one.count or 0)
            each = tuple(entry.settings for entry in inputs)
            segments.append(Segment(place, stop, one.settings, each, self.place(one.node), tuple(origins)))
            place = stop
        names = [name for name in everywhere if name != base or not method.needs_base]
        return tuple(names), tuple(segments)

    def base_origin(self, one: _Slice, base: str, origins: Sequence[Origin]) -> Origin:
        """Which layers of the base go into a slice: its own, or those that all models have there."""
        own = [entry.layers[0] for entry in one.inputs if entry.model == base and entry.layers]
        starts = own or list({origin.first for origin in origins})
        if len(starts) > 1:
            self.refuse(one.node, f"which layers of the base '{base}' are these? Add it to the sources of this slice")
        return Origin(base, starts[0])

    def require_each_once(self, one: _Slice) -> None:
        models = [entry.model for entry in one.inputs]
        for place, entry in enumerate(one.inputs):
            if entry.model in models[:place]:
                self.refuse(entry.node, f"'{entry.model}' appears twice")

    def require_count(self, models: int, node: Node) -> None:
        try:
            self.operator.require_count(models)
        except BadInput as error:
            self.refuse(node, str(error))

    def require_no_part(self, slices: list[_Slice], base: str) -> None:
        """Refuse parameters of the base of task vectors: they would have no effect."""
        for entry in (entry for one in slices for entry in one.inputs if entry.model == base):
            for key, setting in entry.settings.items():
                raise BadInput(
                    f"{setting.places[0]}: '{key}' of the base has no effect: it is what the others are added to"
                )

    def takes_tokenizer(self, top: Mapping[str, Node]) -> bool:
        return "tokenizer_source" in top and self.scalar(top["tokenizer_source"], "tokenizer_source") == "base"

    def layers(self, node: Node) -> tuple[int, int]:
        numbers = [self.scalar(item, "layer_range") for item in self.items(node, "layer_range")]
        if len(numbers) != 2 or not all(type(n) is int for n in numbers) or not 0 <= numbers[0] < numbers[1]:
            self.refuse(node, "layer_range is [first, end], two whole numbers, the first lower")
        return numbers[0], numbers[1]

    def model(self, node: Node) -> str:
        name = self.text(node, "a model")
        if "+" in name:  # a base and an adapter, as mergekit writes them
            try:
                parse_reference(name)
            except BadInput as error:
                self.refuse(node, str(error))
        self.places.setdefault(name, self.place(node))
        return name

    def dtype(self, top: Mapping[str, Node]) -> str | None:
        """The dtype to save in: `out_dtype`, else `dtype`."""
        dtypes: dict[str, str] = {}
        for key in ("dtype", "out_dtype"):
            if key in top and self.scalar(top[key], key) is not None:
                dtypes[key] = self.text(top[key], key)
                if dtypes[key] not in DTYPES:
                    self.refuse(top[key], f"{key} is one of {', '.join(DTYPES)}; got '{dtypes[key]}'")
        saved = dtypes.get("out_dtype", dtypes.get("dtype"))
        if dtypes.get("dtype") not in (None, saved, "float32"):
            what = f"{self.place(top['dtype'])}: the merge is not rounded to {dtypes['dtype']} on the way"
            self.notes.append(
                Finding("notes", what, f"every merge is computed in float32, and this one saved in {saved}", self.name)
            )
        return saved
