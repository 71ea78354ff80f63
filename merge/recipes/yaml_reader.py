"""YAML that is read value by value, so that whatever is wrong with it is named with its line.

A recipe may come from a stranger: its bytes are limited, and its size with all aliases written out.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

import yaml
from yaml.nodes import CollectionNode, MappingNode, Node, ScalarNode, SequenceNode

from ...checkpoint.errors import BadInput, one_line
from ...checkpoint.size_limits import RECIPE, read_bytes

SUFFIXES = frozenset({".yml", ".yaml"})
ENTRIES, SCALAR = 50_000, 1_000


def documents(text: str, name: str) -> list[Node]:
    """The documents in YAML that are not empty. Raises BadInput for text that is not YAML, or larger than a recipe."""
    try:
        nodes = [node for node in yaml.compose_all(text, Loader=yaml.SafeLoader) if node is not None]
        nodes = [node for node in nodes if not (isinstance(node, ScalarNode) and node.value == "")]
        for node in nodes:
            require_small(node, name)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise BadInput(f"'{name}', line {line}: this is not YAML: {error.problem}") from None
    except RecursionError:
        raise BadInput(f"'{name}' is not a recipe: its lists are nested too deeply") from None
    except (yaml.YAMLError, ValueError) as error:
        raise BadInput(f"'{name}' is not YAML: {one_line(error)}") from None
    return nodes


class YamlReader:
    """One document in YAML, `root`, and the errors that name the file and a line.

    `refused` are keys that are not taken anywhere, and why.
    """

    def __init__(self, name: str, root: Node, refused: Mapping[str, str]):
        self.name, self.root, self.refused = name, root, refused

    def refuse(self, node: Node, why: str) -> NoReturn:
        """Raise BadInput with the line of a node."""
        raise BadInput(f"{self.place(node)}: {why}") from None

    def place(self, node: Node) -> str:
        """The file and the line of a node."""
        return f"'{self.name}', line {node.start_mark.line + 1}"

    def entries(self, node: Node, keys: Collection[str], what: str) -> dict[str, Node]:
        """The values of a mapping by key. Raises BadInput for a key that is not among `keys`."""
        values = {}
        for key, (there, value) in self.pairs(node, what).items():
            if key in self.refused:
                self.refuse(there, f"isthmus does not take '{key}': {self.refused[key]}")
            if key not in keys:
                self.refuse(there, f"'{key}' is not known in {what}: it has {', '.join(keys)}")
            values[key] = value
        return values

    def pairs(self, node: Node, what: str) -> dict[str, tuple[Node, Node]]:
        """The entries of a mapping: key → (the node of the key, that of its value)."""
        if not isinstance(node, MappingNode):
            self.refuse(node, f"{what} is written as 'key: value'")
        pairs: dict[str, tuple[Node, Node]] = {}
        for there, value in node.value:
            key = self.text(there, "a key")
            if key in pairs:
                self.refuse(there, f"'{key}' appears twice")
            pairs[key] = (there, value)
        return pairs

    def items(self, node: Node, what: str) -> Iterator[Node]:
        """The items of a list that is not empty."""
        if not isinstance(node, SequenceNode) or not node.value:
            self.refuse(node, f"{what} is a list of one or more")
        return iter(node.value)

    def text(self, node: Node, what: str) -> str:
        """The value of a scalar that is text, and not empty."""
        value = self.scalar(node, what)
        if not isinstance(value, str) or not value:
            self.refuse(node, f"{what} is text; got {value!r}")
        return value

    def scalar(self, node: Node, what: str) -> Any:
        """The value of a scalar."""
        if not isinstance(node, ScalarNode):
            self.refuse(node, f"{what} is a single value")
        try:
            return yaml.SafeLoader("").construct_object(node)
        except (yaml.YAMLError, ValueError, TypeError, ArithmeticError, LookupError, AttributeError):
            kind = node.tag.removeprefix("tag:yaml.org,2002:")
            shown = f"{node.value[:40]}{'...' * (len(node.value) > 40)}"
            self.refuse(node, f"{what} cannot be read: {shown!a} is not a value of YAML's type {ascii(kind)[1:-1]}")


def is_recipe(text: str) -> bool:
    """Whether a name is that of a recipe, not of a model."""
    return Path(text).suffix.lower() in SUFFIXES


def recipe_text(path: Path) -> str:
    """The text of a recipe.

    Raises BadInput for a file that is too large, or not a plain one; OSError; UnicodeDecodeError.
    """
    return read_bytes(path, RECIPE, f"the recipe '{path.name}'").decode("utf-8")


def directories_in(recipe: Path) -> list[str]:
    """The directories that a recipe names anywhere, even where that has no effect; none of one that cannot be read."""
    try:
        nodes = list(yaml.compose_all(recipe_text(recipe), Loader=yaml.SafeLoader))
    except (OSError, ValueError, yaml.YAMLError, RecursionError, BadInput):
        return []  # who reads it says so
    names: set[str] = set()
    seen: set[int] = set()
    while nodes:
        node = nodes.pop()
        if node is None or id(node) in seen:
            continue
        seen.add(id(node))
        if isinstance(node, ScalarNode):
            names.add(node.value)
        nodes += _children(node)
    # os.path, because a name that cannot be one is no error here
    return sorted(name for name in names if name and os.path.isdir(os.path.expanduser(name)))  # noqa: PTH111, PTH112


def require_small(root: Node | None, name: str) -> None:
    """Raise BadInput for a recipe of more than `ENTRIES` entries with its aliases written out, or a very long value."""
    sizes: dict[int, int | None] = {}  # None while the children of a node are counted

    def size(node: Node) -> int:
        if id(node) not in sizes:
            sizes[id(node)] = None
            sizes[id(node)] = 1 + sum(map(size, _children(node)))
        entries = sizes[id(node)]
        if entries is None:
            raise BadInput(
                f"'{name}', line {node.start_mark.line + 1}: an alias stands for a list or mapping that it is a part of"
            )
        if entries > ENTRIES:
            raise BadInput(
                f"'{name}', line {node.start_mark.line + 1}: this has more than {ENTRIES:,} entries once its "
                "aliases are written out: no merge needs them"
            )
        if isinstance(node, ScalarNode) and len(node.value) > SCALAR:
            raise BadInput(f"'{name}', line {node.start_mark.line + 1}: a value has more than {SCALAR:,} characters")
        return entries

    if root is not None:
        size(root)


def _children(node: Node) -> list[Node]:
    if not isinstance(node, CollectionNode):
        return []
    return [part for entry in node.value for part in (entry if isinstance(entry, tuple) else (entry,))]
