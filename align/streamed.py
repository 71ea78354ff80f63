"""Alignment in little memory: pieces are read and made canonical when looked up."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

from torch import Tensor

from ..checkpoint.rows import ComputedState
from .canonical import canonical_pieces, linked
from .symmetry import Elements, Family, State

CACHED = 4  # groups of pieces that stay in memory


def stored_pieces(state: Mapping[str, Tensor], table: Family) -> ComputedState:
    """The pieces of a state as they are, by the table's names."""
    return ComputedState(table.pieces, lambda name: table.piece(state, name))


def streamed_canonical(state: Mapping[str, Tensor], table: Family) -> ComputedState:
    """The pieces of a state in canonical form, by the names of the untied table.

    They are made from those that they depend on when one is looked up. The last few groups of a layer stay in memory;
    embeddings, which are large and rarely looked up, do not.
    """
    untied, groups = table.untied(), linked(table.untied())
    entries = table.sources

    def made(group: frozenset[str]) -> State:
        parameters = {name: state[name] for name in {entries[name].parameter for name in group}}  # each read once
        stored = {name: entries[name].of(parameters[entries[name].parameter]) for name in group}
        return canonical_pieces(stored, untied)

    cached = lru_cache(CACHED)(made)

    def piece(name: str) -> Tensor:
        small = groups[name].isdisjoint({table.embedding, table.head})
        return (cached if small else made)(groups[name])[name]

    return ComputedState(untied.pieces, piece)


def joined_state(pieces: Mapping[str, Tensor], table: Family, elements: Elements | None = None) -> ComputedState:
    """The state of pieces under group elements, parameter by parameter when looked up."""
    parts, acting = table.parts(), elements or {}

    def tensor(parameter: str) -> Tensor:
        names = parts[parameter]
        return table.fused([table.act(name, pieces[name], acting) for name in names], names)

    return ComputedState(parts, tensor)
