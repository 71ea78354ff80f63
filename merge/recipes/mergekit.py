"""mergekit's recipes: its YAML, read into a `Recipe`. An error names the line.

Only the recipe is opened: no model is looked for, on disk or on the Hub. Precedence, filters and gradients are those of
mergekit (https://github.com/arcee-ai/mergekit, 0.1): a model's parameters take precedence over its slice's, and those
over the recipe's; a filter is a part of a tensor's name; a list of numbers is a gradient over the layers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from yaml.nodes import MappingNode, Node, SequenceNode

from ...checkpoint.checks.finding import Finding
from ...checkpoint.errors import BadInput
from ...checkpoint.reference import parse_reference, require_path
from ..operators.custom import method_names, operator
from ..operators.registry import Operator, Parameter
from .recipe import Recipe, Segment, Setting, Settings
from .yaml_reader import YamlReader, recipe_text

TOP = ("merge_method", "models", "slices", "base_model", "parameters", "dtype", "out_dtype", "tokenizer_source")
NOT_TAKEN = {
    "modules": "isthmus merges whole language models",
    "tokenizer": "take tokenizer_source; tokens cannot be rebuilt one by one",
    "chat_template": "the template of the models is kept",
    "residual_weight": "isthmus has no residual slices",
}
DTYPES = ("float32", "float16", "bfloat16")
IGNORED = "int8_mask"  # mergekit takes it and does not use it, and many recipes have it


def read_recipe(path: str | Path) -> Recipe:
    """The recipe in a YAML file. Raises BadInput, with the line, for whatever it cannot follow."""
    file = require_path(path, "the recipe")
    try:
        text = recipe_text(file)
    except UnicodeDecodeError:
        raise BadInput(f"'{file.name}' is not UTF-8 text: a recipe is YAML") from None
    except OSError as error:
        raise BadInput(f"cannot read the recipe '{file.name}': {error.strerror}") from None
    return _RecipeReader(file.name, text).read()


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


class _RecipeReader(YamlReader):
    operator: Operator

    def __init__(self, name: str, text: str):
        super().__init__(name, text, NOT_TAKEN)
        self.notes: list[Finding] = []

    def read(self) -> Recipe:
        if self.root is None:
            raise BadInput(f"'{self.name}' is empty: a recipe needs merge_method and models")
        top = self.entries(self.root, TOP, "a recipe")
        if "merge_method" not in top:
            self.refuse(self.root, f"there is no merge_method: take one of {', '.join(method_names())}")
        self.operator = self.method(top["merge_method"])
        base = self.model(top["base_model"]) if "base_model" in top else None
        if base is not None:
            self.operator = self.operator.with_base()
        shared = self.settings(top.get("parameters"), of_model=False)
        if ("models" in top) == ("slices" in top):
            self.refuse(self.root, "give either models or slices, not both")
        slices = self.slices(top["slices"]) if "slices" in top else self.models(top["models"])
        models, segments = self.ordered(slices, base, top)
        recipe = Recipe(self.operator, models, base if self.operator.needs_base else None, shared, segments)
        self.require_given(recipe, top["merge_method"])
        source = top.get("tokenizer_source")
        return replace(
            recipe,
            dtype=self.dtype(top),
            tokenizer=self.tokenizer(source, recipe, base),
            tokenizer_place="" if source is None else self.place(source),
            notes=tuple(self.notes),
        )

    def method(self, node: Node) -> Operator:
        name = self.text(node, "merge_method")
        try:
            return operator(name)
        except BadInput as error:
            self.refuse(node, str(error))

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
            if len({entry.layers for entry in inputs}) > 1:
                self.refuse(entries["sources"], "the sources of a slice have different layers: isthmus moves none")
            settings = self.settings(entries.get("parameters"), of_model=False)
            slices.append(_Slice(inputs, settings, item))
        return slices

    def input(self, node: Node, entries: Mapping[str, Node], layers: tuple[int, int] | None = None) -> _Input:
        if "model" not in entries:
            self.refuse(node, "there is no model here: write '- model: directory or user/name'")
        settings = self.settings(entries.get("parameters"), of_model=True)
        return _Input(self.model(entries["model"]), entries["model"], settings, layers)

    def ordered(
        self, slices: list[_Slice], base: str | None, top: Mapping[str, Node]
    ) -> tuple[tuple[str, ...], tuple[Segment, ...]]:
        """The models in the operator's order, and the segments, whose settings are in that order."""
        method, names = self.operator, [entry.model for entry in slices[0].inputs]
        for one in slices:
            models = [entry.model for entry in one.inputs]
            for place, entry in enumerate(one.inputs):
                if entry.model in models[:place]:
                    self.refuse(entry.node, f"'{entry.model}' appears twice")
            if set(models) != set(names):
                self.refuse(
                    one.node,
                    "this slice has other models than the first, and isthmus merges the same models in all layers",
                )
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
        try:
            method.require_count(len(names))
        except BadInput as error:
            self.refuse(top["merge_method"], str(error))
        segments = []
        for one in slices:
            own = {entry.model: entry.settings for entry in one.inputs}
            start, stop = one.inputs[0].layers or (0, None)
            each = tuple(own.get(name, {}) for name in names)
            segments.append(Segment(start, stop, one.settings, each, self.place(one.node)))
        return tuple(names), tuple(segments)

    def require_no_part(self, slices: list[_Slice], base: str) -> None:
        """Refuse parameters of the base of task vectors: they would have no effect."""
        for entry in (entry for one in slices for entry in one.inputs if entry.model == base):
            for key, setting in entry.settings.items():
                raise BadInput(
                    f"{setting.places[0]}: '{key}' of the base has no effect: it is what the others are added to"
                )

    def takes_tokenizer(self, top: Mapping[str, Node]) -> bool:
        return "tokenizer_source" in top and self.scalar(top["tokenizer_source"], "tokenizer_source") == "base"

    def require_given(self, recipe: Recipe, node: Node) -> None:
        """Refuse a recipe that lacks a parameter without a default."""
        for key, parameter in recipe.operator.parameters.items():
            if parameter.default is not None or key in recipe.shared:
                continue
            for segment in recipe.segments:
                lacking = [
                    model
                    for model, own in zip(recipe.models, segment.each, strict=True)
                    if key not in segment.shared and not (parameter.each and key in own)
                ]
                if lacking:
                    whose = f" for '{lacking[0]}'" if parameter.each else ""
                    self.refuse(node, f"{recipe.operator.name} needs the parameter '{key}'{whose}")

    def settings(self, node: Node | None, *, of_model: bool) -> dict[str, Setting]:
        """`parameters` of a model, a slice or the recipe."""
        if node is None:
            return {}
        settings = {}
        for key, (there, value) in self.pairs(node, "parameters").items():
            if key == IGNORED:
                what = f"{self.place(there)}: {IGNORED} changes nothing"
                self.notes.append(Finding("notes", what, "every merge is computed in float32", self.name))
                continue
            parameter = self.operator.parameters.get(key)
            if parameter is None:
                parameters = ", ".join(self.operator.parameters)
                self.refuse(there, f"{self.operator.name} has no parameter '{key}': it has {parameters}")
            if of_model and not parameter.each:
                self.refuse(
                    there, f"'{key}' is not a parameter of a single model: write it under the recipe's parameters"
                )
            settings[key] = self.setting(key, value, parameter)
        return settings

    def setting(self, key: str, node: Node, parameter: Parameter) -> Setting:
        """A value, a gradient, or cases of them by filter."""
        nodes = [node]
        if isinstance(node, SequenceNode) and node.value and all(isinstance(item, MappingNode) for item in node.value):
            nodes = node.value
        cases = (
            self.case(key, item, parameter)
            if isinstance(item, MappingNode)
            else (None, self.values(key, item, parameter))
            for item in nodes
        )
        return Setting(tuple(cases), tuple(map(self.place, nodes)))

    def case(self, key: str, node: Node, parameter: Parameter) -> tuple[str | None, tuple[Any, ...]]:
        entries = self.entries(node, ("filter", "value"), f"a case of '{key}'")
        if "value" not in entries:
            self.refuse(node, f"a case of '{key}' needs a value")
        part = self.text(entries["filter"], "filter") if "filter" in entries else None
        return None if part == "*" else part, self.values(key, entries["value"], parameter)

    def values(self, key: str, node: Node, parameter: Parameter) -> tuple[Any, ...]:
        items = node.value if isinstance(node, SequenceNode) else [node]
        if not items:
            self.refuse(node, f"'{key}' is an empty list")
        values = []
        for item in items:
            try:
                values.append(parameter.require(f"'{key}'", self.scalar(item, key)))
            except BadInput as error:
                if str(error).startswith(f"'{self.name}'"):
                    raise
                self.refuse(item, str(error))
        return tuple(values)

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
            self.refuse(
                top["dtype"],
                f"isthmus computes in float32 and saves in out_dtype, {saved}: leave dtype out, or the other",
            )
        return saved

    def tokenizer(self, node: Node | None, recipe: Recipe, base: str | None) -> str | None:
        """The model whose tokenizer is saved; None for that of the first model that has one, which all share."""
        if node is None:
            return None
        name = self.text(node, "tokenizer_source")
        if name == "union":  # all models have the same tokens, or they are not merged
            return None
        if name == "base":
            if base is None:
                self.refuse(node, "tokenizer_source is base, and there is no base_model")
            return base
        if name not in (*recipe.ingredients, base):
            self.refuse(node, f"tokenizer_source is base, union, or a model of the recipe; got '{name}'")
        return name
