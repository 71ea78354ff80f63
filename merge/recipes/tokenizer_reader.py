"""What a recipe says of the tokenizer: whose tokens the merge has, where rows of single tokens come from, its chat
template.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from yaml.nodes import MappingNode, Node

from .recipe import TokenRow, Vocabulary
from .settings_reader import SettingsReader

TOKENIZER = ("source", "tokens", "pad_to_multiple_of")
KINDS = ("zero", "model_token")
LONGEST_NAME = 256  # characters of what may be the name of a chat template


class TokenizerReader(SettingsReader):
    """A document that may have ``tokenizer_source`` or ``tokenizer``, and ``chat_template``."""

    def vocabulary(self, top: Mapping[str, Node], models: Collection[str], base: str | None) -> Vocabulary | None:
        """What the recipe says of the vocabulary; None where it says nothing. `models` are those that are there."""
        if "tokenizer_source" in top and "tokenizer" in top:
            self.refuse(top["tokenizer"], "tokenizer and tokenizer_source contradict each other: leave one out")
        if "tokenizer_source" in top:
            node = top["tokenizer_source"]
            return Vocabulary(self.vocabulary_source(node, models, base, "tokenizer_source"), place=self.place(node))
        if "tokenizer" not in top:
            return None
        node = top["tokenizer"]
        entries = self.entries(node, TOKENIZER, "tokenizer")
        source = "union"
        if "source" in entries:
            source = self.vocabulary_source(entries["source"], models, base, "source")
        return Vocabulary(
            source,
            tuple(self.token_rows(entries["tokens"], models)) if "tokens" in entries else (),
            self.multiple(entries.get("pad_to_multiple_of")),
            self.place(entries.get("source", node)),
        )

    def vocabulary_source(self, node: Node, models: Collection[str], base: str | None, key: str) -> str:
        """``union``, or the model whose tokenizer it is."""
        name = self.text(node, key)
        if name == "union":
            return name
        if name == "base":
            if base is None:
                self.refuse(node, f"{key} is base, and there is no base_model")
            if base not in models:
                self.refuse(node, f"{key} is base, and '{base}' is a stage: name a model")
            return base
        if name not in models:
            self.refuse(node, f"{key} is base, union, or a model of the recipe; got '{name}'")
        return name

    def token_rows(self, node: Node, models: Collection[str]) -> list[TokenRow]:
        """Where the rows of single tokens come from."""
        rows = []
        for token, (there, value) in self.pairs(node, "tokens").items():
            entries = self.entries(value, ("source", "force"), "a token")
            if "source" not in entries:
                self.refuse(there, f"the token '{token}' needs a source: a model, or {{kind: zero}}")
            force = self.scalar(entries["force"], "force") if "force" in entries else False
            if not isinstance(force, bool):
                self.refuse(entries["force"], f"force is true or false; got {force!r}")
            model, other = self.token_source(entries["source"], models)
            rows.append(TokenRow(token, model, other, force, self.place(there)))
        return rows

    def token_source(self, node: Node, models: Collection[str]) -> tuple[str | None, str | int | None]:
        """The model whose row it is, None for zeros; and the token whose row that is, where it is another one."""
        if not isinstance(node, MappingNode):
            return self.token_model(node, models), None
        entries = self.entries(node, ("kind", "model", "token", "token_id"), "the source of a token")
        kind = self.text(entries["kind"], "kind") if "kind" in entries else None
        if kind not in KINDS:
            self.refuse(entries.get("kind", node), f"kind is zero or model_token; got {kind!r}")
        if kind == "zero":
            for key in entries.keys() - {"kind"}:
                self.refuse(entries[key], f"zeros have no {key}: leave it out")
            return None, None
        if "model" not in entries:
            self.refuse(node, "a model_token needs a model")
        model = self.token_model(entries["model"], models)
        if ("token" in entries) == ("token_id" in entries):
            self.refuse(node, "a model_token needs token or token_id, one of both")
        if "token" in entries:
            return model, self.text(entries["token"], "token")
        number = self.scalar(entries["token_id"], "token_id")
        if type(number) is not int or number < 0:
            self.refuse(entries["token_id"], f"token_id is a whole number, 0 or more; got {number!r}")
        return model, number

    def token_model(self, node: Node, models: Collection[str]) -> str:
        """A model that a row comes from."""
        name = self.text(node, "the source of a token")
        if name not in models:
            self.refuse(node, f"the source of a token is a model of the recipe; got '{name}'")
        return name

    def multiple(self, node: Node | None) -> int | None:
        """What the number of rows is a multiple of."""
        number = None if node is None else self.scalar(node, "pad_to_multiple_of")
        if node is not None and (type(number) is not int or not 1 <= number <= 2**16):
            self.refuse(node, f"pad_to_multiple_of is a whole number from 1 to 65536; got {number!r}")
        return number

    def template(self, top: Mapping[str, Node]) -> str | None:
        """``auto``, or the text of a chat template."""
        if "chat_template" not in top:
            return None
        node = top["chat_template"]
        text = self.text(node, "chat_template")
        if text != "auto" and "{" not in text:
            shown = text if len(text) <= LONGEST_NAME else f"{text[:LONGEST_NAME]}..."
            self.refuse(
                node, f"isthmus has no chat templates by name, such as '{shown}': write auto, or the template itself"
            )
        return text
