"""Limits on a recipe, which may come from a stranger: its bytes, and its size with all aliases written out."""

from __future__ import annotations

import os
from pathlib import Path

import yaml
from yaml.nodes import CollectionNode, Node, ScalarNode

from ...checkpoint.errors import BadInput
from ...checkpoint.size_limits import RECIPE, read_bytes

ENTRIES, SCALAR = 50_000, 1_000


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
