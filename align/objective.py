"""The objective of weight matching, and what it says of one space at a time.

For canonical pieces A_p, B_p the elements g maximise Σ_p w_p ⟨A_p, g·B_p⟩. With all spaces but one fixed the problem is
linear in the element and has a closed form (Ainsworth et al. 2023, arXiv 2209.04836, for permutations; Theus et al.
2025, arXiv 2506.22712, for transformers):

- a space by itself by what its group says (`isthmus.align.groups.Group.solve`): permutations by the assignment problem
  on the similarity matrix, rotations of the residual stream by orthogonal Procrustes;
- heads jointly with the rotations inside them: the similarity of two heads is what the best rotations inside them
  attain, the sum of the nuclear norms of their QK and OV cross-products; neurons with the signs inside them likewise;
- groups of heads that share a key jointly with the order of their queries: for every two groups that order and the
  rotations in turn, until the order stays, from the one that is best when every query has a rotation of its own;
- experts by the router's rows and how alike their neurons can be, then the neurons of those that go together
  (`isthmus.align.experts`).

Correlations of activations (`isthmus.align.activations`) can stand beside the weights or in their place: a term
tr(gᵀ C) for every space, which counts `BESIDE_WEIGHTS` times what the weights on which the space acts do. That lowered
the barrier of three pairs of small models by 5, 10 and 16 percent; twice or four times as much did less.

Pieces keep their natural scale, but for those inside heads, which count `INSIDE_HEADS` times: query and key, value and
output act in products, and are small next to embeddings and MLPs. On four pairs of small models that lowered the
barrier by 0 to 4 percent.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from .experts import Experts
from .groups import NestedPermutation
from .memory import release_freed
from .scales import Scales
from .symmetry import Elements, Family

INSIDE_HEADS = 4.0
BESIDE_WEIGHTS = 0.5  # how much the activations of a space count, against all the weights on which it acts
ORDERS = 5  # how often the order of queries is looked for again
ROWS = 256  # in float64 at a time: what fits into a cache
WORKERS = 4  # layers that are solved at a time, at most


def inner(a: Tensor, b: Tensor) -> float:
    """⟨a, b⟩, summed in float64: torch's own sum of a float32 embedding is off by a thousandth."""
    parts = zip(a.split(ROWS), b.split(ROWS), strict=True)
    return sum(float((mine.double() * other.double()).sum()) for mine, other in parts)


def length(tensor: Tensor) -> float:
    """The Frobenius norm."""
    return math.sqrt(inner(tensor, tensor))


@dataclass(frozen=True)
class Solved:
    """The elements of some spaces, what they say of the stream, (n, n), and what pieces without a stream attain."""

    elements: Elements
    cross: Tensor | None
    value: float


class Objective:
    """The pieces of A and B that carry information, and the linearised problem of each space.

    `layers` are the spaces that are in no other, but for the `stream`; `heads` are those of them that are blocks with
    more than signs inside. Given the stream, all are independent of each other.
    """

    def __init__(
        self,
        a: Mapping[str, Tensor],
        b: Mapping[str, Tensor],
        table: Family,
        *,
        activations: Mapping[str, Tensor] | None = None,
        weigh: bool = True,
    ):
        self.table = table
        threads = torch.get_num_threads()
        workers = min(threads, WORKERS)
        # One pool for all passes: every new thread keeps memory of its own.
        self._pool = ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(threads // workers,))
        # What no activation shows is compared by weights all the same.
        self.names = table.compared if weigh else _unseen(table, activations or {})
        self.a, self.b = a, b
        self.weights = {name: self._weight(name) for name in self.names}
        bounds = {name: self.weights[name] * length(a[name]) * length(b[name]) for name in self.names}
        beside = {
            space: BESIDE_WEIGHTS * sum(bounds.get(name, 0.0) for name, _ in table.occurrences(space)) if weigh else 1.0
            for space in activations or {}
        }
        self.total = sum(bounds.values()) + sum(beside.values())
        self.seen = {space: beside[space] * cross for space, cross in (activations or {}).items()}
        self.stream = table.stream
        self.layers = [name for name, space in table.spaces.items() if name != table.stream and space.inside is None]
        nested = {name for name, space in table.spaces.items() if isinstance(space.group, NestedPermutation)}
        self.inner = {name: [one for one in table.inner(name) if one not in nested] for name in self.layers}
        self.nested = {name: one for name in self.layers for one in table.inner(name) if one in nested}
        self.experts = {name: Experts.of(table, name, one) for name, one in self.nested.items() if not self.inner[name]}
        # Spaces of blocks whose insides are more than signs.
        self.heads = [name for name in self.layers if any(table.spaces[one].group.size > 1 for one in self.inner[name])]
        # Pieces on whose blocks a space acts that has others inside, and none of these does.
        self.bare = {
            space: [
                name
                for name, _ in table.occurrences(space)
                if name in self.names and not any(set(inners) & set(axis.spaces) for axis in table.pieces[name].axes)
            ]
            for space, inners in (self.inner | {name: [one.neurons] for name, one in self.experts.items()}).items()
        }
        # Pieces that only the stream acts on give the same cross-product whatever the other elements are.
        self._stream_alone = {
            name: self._add_term(None, name, position, self.b[name])
            for name, position in table.occurrences(self.stream)
            if name in self.names and all(set(axis.spaces) <= {self.stream} for axis in table.pieces[name].axes)
        }
        owners = {inner: space for space in self.layers for inner in (space, *self._inside(space))}
        # The pieces on which a space acts, or one inside of it.
        self.of_layer: dict[str, list[str]] = {space: [] for space in self.layers}
        for name in self.names:
            acting = (space for axis in table.pieces[name].axes for space in axis.spaces)
            for owner in [owners[space] for space in acting if space in owners][:1]:
                self.of_layer[owner].append(name)
        moved_by_none = set(self.names).difference(self._stream_alone, *self.of_layer.values())
        self._fixed = sum(self.weights[name] * inner(a[name], b[name]) for name in moved_by_none)

    def _inside(self, space: str) -> Iterator[str]:
        for inner in self.table.inner(space):
            yield from (inner, *self._inside(inner))

    def _has_stream(self, name: str) -> bool:
        return any(self.stream in axis.spaces for axis in self.table.pieces[name].axes)

    def _weight(self, name: str) -> float:
        acting = {space for axis in self.table.pieces[name].axes for space in axis.spaces}
        heads = any(
            self.table.spaces[space].inside and not isinstance(self.table.spaces[space].group, Scales)
            for space in acting
        )
        return INSIDE_HEADS if heads else 1.0

    def _add_term(self, total: Tensor | None, name: str, position: int, moved: Tensor) -> Tensor:
        """w Bᵀ A of one piece along one axis: (n, n), rows B, columns A; added to a total in place, if there is one."""
        mine, other = (x.movedim(position, 0).reshape(x.shape[position], -1) for x in (self.a[name], moved))
        if total is None:
            return torch.addmm(other.new_zeros(()), other, mine.T, beta=0, alpha=self.weights[name])
        return total.addmm_(other, mine.T, alpha=self.weights[name])

    def cross(
        self, space: str, elements: Elements, names: Collection[str], seen: Tensor | None = None
    ) -> Tensor | None:
        """Σ_p w_p B'_pᵀ A_p along the axes of `space`, B' transformed by all other spaces: (n, n), rows B, columns A.

        Over the pieces with some `names`; what the activations say, `seen`, is added. None for nothing at all.
        """
        skip = frozenset((space, *self.table.inner(space)))
        total: Tensor | None = None
        for name, position in self.table.occurrences(space):
            if name not in self.names or name not in names:
                continue
            if space == self.stream and name in self._stream_alone:
                term = self._stream_alone[name]
                total = term.clone() if total is None else total.add_(term)
            else:
                total = self._add_term(total, name, position, self.table.act(name, self.b[name], elements, skip=skip))
        if seen is None:
            return total
        return seen.clone() if total is None else total + seen

    def starts(self) -> Elements:
        """Elements of the stream to begin with, by name."""
        alone = self._stream_alone
        group = self.table.spaces[self.stream].group
        crosses = {}
        if alone:
            crosses["all embeddings"] = sum(alone.values(), torch.zeros(group.size, group.size))
            names = {"embedding": self.table.embedding, "unembedding": self.table.head}
            crosses |= {name: alone[piece] for name, piece in names.items() if piece in alone}
        if self.stream in self.seen:
            crosses["activations"] = self.seen[self.stream]
        solved = {name: group.solve(cross) for name, cross in crosses.items()}
        return solved | {"identity": group.identity()}

    def similarity(self, space: str, elements: Elements) -> tuple[Tensor, dict[str, Tensor], Tensor | None]:
        """How alike two blocks of a space are, (blocks of B, blocks of A), with what is inside of them at its best.

        With it the cross-products of all pairs of blocks that the spaces inside have, (B, A, d, d), and the order of
        nested parts that is best for every pair, (B, A, parts).
        """
        count, nested = self.table.spaces[space].group.size, self.nested.get(space)
        values = self.cross(space, elements, self.bare[space], self.seen.get(space))
        if values is not None and len(values) > count:
            values = _pairs(values, count).diagonal(dim1=-2, dim2=-1).sum(-1)
        inside = {name for name, _ in self.table.occurrences(nested)} if nested else set()
        alone: dict[str, Tensor] = {}
        parts: dict[str, Tensor] = {}
        for inner in self.inner[space]:
            acted = {name for name, _ in self.table.occurrences(inner)}
            cross = self.cross(space, elements, acted - inside, self.seen.get(inner))
            size = self.table.spaces[inner].group.size
            alone[inner] = (
                torch.zeros(count, count, size, size, dtype=torch.float64)
                if cross is None
                else _pairs(cross.double(), count)
            )
            if nested is not None:
                seen = self.seen.get(nested) if inner in self._acting(nested) else None
                cross = self.cross(space, elements, acted & inside, seen)
                if cross is not None:
                    parts[inner] = _pairs_of_parts(cross.double(), count, self.table.spaces[nested].group.size)
        order = None
        if nested is not None:
            order = self._order(nested, alone, parts)
            for inner, crosses in parts.items():
                alone[inner] = alone[inner] + _ordered(crosses, order).sum(2)
        for inner, crosses in alone.items():
            attained = self.table.spaces[inner].group.attained(crosses)
            values = attained if values is None else attained.add_(values)
        assert values is not None
        return values, alone, order

    def _acting(self, space: str) -> set[str]:
        return {one for place in self.table.activations if place.space == space for one in place.acting}

    def _order(self, nested: str, alone: Mapping[str, Tensor], parts: Mapping[str, Tensor]) -> Tensor:
        """The order of the parts of every block of B for which, with it, the spaces inside attain the most."""
        group, groups = self.table.spaces[nested].group, {name: self.table.spaces[name].group for name in parts}
        alike = torch.stack([groups[name].attained(crosses) for name, crosses in parts.items()]).sum(0)
        order = group.solve(alike)
        for _ in range(ORDERS):
            alike = torch.zeros_like(alike)
            for name, crosses in parts.items():
                total = alone[name] + _ordered(crosses, order).sum(2)
                element = groups[name].solve(total.flatten(0, 1)).view_as(total)
                alike = alike + (crosses * element[:, :, None, None]).sum((-1, -2))
            previous, order = order, group.solve(alike)
            if torch.equal(order, previous):
                break
        return order

    def solve_blocks(self, space: str, elements: Elements) -> tuple[Elements, float]:
        """A space of blocks and the spaces inside of it, jointly optimal; what they attain."""
        if space in self.experts:
            return self._solve_experts(space, elements)
        group = self.table.spaces[space].group
        values, crosses, order = self.similarity(space, elements)
        solved = {space: group.solve(values)}
        blocks = torch.arange(group.size)
        for inner, pairs in crosses.items():
            solved[inner] = self.table.spaces[inner].group.solve(pairs[solved[space], blocks])
        if order is not None:
            solved[self.nested[space]] = order[solved[space], blocks]
        return solved, group.trace(values, solved[space])

    def _solve_experts(self, space: str, elements: Elements) -> tuple[Elements, float]:
        experts = self.experts[space]
        skip = frozenset((space, experts.neurons, *experts.scales))
        acted = [name for name, _ in self.table.occurrences(experts.neurons) if name in self.names]
        a = {name: self.a[name] for name in acted}
        b = {name: self.weights[name] * self.table.act(name, self.b[name], elements, skip=skip) for name in acted}
        return experts.solve(self.table, a, b, self.cross(space, elements, self.bare[space]))

    def _solve_layer(self, space: str, elements: Elements) -> Solved:
        """One space of a layer, and what its pieces say of the stream then: each is looked up once, for both."""
        solved, _ = self.solve_blocks(space, elements)
        now = elements | solved
        value = 0.0
        for name in self.of_layer[space]:
            if not self._has_stream(name):
                moved = self.table.act(name, self.b[name], now)
                value += self.weights[name] * inner(self.a[name], moved)
        return Solved(solved, self.cross(self.stream, now, self.of_layer[space]), value)

    def solve(self, spaces: Iterable[str], elements: Elements) -> Solved:
        """Some spaces of layers for a given element of the stream, several at a time."""
        solved: Elements = {}
        cross, value = None, 0.0
        for layer in self._pool.map(lambda space: self._solve_layer(space, elements), spaces):
            solved |= layer.elements
            value += layer.value
            release_freed()
            if layer.cross is not None:
                cross = layer.cross if cross is None else cross.add_(layer.cross)
        return Solved(solved, cross, value)

    def solve_stream(self, layers: Collection[Solved]) -> tuple[Elements, float]:
        """The stream for given elements of layers, all of them, and the objective that they attain together."""
        elements = {name: element for layer in layers for name, element in layer.elements.items()}
        cross = self.cross(self.stream, elements, self._stream_alone, self.seen.get(self.stream))
        for layer in layers:
            if layer.cross is not None:
                cross = layer.cross.clone() if cross is None else cross.add_(layer.cross)
        assert cross is not None
        elements[self.stream] = self.table.spaces[self.stream].group.solve(cross)
        return elements, self._attained(elements, cross, sum(layer.value for layer in layers))

    def _attained(self, elements: Elements, cross: Tensor, value: float) -> float:
        """Σ_p w_p ⟨A_p, g·B_p⟩ + Σ tr(gᵀ C) over its upper bound Σ_p w_p ‖A_p‖ ‖B_p‖ + …: 1 for an exact copy.

        From the stream's `cross`-product, in which all pieces that the stream acts on are summed up, and the `value` of
        the others.
        """
        moved = self.table.act_on_space(self.stream, cross, 0, elements)
        value += self._fixed + float(moved.diagonal().sum(dtype=torch.float64))
        for space, seen in self.seen.items():
            if space != self.stream and space in elements:  # neurons are solved after heads
                value += float(self.table.act_on_space(space, seen, 0, elements).diagonal().sum())
        return value / self.total

    def promises(self, starts: Mapping[str, Tensor]) -> dict[str, float]:
        """How good elements of the stream are to start with, by name.

        That is an upper bound of what its own pieces and the heads of the first and the last layer attain with each, or
        the neurons, where a table has no heads.
        """
        crosses = [*self._stream_alone.values(), *([self.seen[self.stream]] if self.stream in self.seen else [])]
        begun: dict[str, Elements] = {start: {self.stream: element} for start, element in starts.items()}
        values = {
            start: sum(
                float(self.table.act_on_space(self.stream, cross, 0, elements).diagonal().sum()) for cross in crosses
            )
            for start, elements in begun.items()
        }
        for name in _ends(self.heads or self.layers):  # one after the other for all starts: it may be read from disk
            bounds = self._pool.map(partial(self._bound, name), begun.values())
            for start, bound in zip(begun, bounds, strict=True):
                values[start] += bound
        return values

    def _bound(self, space: str, elements: Elements) -> float:
        """What a space of blocks attains at most, with what is inside of them at its best."""
        if space in self.experts:
            return self._solve_experts(space, elements)[1]
        return float(self.table.spaces[space].group.bound(self.similarity(space, elements)[0]))


def _unseen(table: Family, seen: Mapping[str, Tensor]) -> tuple[str, ...]:
    """The pieces on which spaces act that are not seen, nor is anything inside of them."""
    shown = {one for space in seen for one in (*table.outer(space), space)}
    return tuple(
        name
        for name in table.compared
        if any(space not in shown for axis in table.pieces[name].axes for space in axis.spaces)
    )


def _ends(names: Sequence[str]) -> Iterable[str]:
    """The first and the last, once if they are the same."""
    return dict.fromkeys([*names[:1], *names[-1:]])


def _pairs(cross: Tensor, count: int) -> Tensor:
    """A cross-product of axes with `count` blocks as those of pairs of blocks: (blocks of B, blocks of A, d, d)."""
    return torch.unflatten(torch.unflatten(cross, 0, (count, -1)), 2, (count, -1)).transpose(1, 2)


def _pairs_of_parts(cross: Tensor, count: int, parts: int) -> Tensor:
    """The same for blocks of equal `parts`: (blocks of B, blocks of A, parts of B, parts of A, d, d)."""
    split = torch.unflatten(torch.unflatten(cross, 1, (count, parts, -1)), 0, (count, parts, -1))
    return split.permute(0, 3, 1, 4, 2, 5)


def _ordered(crosses: Tensor, order: Tensor) -> Tensor:
    """Of the cross-products of parts, those that an order (B, A, parts) brings together: (B, A, parts, d, d)."""
    index = order[:, :, None, :, None, None].expand(-1, -1, 1, -1, *crosses.shape[-2:])
    return crosses.gather(2, index)[:, :, 0]
