"""Alignment of models that are not in memory: pieces are read, and brought into canonical form, when looked up."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from threading import Lock

from torch import Tensor

from ..checkpoint.rows import ComputedState
from .canonical import canonical_pieces, linked
from .symmetry import Elements, Family, State

CACHED = 4  # groups of pieces that stay in memory


def stored_pieces(state: Mapping[str, Tensor], table: Family) -> ComputedState:
    """The pieces of a state as they are, by the table's names."""
    return ComputedState(table.pieces, lambda name: table.piece(state, name))


class CanonicalPieces(Mapping[str, Tensor]):
    """The pieces of a state in canonical form, made from those that they depend on when one is looked up.

    The last few groups of a layer stay in memory; embeddings, which are large and rarely looked up, do not.
    """

    def __init__(self, state: Mapping[str, Tensor], table: Family):
        self._state, self._stored, self.table = state, table, table.untied()
        self._groups = linked(self.table)
        self._cache: OrderedDict[frozenset[str], State] = OrderedDict()
        self._lock = Lock()

    def __getitem__(self, name: str) -> Tensor:
        group = self._groups[name]
        with self._lock:
            if group in self._cache:
                self._cache.move_to_end(group)
                return self._cache[group][name]
        pieces = canonical_pieces(self._read(group), self.table)
        if group.isdisjoint({self.table.embedding, self.table.head}):
            with self._lock:
                self._cache[group] = pieces
                while len(self._cache) > CACHED:
                    self._cache.popitem(last=False)
        return pieces[name]

    def _read(self, group: frozenset[str]) -> State:
        """The pieces of a group as they are stored, every parameter read once."""
        entries = {name: self.table.pieces[name] for name in group}
        if self._stored.tied and self.table.head in entries:
            entries[self.table.head] = self._stored.pieces[self._stored.embedding]
        parameters = {name: self._state[name] for name in {entry.parameter for entry in entries.values()}}
        return {name: entry.of(parameters[entry.parameter]) for name, entry in entries.items()}

    def __iter__(self) -> Iterator[str]:
        return iter(self.table.pieces)

    def __len__(self) -> int:
        return len(self.table.pieces)


def joined_state(pieces: Mapping[str, Tensor], table: Family, elements: Elements | None = None) -> ComputedState:
    """The state of pieces under group elements, parameter by parameter when looked up."""
    parts, acting = table.parts(), elements or {}

    def tensor(parameter: str) -> Tensor:
        names = parts[parameter]
        return table.fused([table.act(name, pieces[name], acting) for name in names], names)

    return ComputedState(parts, tensor)
