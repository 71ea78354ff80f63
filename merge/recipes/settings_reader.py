"""The parameters of a recipe, as mergekit writes them: values, gradients over the layers, and cases by filter."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from yaml.nodes import MappingNode, Node, SequenceNode

from ...checkpoint.checks.finding import Finding
from ...checkpoint.errors import BadInput
from ..operators.registry import Operator, Parameter
from .recipe import Recipe, Setting
from .yaml_reader import YamlReader

IGNORED = "int8_mask"  # mergekit takes it and does not use it, and many recipes have it


class SettingsReader(YamlReader):
    """A document whose parameters are those of an `operator`; `notes` are remarks for the user."""

    operator: Operator

    def __init__(self, name: str, root: Node, refused: Mapping[str, str]):
        super().__init__(name, root, refused)
        self.notes: list[Finding] = []

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
        """A value, a gradient, or cases of them by filter; a value among cases is one without a filter."""
        nodes = [node]
        if isinstance(node, SequenceNode) and any(isinstance(item, MappingNode) for item in node.value):
            nodes = node.value
        cases = (
            self.case(key, item, parameter)
            if isinstance(item, MappingNode)
            else (None, self.values(key, item, parameter))
            for item in nodes
        )
        return Setting(tuple(cases), tuple(map(self.place, nodes)))

    def case(self, key: str, node: Node, parameter: Parameter) -> tuple[str | None, tuple[Any, ...]]:
        """A value for tensors whose names contain a filter."""
        entries = self.entries(node, ("filter", "value"), f"a case of '{key}'")
        if "value" not in entries:
            self.refuse(node, f"a case of '{key}' needs a value")
        part = None
        if "filter" in entries and self.scalar(entries["filter"], "filter") is not None:
            part = self.text(entries["filter"], "filter")
        return None if part == "*" else part, self.values(key, entries["value"], parameter)

    def values(self, key: str, node: Node, parameter: Parameter) -> tuple[Any, ...]:
        """A value, or the values of a gradient."""
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

    def require_given(self, recipe: Recipe, node: Node) -> None:
        """Refuse a recipe that lacks a parameter without a default."""
        for key, parameter in recipe.operator.parameters.items():
            if parameter.default is not None or key in recipe.shared:
                continue
            for segment in recipe.segments:
                lacking = [
                    model
                    for model, own in zip(recipe.models_of(segment), segment.each, strict=True)
                    if key not in segment.shared and not (parameter.each and key in own)
                ]
                if lacking:
                    whose = f" for '{lacking[0]}'" if parameter.each else ""
                    self.refuse(node, f"{recipe.operator.name} needs the parameter '{key}'{whose}")
