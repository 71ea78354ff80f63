"""Alignment in little memory: pieces are read and made canonical when looked up."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache

from torch import Tensor

from ..checkpoint.rows import ComputedState
from .canonical import canonical_pieces, linked
from .gauge import balanced, regauge
from .groups import Matrices
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
    untied, entries = table.untied(), table.sources

    def made(group: frozenset[str]) -> State:
        parameters = {name: state[name] for name in {entries[name].parameter for name in group}}  # each read once
        stored = {name: entries[name].of(parameters[entries[name].parameter]) for name in group}
        return canonical_pieces(stored, untied)

    return _in_groups(untied, linked(untied), made)


def streamed_regauged(
    pieces: Mapping[str, Tensor], table: Family, elements: Elements, gauge: Mapping[str, Tensor]
) -> ComputedState:
    """Canonical pieces under group elements, with the gauge moved to `gauge`; `table` is untied."""

    def made(group: frozenset[str]) -> State:
        moved = {name: table.act(name, pieces[name], elements) for name in group}
        return regauge(moved, table, {name: value for name, value in gauge.items() if name in group})

    return _in_groups(table, linked(table), made)


def streamed_neutral(state: Mapping[str, Tensor], table: Family, basis: Elements) -> ComputedState:
    """The state that `isthmus.align.gauge.neutral` makes, under elements of the stream; `table` is untied."""
    pieces = stored_pieces(state, table)

    def made(group: frozenset[str]) -> State:
        return balanced(canonical_pieces({name: pieces[name] for name in group}, table), table)

    return joined_state(_in_groups(table, linked(table, Matrices), made), table, basis)


def _in_groups(
    table: Family, groups: Mapping[str, frozenset[str]], made: Callable[[frozenset[str]], State]
) -> ComputedState:
    """Pieces of which several are made together, when one is looked up."""
    cached = lru_cache(CACHED)(made)

    def piece(name: str) -> Tensor:
        small = groups[name].isdisjoint({table.embedding, table.head})
        return (cached if small else made)(groups[name])[name]

    return ComputedState(table.pieces, piece)


def joined_state(pieces: Mapping[str, Tensor], table: Family, elements: Elements | None = None) -> ComputedState:
    """The state of pieces under group elements, parameter by parameter when looked up."""
    parts, acting = table.parts(), elements or {}

    def tensor(parameter: str) -> Tensor:
        names = parts[parameter]
        return table.fused([table.act(name, pieces[name], acting) for name in names], names)

    return ComputedState(parts, tensor)
