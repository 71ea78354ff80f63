"""Group elements in motion: modules whose value is an element, to be trained. They start at the identity."""

# ruff: noqa: D102  (`Motion` says what the methods of every kind do)
from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.utils import skip_init
from torch.nn.utils.parametrizations import orthogonal


class Motion(nn.Module):
    """An element in motion: its parameters say which; differentiable in them."""

    @abstractmethod
    def forward(self) -> Tensor:
        """The element where it now is."""

    def matrices(self) -> Iterator[nn.Parameter]:
        """Those of its parameters that are matrices without a constraint, which Muon may train."""
        return iter(())


class Rotation(Motion):
    """A rotation of the span of an orthonormal basis (n, k): the Cayley map of a skew-symmetric matrix in that basis.

    The span is that of all vectors, or the complement of the vector of ones, which stays (the parametrisation is that
    of Lezcano-Casado and Martínez-Rubio 2019, arXiv 1901.08428).
    """

    basis: Tensor
    rotation: nn.Linear

    def __init__(self, basis: Tensor):
        super().__init__()
        self.register_buffer("basis", basis, persistent=False)
        self.rotation = skip_init(nn.Linear, basis.shape[1], basis.shape[1], bias=False)
        nn.init.eye_(self.rotation.weight)
        orthogonal(self.rotation, orthogonal_map="cayley")

    def forward(self) -> Tensor:
        weight = self.rotation.weight
        basis = self.basis.to(weight.dtype)
        turned = basis @ weight @ basis.mT
        size, rank = basis.shape
        return turned if rank == size else turned + 1.0 / size  # the projection on the vector of ones


class FreeMatrices(Motion):
    """A matrix for every block, without a constraint."""

    def __init__(self, size: int, blocks: int):
        super().__init__()
        self.blocks = nn.ParameterList(nn.Parameter(torch.eye(size)) for _ in range(blocks))

    def forward(self) -> Tensor:
        return torch.stack(list(self.blocks))

    def matrices(self) -> Iterator[nn.Parameter]:
        return iter(self.blocks)
