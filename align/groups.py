"""Groups that act on a space, and all that an algorithm has to know of one.

An element is one tensor, whose meaning is its group's own business. It always takes B to A: a vector along an axis
becomes what `act` makes of it. A dual axis transforms by the inverse transpose, so that inner products of a primal and
a dual axis stay. A group inside the blocks of another (the inside of heads) has one element for every block, which
lie along the first axis of its tensor: the other group acts on that axis, as on any other (`Family.compose`).

Another kind of group is another class: under rotary positions complex numbers for frequencies
(`isthmus.align.rotary`), inside gated neurons signed scales (`isthmus.align.scales`), inside heads that share a key the
order of their queries (`NestedPermutation`).
"""

# ruff: noqa: D102  (`Group` says what the methods of every kind do)
from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from .assignment import assignment
from .motions import FreeMatrices, Motion, Rotation


def procrustes(cross: Tensor) -> Tensor:
    """The orthogonal Q that maximises tr(Qᵀ cross), batched over leading axes; cross = Bᵀ A, (..., n, n), float64."""
    left, _, right = torch.linalg.svd(cross.double())
    return torch.matmul(left, right)


class Group(ABC):
    """What acts on a space. `size` is the length of an axis, or the number of equal blocks of it, on which it acts."""

    size: int

    @abstractmethod
    def act(self, tensor: Tensor, axis: int, element: Tensor, *, dual: bool = False) -> Tensor:
        """Act on one axis of a tensor, in the tensor's precision; differentiable in both."""

    def act_on_scale(self, tensor: Tensor, axis: int, element: Tensor) -> Tensor:
        """Act on the scale of a norm, which stands for a diagonal matrix D: the diagonal of gᵀ D g."""
        return self.act(tensor, axis, element)

    @abstractmethod
    def inverse(self, element: Tensor) -> Tensor:
        """The element that takes back what `element` does."""

    @abstractmethod
    def compose(self, first: Tensor, then: Tensor) -> Tensor:
        """The element that does what one element and then the other does."""

    @abstractmethod
    def identity(self) -> Tensor:
        """The element that moves nothing."""

    @abstractmethod
    def random(self, generator: torch.Generator) -> Tensor:
        """An element drawn at random."""

    @abstractmethod
    def solve(self, cross: Tensor) -> Tensor:
        """The element g that maximises tr(gᵀ C), in closed form, among those that keep lengths (`compact`).

        C = Bᵀ A has the rows of B and the columns of A: (n, n), or (blocks, d, d) where every block has an element.
        """

    @abstractmethod
    def attained(self, cross: Tensor) -> Tensor:
        """The maximum of tr(gᵀ C), for one block; batched over leading axes, (..., n, n) → (...)."""

    def bound(self, cross: Tensor) -> Tensor:
        """An upper bound of `attained` that is quicker to compute."""
        return self.attained(cross)

    def trace(self, cross: Tensor, element: Tensor) -> float:
        """What an element g attains, tr(gᵀ C); cross (n, n)."""
        return float(self.act(cross, 0, element).diagonal().sum())

    @abstractmethod
    def permutations(self) -> Group:
        """Those of its elements that only reorder: what acts on a state in any form."""

    def lifted(self, permutation: Tensor) -> Tensor:
        """An element of `permutations`, as one of this group."""
        return permutation

    def compact(self) -> Group:
        """Those of its elements that keep lengths."""
        return self

    def motion(self) -> Motion | None:
        """A module whose value is an element, first the identity, and that moves as it is trained; None for none."""
        return None


@dataclass(frozen=True)
class Permutation(Group):
    """Permutations of `size` equal blocks of an axis: (n,) int64, block i of the result is block ``p[i]``."""

    size: int

    def act(self, tensor: Tensor, axis: int, element: Tensor, *, dual: bool = False) -> Tensor:
        blocks = torch.unflatten(tensor, axis, (self.size, -1))
        return torch.flatten(blocks.index_select(axis, element), axis, axis + 1)

    def inverse(self, element: Tensor) -> Tensor:
        return element.argsort()

    def compose(self, first: Tensor, then: Tensor) -> Tensor:
        return first[then]

    def identity(self) -> Tensor:
        return torch.arange(self.size)

    def random(self, generator: torch.Generator) -> Tensor:
        return torch.randperm(self.size, generator=generator)

    def solve(self, cross: Tensor) -> Tensor:
        return assignment(cross)

    def attained(self, cross: Tensor) -> Tensor:
        return (_permutation_matrices(cross) * cross).sum((-1, -2))

    def bound(self, cross: Tensor) -> Tensor:
        return cross.amax(-2).sum(-1)

    def trace(self, cross: Tensor, element: Tensor) -> float:
        columns = torch.arange(len(cross))
        return float(cross[self.act(columns, 0, element), columns].sum())

    def permutations(self) -> Group:
        return self


@dataclass(frozen=True)
class NestedPermutation(Permutation):
    """Permutations inside each of `blocks` blocks, of its `size` equal parts: (m, n) int64, a row for every block.

    So the queries that share a key go inside the groups of heads: an axis has blocks × size × entries of a head.
    """

    blocks: int

    def act(self, tensor: Tensor, axis: int, element: Tensor, *, dual: bool = False) -> Tensor:
        first = self.size * torch.arange(self.blocks, device=element.device)[:, None]
        return Permutation(self.blocks * self.size).act(tensor, axis, (first + element).flatten())

    def compose(self, first: Tensor, then: Tensor) -> Tensor:
        return first.gather(-1, then)

    def identity(self) -> Tensor:
        return torch.arange(self.size).repeat(self.blocks, 1)

    def random(self, generator: torch.Generator) -> Tensor:
        return torch.stack([torch.randperm(self.size, generator=generator) for _ in range(self.blocks)])

    def solve(self, cross: Tensor) -> Tensor:
        return torch.stack([assignment(one) for one in cross.flatten(0, -3)]).view(*cross.shape[:-2], self.size)


@dataclass(frozen=True)
class SignedPermutation(Group):
    """Permutations with signs: (n,) int64, entry i of the result is entry \\|e[i]\\| − 1 with the sign of e[i]."""

    size: int

    def act(self, tensor: Tensor, axis: int, element: Tensor, *, dual: bool = False) -> Tensor:
        signs = element.sign().to(tensor.dtype).reshape(-1, *[1] * (tensor.ndim - axis - 1))
        return tensor.index_select(axis, element.abs() - 1) * signs

    def act_on_scale(self, tensor: Tensor, axis: int, element: Tensor) -> Tensor:
        return tensor.index_select(axis, element.abs() - 1)

    def inverse(self, element: Tensor) -> Tensor:
        order = (element.abs() - 1).argsort()
        return (order + 1) * element.sign()[order]

    def compose(self, first: Tensor, then: Tensor) -> Tensor:
        return first[then.abs() - 1] * then.sign()

    def identity(self) -> Tensor:
        return torch.arange(1, self.size + 1)

    def random(self, generator: torch.Generator) -> Tensor:
        signs = 2 * torch.randint(2, (self.size,), generator=generator) - 1
        return (torch.randperm(self.size, generator=generator) + 1) * signs

    def solve(self, cross: Tensor) -> Tensor:
        order = assignment(cross.abs())
        signs = torch.where(cross[order, torch.arange(self.size)] < 0, -1, 1)
        return (order + 1) * signs

    def attained(self, cross: Tensor) -> Tensor:
        return (_permutation_matrices(cross.abs()) * cross.abs()).sum((-1, -2))

    def bound(self, cross: Tensor) -> Tensor:
        return cross.abs().amax(-2).sum(-1)

    def permutations(self) -> Group:
        return Permutation(self.size)

    def lifted(self, permutation: Tensor) -> Tensor:
        return permutation + 1


class _MatrixGroup(Group):
    """Elements are matrices, (..., n, n) float, by which the vectors along an axis are multiplied."""

    def inverse(self, element: Tensor) -> Tensor:
        inverse: Tensor = torch.linalg.inv(element)
        return inverse

    def compose(self, first: Tensor, then: Tensor) -> Tensor:
        return first @ then

    def solve(self, cross: Tensor) -> Tensor:
        return procrustes(cross)

    def attained(self, cross: Tensor) -> Tensor:
        return _nuclear_norm(cross)


@dataclass(frozen=True)
class Orthogonal(_MatrixGroup):
    """Rotations and reflections: (n, n) float, a vector x along the axis becomes x Q."""

    size: int

    def act(self, tensor: Tensor, axis: int, element: Tensor, *, dual: bool = False) -> Tensor:
        matrix = self.inverse(element).mT if dual else element
        return (tensor.movedim(axis, -1) @ matrix.to(tensor.dtype)).movedim(-1, axis)

    def act_on_scale(self, tensor: Tensor, axis: int, element: Tensor) -> Tensor:
        return tensor  # the same for all entries: else it has to be folded first

    def identity(self) -> Tensor:
        return torch.eye(self.size, dtype=torch.float64)

    def random(self, generator: torch.Generator) -> Tensor:
        return _random_orthogonal(self.size, generator)

    def permutations(self) -> Group:
        return Permutation(self.size)

    def lifted(self, permutation: Tensor) -> Tensor:
        return self.identity()[:, permutation]

    def motion(self) -> Motion:
        return Rotation(torch.eye(self.size, dtype=torch.float64))

    def eigenbasis(self, cross: Tensor) -> Tensor:
        """The element that takes the eigenvectors of the symmetric part of `cross` (n, n) to the axes, float64."""
        vectors: Tensor = torch.linalg.eigh(cross.double() + cross.double().mT)[1]
        return vectors


@dataclass(frozen=True)
class OrthogonalKeepingOnes(Orthogonal):
    """Rotations and reflections Q with Q·1 = 1, which a stream that LayerNorm centres allows: (n, n) float."""

    def act_on_scale(self, tensor: Tensor, axis: int, element: Tensor) -> Tensor:
        return self.act(tensor, axis, element)  # of equal entries, which a vector of ones is

    def random(self, generator: torch.Generator) -> Tensor:
        basis = _basis_with_ones(self.size)
        inner = torch.eye(self.size, dtype=torch.float64)
        inner[1:, 1:] = _random_orthogonal(self.size - 1, generator)
        return basis @ inner @ basis.T

    def solve(self, cross: Tensor) -> Tensor:
        """Both sides are projected on the complement of 1, where Procrustes is solved; 1 maps to itself."""
        ones = torch.full((self.size, self.size), 1.0 / self.size, dtype=torch.float64)
        centre = torch.eye(self.size, dtype=torch.float64) - ones
        centred = centre @ cross.double() @ centre
        return procrustes(centred + ones * (1.0 + torch.linalg.matrix_norm(centred)))

    def attained(self, cross: Tensor) -> Tensor:
        centre = torch.eye(self.size, dtype=torch.float64) - 1.0 / self.size
        return _nuclear_norm(centre @ cross.double() @ centre) + cross.double().mean(-1).sum(-1)

    def motion(self) -> Motion:
        return Rotation(_basis_with_ones(self.size)[:, 1:])

    def eigenbasis(self, cross: Tensor) -> Tensor:
        """As near as an element that keeps 1 can: the axes are no part of the complement of 1, whose eigenvectors go to
        the axes' images under the reflection that takes the first axis to 1.
        """
        complement = _basis_with_ones(self.size)[:, 1:]
        inner = complement.mT @ (cross.double() + cross.double().mT) @ complement
        ones = torch.full((self.size,), self.size**-0.5, dtype=torch.float64)
        vectors = torch.column_stack([ones, complement @ torch.linalg.eigh(inner)[1]])
        mirror = ones.clone()
        mirror[0] -= 1
        reflection = torch.eye(self.size, dtype=torch.float64) - 2 * torch.outer(mirror, mirror) / mirror.dot(mirror)
        return vectors @ reflection


@dataclass(frozen=True)
class Matrices(_MatrixGroup):
    """Invertible matrices, one for each of `blocks` blocks of `size` entries: (m, d, d) float, x becomes x G.

    On a longer axis every block has several such stretches of entries, as the queries that share a key, on all of which
    its matrix acts. Those that keep lengths are orthogonal: only they are bounded, so that `solve` is among them.
    """

    size: int
    blocks: int

    def act(self, tensor: Tensor, axis: int, element: Tensor, *, dual: bool = False) -> Tensor:
        matrix = self.inverse(element).mT if dual else element
        blocks = torch.unflatten(tensor.movedim(axis, -1), -1, (self.blocks, -1, self.size))
        moved: Tensor = torch.einsum("...hkd,hde->...hke", blocks, matrix.to(tensor.dtype))
        return moved.flatten(-3).movedim(-1, axis)

    def identity(self) -> Tensor:
        return torch.eye(self.size, dtype=torch.float64).repeat(self.blocks, 1, 1)

    def random(self, generator: torch.Generator) -> Tensor:
        return torch.stack([self._random_block(generator) for _ in range(self.blocks)])

    def _random_block(self, generator: torch.Generator) -> Tensor:
        scales = 0.5 + torch.rand(self.size, generator=generator, dtype=torch.float64)
        return _random_orthogonal(self.size, generator) * scales

    def permutations(self) -> Matrices:
        return PermutationMatrices(self.size, self.blocks)

    def compact(self) -> Matrices:
        return OrthogonalMatrices(self.size, self.blocks)

    def motion(self) -> Motion | None:
        return FreeMatrices(self.size, self.blocks)

    def balanced(self, primal: Tensor, dual: Tensor) -> tuple[Tensor, Tensor]:
        """Both factors P and D of every block's circuit P Dᵀ under an element that gives them the same singular values.

        With P Dᵀ = U S Vᵀ, they become U √S R and V √S R, with the rotation R that leaves them nearest to what they
        were: factors that are near each other stay so. (blocks, rows, size) each, float64.
        """
        (left, upper), (right, lower) = (torch.linalg.qr(stack) for stack in (primal, dual))
        u, s, vh = torch.linalg.svd(upper @ lower.mT)
        roots = s.sqrt()[:, None]
        even = left @ (u * roots), right @ (vh.mT * roots)
        back = procrustes(even[0].mT @ primal + even[1].mT @ dual)
        return even[0] @ back, even[1] @ back


@dataclass(frozen=True)
class OrthogonalMatrices(Matrices):
    """Orthogonal matrices, one for each block: (m, d, d) float."""

    def _random_block(self, generator: torch.Generator) -> Tensor:
        return _random_orthogonal(self.size, generator)

    def motion(self) -> Motion | None:
        return None


class Rigid(Group):
    """A group of permutations alone: nothing in it moves continuously."""

    def permutations(self) -> Self:
        return self

    def compact(self) -> Self:
        return self

    def motion(self) -> None:
        return None


@dataclass(frozen=True)
class PermutationMatrices(Rigid, Matrices):
    """Permutation matrices, one for each block: (m, d, d) float."""

    def _random_block(self, generator: torch.Generator) -> Tensor:
        return torch.eye(self.size, dtype=torch.float64)[torch.randperm(self.size, generator=generator)]

    def solve(self, cross: Tensor) -> Tensor:
        return _permutation_matrices(cross)

    def attained(self, cross: Tensor) -> Tensor:
        return (_permutation_matrices(cross) * cross).sum((-1, -2))


def evenly(primal: Tensor, dual: Tensor) -> tuple[Tensor, Tensor]:
    """Two stacks (..., m, n), the first times and the second over a number, so that both have the same norm over the
    last two axes; as they are where one is 0.
    """
    mine, other = (side.square().sum((-2, -1), keepdim=True).sqrt() for side in (primal, dual))
    scale = torch.where((mine > 0) & (other > 0), (other / mine).sqrt(), torch.ones_like(mine))
    return primal * scale, dual / scale


def _nuclear_norm(cross: Tensor) -> Tensor:
    values: Tensor = torch.linalg.svdvals(cross)
    return values.sum(-1)


def _permutation_matrices(crosses: Tensor) -> Tensor:
    """The permutation matrix P of every (d, d) cross-product that maximises ⟨P, cross⟩; batched over leading axes."""
    if crosses.shape[-1] == 0:
        return crosses
    matrices = torch.zeros_like(crosses).reshape(-1, *crosses.shape[-2:])
    for matrix, cross in zip(matrices, crosses.reshape(matrices.shape), strict=True):
        matrix[assignment(cross), torch.arange(cross.shape[0])] = 1.0
    return matrices.view_as(crosses)


def _random_orthogonal(size: int, generator: torch.Generator) -> Tensor:
    random: Tensor = torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.float64))[0]
    return random


def _basis_with_ones(size: int) -> Tensor:
    """An orthonormal basis whose first vector is that of all ones, scaled; (n, n) float64."""
    start = torch.eye(size, dtype=torch.float64)
    start[:, 0] = 1.0
    basis: Tensor = torch.linalg.qr(start)[0]
    return basis
