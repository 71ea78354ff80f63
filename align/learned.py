"""A learned alignment: the continuous part of the symmetry group as a module, to be trained with the loss of a path.

It starts from an alignment in closed form, and moves B further by

- a rotation of the residual stream that keeps the all-ones vector, by the Cayley map of a skew-symmetric matrix on its
  complement (Lezcano-Casado and Martínez-Rubio 2019, arXiv 1901.08428, for the parametrisation);
- an invertible matrix inside every head, one for query and key and one for value and output;
- the gauge of norms and value biases (`isthmus.align.gauge`); scales as exponentials, so that they stay positive.

None of it changes B's function. Neurons and heads keep the order that the closed form found. Learning the symmetries of
transformers so is Theus et al. 2025 (arXiv 2506.22712); theirs interpolates whole circuits, ours a plain model's
weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import orthogonal

from .alignment import Alignment
from .gauge import free_gauge, regauge
from .muon import Muon
from .symmetry import Elements, Family, State, act_on_piece

ROTATION_LR, GAUGE_LR, HEADS_LR = 6e-3, 4e-2, 5e-2


class LearnedAlignment(nn.Module):
    """B in motion: called without arguments, it gives B's pieces where it now is, differentiable in its parameters.

    `start` is the alignment in closed form that it begins with, `b` the state that this made of B, canonical and
    untied, `table` the untied symmetry table.
    """

    complement: Tensor
    rotation: _Square

    def __init__(self, start: Alignment, b: Mapping[str, Tensor], table: Family):
        super().__init__()
        self._start, self._table = start, table
        self.names = tuple(table.pieces)
        pieces = table.split(b)
        for index, name in enumerate(self.names):
            self.register_buffer(f"b{index}", pieces[name].detach().clone(), persistent=False)
        self._stream = next(name for name, space in table.spaces.items() if space.kind == "stream")
        width = table.spaces[self._stream].size
        self.register_buffer("complement", _complement_of_ones(width).float(), persistent=False)
        self.rotation = _Square(width - 1)
        orthogonal(self.rotation, orthogonal_map="cayley")
        self._inner = {name: space for name, space in table.spaces.items() if space.kind == "inner"}
        self.heads = nn.ParameterList(
            nn.Parameter(torch.eye(space.size)) for space in self._inner.values() for _ in range(space.blocks)
        )
        self._free = tuple(free_gauge(table, pieces))
        self._scales = frozenset(norm.weight for norm in table.norms)
        self.gauge = nn.ParameterList(nn.Parameter(torch.zeros_like(pieces[name])) for name in self._free)

    def forward(self) -> State:
        """B's pieces, moved; in float32 whatever the precision of the training."""
        with torch.autocast(self.complement.device.type, enabled=False):
            elements, gauge = self._elements(), self._gauge()
            moved = {
                name: act_on_piece(getattr(self, f"b{index}"), self._table.pieces[name], elements)
                for index, name in enumerate(self.names)
            }
            return regauge(moved, self._table, gauge)

    def _elements(self) -> Elements:
        """The rotation and the maps inside heads, relative to the start."""
        width = self.complement.shape[0]
        kept = self.complement @ self.rotation.weight @ self.complement.mT
        elements: Elements = {self._stream: kept + 1.0 / width}
        heads = iter(self.heads)
        for name, space in self._inner.items():
            elements[name] = torch.stack([next(heads) for _ in range(space.blocks)])
        return elements

    def _gauge(self) -> State:
        return {
            name: value.exp() if name in self._scales else value
            for name, value in zip(self._free, self.gauge, strict=True)
        }

    @torch.no_grad()
    def alignment(self) -> Alignment:
        """Where it now is, as an alignment of the original B; in float64."""
        exact = deepcopy(self).double().to("cpu")
        exact.complement = _complement_of_ones(len(exact.complement))
        here = self._table.identity() | exact._elements()
        gauge = {name: value.float() for name, value in exact._gauge().items()}
        moved = Alignment("learned", here, self._start.score, gauge)
        return replace(self._start, method="learned").compose(moved, self._table)

    def optimizers(self) -> list[torch.optim.Optimizer]:
        """Adam for the rotation and the gauge, Muon for the maps inside heads; nothing is decayed."""
        groups = [
            {"params": list(self.rotation.parameters()), "lr": ROTATION_LR},
            {"params": list(self.gauge), "lr": GAUGE_LR},
        ]
        return [
            torch.optim.Adam(groups, betas=(0.9, 0.99)),
            Muon(self.heads.parameters(), lr=HEADS_LR, weight_decay=0.0, momentum=0.9),
        ]


class _Square(nn.Module):
    """A square matrix, first the identity."""

    def __init__(self, size: int):
        super().__init__()
        self.weight = nn.Parameter(torch.eye(size))


def _complement_of_ones(width: int) -> Tensor:
    """An orthonormal basis of the vectors whose entries sum to 0, (width, width − 1)."""
    start = torch.eye(width, dtype=torch.float64)
    start[:, 0] = 1.0
    basis: Tensor = torch.linalg.qr(start)[0]
    return basis[:, 1:]
