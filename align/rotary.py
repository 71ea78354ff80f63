"""What acts inside heads under rotary positions (Su et al. 2021, arXiv 2104.09864): what commutes with them."""

# ruff: noqa: D102  (`Group` says what the methods of every kind do)
from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .groups import Matrices, OrthogonalMatrices, PermutationMatrices, Rigid, evenly
from .motions import FreeMatrices, Motion


@dataclass(frozen=True)
class RotaryMatrices(Matrices):
    """What commutes with rotary positions: a complex number for every frequency, invertible matrices on the rest.

    Of every block, entries i and i + r/2 of the first `rotated` ones, r, are a pair, x + i y, which becomes
    (x + i y) c, on a dual axis (x + i y) / c̄; entries that no position rotates transform as `Matrices` do. Written
    as matrices, (m, d, d) float.
    """

    rotated: int

    @property
    def rest(self) -> Matrices:
        """What acts on the entries that are not rotated."""
        return Matrices(self.size - self.rotated, self.blocks)

    def _random_block(self, generator: torch.Generator) -> Tensor:
        pairs = self._random_pairs(torch.randn(self.rotated // 2, 2, generator=generator, dtype=torch.float64))
        return _rotary(pairs, self.rest._random_block(generator))

    def _random_pairs(self, numbers: Tensor) -> Tensor:
        return 0.5 * numbers / _lengths(numbers) + numbers

    def solve(self, cross: Tensor) -> Tensor:
        numbers = self._pairs_of(cross)
        lengths = _lengths(numbers)
        one = torch.tensor([1.0, 0.0], dtype=cross.dtype)
        return _rotary(torch.where(lengths > 0, numbers / lengths, one), self.rest.solve(self._rest_of(cross)))

    def attained(self, cross: Tensor) -> Tensor:
        return _lengths(self._pairs_of(cross)).sum((-1, -2)) + self.rest.attained(self._rest_of(cross))

    def _pairs_of(self, cross: Tensor) -> Tensor:
        """For every pair the complex number z for which tr(gᵀ C) is the real part of c̄ z: (..., r/2, 2)."""
        half = self.rotated // 2
        diagonal, upper, lower = (cross.diagonal(offset, -2, -1) for offset in (0, half, -half))
        real = diagonal[..., :half] + diagonal[..., half : 2 * half]
        return torch.stack([real, upper[..., :half] - lower[..., :half]], dim=-1)

    def _rest_of(self, cross: Tensor) -> Tensor:
        return cross[..., self.rotated :, self.rotated :]

    def permutations(self) -> Matrices:
        return RotaryPermutationMatrices(self.size, self.blocks, self.rotated)

    def compact(self) -> Matrices:
        return RotaryOrthogonalMatrices(self.size, self.blocks, self.rotated)

    def motion(self) -> Motion | None:
        return _FreeRotary(self.size, self.blocks, self.rotated)

    def balanced(self, primal: Tensor, dual: Tensor) -> tuple[Tensor, Tensor]:
        """As for `Matrices` on the rest; on a pair, both sides have the same norm."""
        left, right = self.rest.balanced(primal[..., self.rotated :], dual[..., self.rotated :])
        pairs = [side[..., : self.rotated].unflatten(-1, (2, -1)).movedim(-1, -3) for side in (primal, dual)]
        mine, other = (side.movedim(-3, -1).flatten(-2) for side in evenly(*pairs))
        return torch.cat([mine, left], -1), torch.cat([other, right], -1)


@dataclass(frozen=True)
class RotaryOrthogonalMatrices(RotaryMatrices):
    """Complex numbers of length 1, and orthogonal matrices on the rest: (m, d, d) float."""

    @property
    def rest(self) -> Matrices:
        return OrthogonalMatrices(self.size - self.rotated, self.blocks)

    def _random_pairs(self, numbers: Tensor) -> Tensor:
        return numbers / _lengths(numbers)

    def motion(self) -> Motion | None:
        return None


@dataclass(frozen=True)
class RotarySigns(RotaryMatrices):
    """1 or −1 for every pair: what is left where queries and keys are normalised with a weight before positions rotate
    them; all entries are rotated.
    """

    def act_on_scale(self, tensor: Tensor, axis: int, element: Tensor) -> Tensor:
        return tensor

    def _random_pairs(self, numbers: Tensor) -> Tensor:
        return torch.where(numbers[..., :1] < 0, -1.0, 1.0) * torch.tensor([1.0, 0.0], dtype=numbers.dtype)

    def solve(self, cross: Tensor) -> Tensor:
        return _rotary(self._random_pairs(self._pairs_of(cross)), self.rest.solve(self._rest_of(cross)))

    def attained(self, cross: Tensor) -> Tensor:
        return self._pairs_of(cross)[..., 0].abs().sum(-1)

    def compact(self) -> Matrices:
        return self

    def motion(self) -> Motion | None:
        return None

    def balanced(self, primal: Tensor, dual: Tensor) -> tuple[Tensor, Tensor]:
        """As they are: no scale is free."""
        return primal, dual


@dataclass(frozen=True)
class RotaryPermutationMatrices(Rigid, RotaryMatrices):
    """Permutation matrices on what no position rotates: (m, d, d) float."""

    @property
    def rest(self) -> Matrices:
        return PermutationMatrices(self.size - self.rotated, self.blocks)

    def _random_pairs(self, numbers: Tensor) -> Tensor:
        return torch.tensor([1.0, 0.0], dtype=numbers.dtype).expand_as(numbers)

    def solve(self, cross: Tensor) -> Tensor:
        numbers = self._pairs_of(cross)
        return _rotary(self._random_pairs(numbers), self.rest.solve(self._rest_of(cross)))

    def attained(self, cross: Tensor) -> Tensor:
        return self._pairs_of(cross)[..., 0].sum(-1) + self.rest.attained(self._rest_of(cross))


def _rotary(numbers: Tensor, rest: Tensor) -> Tensor:
    """The matrices of complex numbers, (..., r/2, 2), above those on the rest, (..., d − r, d − r)."""
    real, imaginary = (torch.diag_embed(part) for part in numbers.unbind(-1))
    rotated = torch.cat([torch.cat([real, imaginary], -1), torch.cat([-imaginary, real], -1)], -2)
    size, rank = rotated.shape[-1], rest.shape[-1]
    return torch.cat(
        [torch.nn.functional.pad(rotated, (0, rank)), torch.nn.functional.pad(rest, (size, 0)).to(rotated.dtype)], -2
    )


def _lengths(numbers: Tensor) -> Tensor:
    """The absolute values of complex numbers, (..., 2) → (..., 1)."""
    return numbers.square().sum(-1, keepdim=True).sqrt()


class _FreeRotary(Motion):
    """A complex number for every pair, and a matrix without a constraint on the rest, of every block."""

    def __init__(self, size: int, blocks: int, rotated: int):
        super().__init__()
        self.numbers = nn.Parameter(torch.tensor([1.0, 0.0]).repeat(blocks, rotated // 2, 1))
        self.rest = FreeMatrices(size - rotated, blocks) if size > rotated else None

    def forward(self) -> Tensor:
        rest = self.rest() if self.rest is not None else self.numbers.new_zeros(len(self.numbers), 0, 0)
        return _rotary(self.numbers, rest)

    def matrices(self) -> Iterator[nn.Parameter]:
        return self.rest.matrices() if self.rest is not None else iter(())
