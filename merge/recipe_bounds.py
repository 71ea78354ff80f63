"""Limits on a recipe, which may come from a stranger: its bytes, and its size with all aliases written out."""

from __future__ import annotations

from pathlib import Path

from yaml.nodes import CollectionNode, Node, ScalarNode

from ..checkpoint.errors import BadInput
from ..checkpoint.size_limits import RECIPE, read_bytes

ENTRIES, SCALAR = 50_000, 1_000


def recipe_text(path: Path) -> str:
    """The text of a recipe.

    Raises BadInput for a file that is too large, or not a plain one; OSError; UnicodeDecodeError.
    """
    return read_bytes(path, RECIPE, f"the recipe '{path.name}'").decode("utf-8")


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
