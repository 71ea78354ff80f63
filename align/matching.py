"""Weight matching: coordinate descent over all spaces of a symmetry table.

For canonical pieces A_p, B_p the elements g maximise Σ_p w_p ⟨A_p, g·B_p⟩, one space at a time. With the others fixed
the problem is linear in the element and has a closed form (Ainsworth et al. 2023, arXiv 2209.04836, for permutations;
Theus et al. 2025, arXiv 2506.22712, for transformers):

- permutations by the assignment problem on the similarity matrix;
- rotations of the residual stream by orthogonal Procrustes on the complement of the all-ones vector, which stays fixed;
- heads jointly with the rotations inside them: the similarity of two heads is the sum of the nuclear norms of their
  QK and OV cross-products, which is what the best rotation inside them attains.

Correlations of activations (`isthmus.align.activations`) can stand beside the weights or in their place: a term
tr(gᵀ C) for every space, which counts `BESIDE_WEIGHTS` times what the weights on which the space acts do. That lowered
the barrier of three pairs of small models by 5, 10 and 16 percent; twice or four times as much did less.

Every step increases the objective, so it converges; to which optimum depends on the start. `match` compares several.
Pieces keep their natural scale, but for those inside heads, which count `INSIDE_HEADS` times: query and key, value and
output act in products, and are small next to embeddings and MLPs. On four pairs of small models that lowered the
barrier by 0 to 4 percent.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch import Tensor

from .memory import release_freed
from .symmetry import Elements, Family, act, act_on_piece

INSIDE_HEADS = 4.0
BESIDE_WEIGHTS = 0.5  # how much the activations of a space count, against all the weights on which it acts
COPY = 1e-7  # how close to the upper bound an objective is taken for that of an exact copy


@dataclass(frozen=True)
class Matching:
    """Elements found, the objective they attain as a cosine in [-1, 1], and how many sweeps it took."""

    elements: Elements
    score: float
    sweeps: int
    start: str


def assignment(similarity: Tensor) -> Tensor:
    """The permutation p that maximises Σ_i similarity[p[i], i]; similarity (n, n), rows B, columns A."""
    from scipy.optimize import linear_sum_assignment  # a third of a second that a plain average does not need

    # In the layout and with the sign that scipy works on, so that it makes no copies of its own.
    costs = torch.empty(similarity.shape, dtype=torch.float64).copy_(similarity.T).neg_()
    _, columns = linear_sum_assignment(costs.numpy())
    return torch.from_numpy(columns).to(torch.int64)


def procrustes(cross: Tensor) -> Tensor:
    """The orthogonal Q that maximises tr(Qᵀ cross), batched over leading axes; cross = Bᵀ A, (..., n, n), float64."""
    left, _, right = torch.linalg.svd(cross.double())
    return torch.matmul(left, right)


def stream_rotation(cross: Tensor) -> Tensor:
    """The orthogonal Q with Q·1 = 1 that maximises tr(Qᵀ cross); cross (n, n), float64.

    Both sides are projected on the complement of 1, where Procrustes is solved; 1 maps to itself.
    """
    size = cross.shape[0]
    ones = torch.full((size, size), 1.0 / size, dtype=torch.float64)
    centre = torch.eye(size, dtype=torch.float64) - ones
    centred = centre @ cross.double() @ centre
    return procrustes(centred + ones * (1.0 + torch.linalg.matrix_norm(centred)))


class _Problem:
    """The pieces of A and B that carry information, and the linearised problem of each space."""

    def __init__(
        self,
        a: Mapping[str, Tensor],
        b: Mapping[str, Tensor],
        table: Family,
        *,
        rotate: bool,
        inside: bool = True,
        activations: Mapping[str, Tensor] | None = None,
        weigh: bool = True,
    ):
        self.table, self.rotate, self.turn_heads = table, rotate, rotate and inside
        self._pool = ThreadPoolExecutor(max_workers=2)  # one for all sweeps: every new thread keeps memory of its own
        constant = {norm.weight for norm in table.norms}  # all ones in canonical form
        self.names = [
            name
            for name, entry in table.pieces.items()
            if weigh and name not in constant and any(axis.spaces for axis in entry.axes)
        ]
        self.a, self.b = a, b
        self.weights = {name: self._weight(name) for name in self.names}
        bounds = {name: self.weights[name] * float(a[name].norm() * b[name].norm()) for name in self.names}
        beside = {
            space: BESIDE_WEIGHTS * sum(bounds.get(name, 0.0) for name, _ in table.occurrences(space)) if weigh else 1.0
            for space in activations or {}
        }
        self.total = sum(bounds.values()) + sum(beside.values())
        self.seen = {space: beside[space] * cross for space, cross in (activations or {}).items()}
        self.inner = table.inner_spaces()
        self.stream = next(name for name, space in table.spaces.items() if space.kind == "stream")
        self.layers = [name for name, space in table.spaces.items() if space.kind in ("neurons", "heads")]
        # Pieces that only the stream acts on give the same cross-product whatever the other elements are.
        self._stream_alone = {
            name: self._term(name, position, self.b[name])
            for name, position in table.occurrences(self.stream)
            if name in self.names and all(set(axis.spaces) <= {self.stream} for axis in table.pieces[name].axes)
        }

    def _weight(self, name: str) -> float:
        acting = {space for axis in self.table.pieces[name].axes for space in axis.spaces}
        return INSIDE_HEADS if any(self.table.spaces[space].kind == "inner" for space in acting) else 1.0

    def _term(self, name: str, position: int, moved: Tensor) -> Tensor:
        """w Bᵀ A of one piece along one axis: (n, n), rows B, columns A."""
        mine, other = (x.movedim(position, 0).reshape(x.shape[position], -1) for x in (self.a[name], moved))
        return self.weights[name] * (other @ mine.T)

    def cross(self, space: str, elements: Elements, acted_by: str | None = None) -> Tensor:
        """Σ_p w_p B'_pᵀ A_p along the axes of `space`, B' transformed by all other spaces: (n, n), rows B, columns A.

        With `acted_by`, over the pieces on which that space acts, too. What the activations say is added.
        """
        skip = frozenset((space, *self.inner.get(space, ())))
        wanted = {name for name, _ in self.table.occurrences(acted_by)} if acted_by else set(self.names)
        seen = self.seen.get(acted_by or space)
        total = None if seen is None else seen.clone()
        for name, position in self.table.occurrences(space):
            if name not in self.names or name not in wanted:
                continue
            if space == self.stream and name in self._stream_alone:
                term = self._stream_alone[name]
            else:
                moved = act_on_piece(self.b[name], self.table.pieces[name], elements, skip=skip)
                term = self._term(name, position, moved)
            total = term.clone() if total is None else total.add_(term)
        assert total is not None
        return total

    def starts(self) -> Elements:
        """Elements of the stream to begin with, by name."""
        alone = self._stream_alone
        size = self.table.spaces[self.stream].size
        crosses = {}
        if alone:
            crosses["all embeddings"] = sum(alone.values(), torch.zeros(size, size))
            crosses["embedding"], crosses["unembedding"] = alone[self.table.embedding], alone[self.table.head]
        if self.stream in self.seen:
            crosses["activations"] = self.seen[self.stream]
        found = {name: self.solve_stream(cross) for name, cross in crosses.items()}
        return found | {"identity": torch.eye(size, dtype=torch.float64) if self.rotate else torch.arange(size)}

    def solve_stream(self, cross: Tensor) -> Tensor:
        """The residual stream, by Procrustes or by assignment."""
        return stream_rotation(cross) if self.rotate else assignment(cross)

    def solve_heads(self, space: str, elements: Elements) -> tuple[Elements, float]:
        """Heads by assignment and the inside of heads by rotation or permutation, jointly optimal; what they attain."""
        count = self.table.spaces[space].size
        crosses, values = {}, torch.zeros(count, count, dtype=torch.float64)
        for inner in self.inner[space]:
            full = self.cross(space, elements, acted_by=inner).double()
            rows = torch.unflatten(full, 0, (count, -1))
            pairs = torch.unflatten(rows, 2, (count, -1)).transpose(1, 2)
            crosses[inner] = pairs  # (heads of B, heads of A, d, d)
            if self.turn_heads:
                values += torch.linalg.svdvals(pairs).sum(-1)
            else:
                values += (_permutation_matrices(pairs) * pairs).sum((-1, -2))
        order = assignment(values)
        solved: Elements = {space: order}
        for inner, pairs in crosses.items():
            chosen = pairs[order, torch.arange(count)]
            solved[inner] = procrustes(chosen) if self.turn_heads else _permutation_matrices(chosen)
        return solved, float(values[order, torch.arange(count)].sum())

    def solve_layers(self, elements: Elements) -> Elements:
        """Neurons and heads of all layers given the stream: independent of each other, so two at a time."""

        def solve(space: str) -> Elements:
            if self.table.spaces[space].kind == "heads":
                return self.solve_heads(space, elements)[0]
            return {space: assignment(self.cross(space, elements))}

        solved = dict(elements)
        for found in self._pool.map(solve, self.layers):
            solved |= found
        return solved

    def sweep(self, elements: Elements) -> tuple[Elements, float]:
        """All spaces once, the layers first, and the objective that the new elements attain."""
        elements = self.solve_layers(elements)
        cross = self.cross(self.stream, elements)
        elements[self.stream] = self.solve_stream(cross)
        return elements, self._objective(elements, cross)

    def objective(self, elements: Elements) -> float:
        """Σ_p w_p ⟨A_p, g·B_p⟩ + Σ tr(gᵀ C) over its upper bound Σ_p w_p ‖A_p‖ ‖B_p‖ + …: 1 for an exact copy."""
        return self._objective(elements, self.cross(self.stream, elements))

    def _objective(self, elements: Elements, cross: Tensor) -> float:
        """The same from the stream's cross-product, in which all pieces that the stream acts on are summed up."""
        found = float((act(cross, 0, elements[self.stream]).diagonal()).sum(dtype=torch.float64))
        for name in self.names:
            piece = self.table.pieces[name]
            if not any(self.stream in axis.spaces for axis in piece.axes):
                moved = act_on_piece(self.b[name], piece, elements)
                found += self.weights[name] * float((self.a[name] * moved).sum(dtype=torch.float64))
        outer = {inner: heads for heads, inners in self.inner.items() for inner in inners}
        for space, seen in self.seen.items():
            if space != self.stream:
                for acting in filter(None, (outer.get(space), space)):
                    seen = act(seen, 0, elements[acting])
                found += float(seen.diagonal().sum())
        return found / self.total

    def promise(self, residual: Tensor) -> float:
        """How good a start is: an upper bound of what the stream's own pieces and some layers attain with it.

        The first and the last layer are looked at. Heads are solved; every neuron may take the best of the other
        side's, which spares the assignment problem.
        """
        elements: Elements = {self.stream: residual}
        said = [*self._stream_alone.values(), *(self.seen[name] for name in (self.stream,) if name in self.seen)]
        found = sum(float(act(cross, 0, residual).diagonal().sum()) for cross in said)
        for kind in ("neurons", "heads"):
            names = [name for name in self.layers if self.table.spaces[name].kind == kind]
            for name in dict.fromkeys((names[0], names[-1])):
                if kind == "heads":
                    found += self.solve_heads(name, elements)[1]
                else:
                    found += float(self.cross(name, elements).amax(0).sum())
        return found


def _permutation_matrices(crosses: Tensor) -> Tensor:
    """The permutation matrix P of every (d, d) cross-product that maximises ⟨P, cross⟩; batched over leading axes."""
    matrices = torch.zeros_like(crosses).flatten(0, -3)
    for matrix, cross in zip(matrices, crosses.flatten(0, -3), strict=True):
        matrix[assignment(cross), torch.arange(cross.shape[0])] = 1.0
    return matrices.view_as(crosses)


def match(
    a: Mapping[str, Tensor],
    b: Mapping[str, Tensor],
    table: Family,
    *,
    rotate: bool = True,
    inside: bool = True,
    activations: Mapping[str, Tensor] | None = None,
    weigh: bool = True,
    start: Elements | None = None,
    sweeps: int = 50,
    tolerance: float = 1e-2,
    on_sweep: Callable[[str, int, float], None] = lambda start, sweep, score: None,
) -> Matching:
    """The best elements found over several starts; `a`, `b` are canonical pieces, `rotate` allows rotations:
    of the residual stream, and `inside` heads.

    `activations` are correlations by space, which stand beside the weights, or where these do not `weigh` alone. With
    `start`, elements of all spaces, only these are followed.

    Starts: the residual stream from all weights that only the stream acts on, from the token embedding, from the
    unembedding, from the activations, and from the identity. They are compared by what they promise once the layers
    are solved for them; the most promising one is followed until a sweep over all spaces raises the objective by less
    than the share `tolerance` (smaller ones changed no barrier by more than a percent). Deterministic.
    """
    problem = _Problem(a, b, table, rotate=rotate, inside=inside, activations=activations, weigh=weigh)
    if start is not None:
        name, elements = "given", dict(start)
    else:
        starts = problem.starts()
        promises = {found: problem.promise(residual) for found, residual in starts.items()}
        name = max(promises, key=lambda found: promises[found])
        elements = {problem.stream: starts[name]}
    score, count = -float("inf"), 0
    for count in range(1, sweeps + 1):
        previous = score
        elements, score = problem.sweep(elements)
        release_freed()
        on_sweep(name, count, score)
        if score - previous < tolerance * score or score > 1 - COPY:
            break
    return Matching(elements, score, count, name)
