"""A learned alignment: the continuous part of the symmetry group as a module, to be trained with the loss of a path.

It starts from an alignment in closed form, and moves B further by

- the elements of every group that moves continuously (`isthmus.align.groups.Group.motion`): a rotation of the residual
  stream, invertible maps inside every head, one for query and key and one for value and output;
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

from .alignment import Alignment
from .gauge import free_gauge, regauge
from .motions import Motion
from .muon import Muon
from .symmetry import Elements, Family, State

ROTATION_LR, GAUGE_LR, HEADS_LR = 6e-3, 4e-2, 5e-2


class LearnedAlignment(nn.Module):
    """B in motion: called without arguments, it gives B's pieces where it now is, differentiable in its parameters.

    `start` is the alignment in closed form that it begins with, `b` the state that this made of B, canonical and
    untied, `table` the untied symmetry table.
    """

    def __init__(self, start: Alignment, b: Mapping[str, Tensor], table: Family):
        super().__init__()
        self._start, self._table = start, table
        self.names = tuple(table.pieces)
        pieces = table.split(b)
        for index, name in enumerate(self.names):
            self.register_buffer(f"b{index}", pieces[name].detach().clone(), persistent=False)
        motions = {name: motion for name, space in table.spaces.items() if (motion := space.group.motion())}
        self._moving = tuple(motions)
        self.motions = nn.ModuleList(motions.values())
        self._free = tuple(free_gauge(table, pieces))
        self._scales = table.folded
        self.gauge = nn.ParameterList(nn.Parameter(torch.zeros_like(pieces[name])) for name in self._free)

    def forward(self) -> State:
        """B's pieces, moved; in float32 whatever the precision of the training."""
        with torch.autocast(self.gauge[0].device.type, enabled=False):
            elements, gauge = self._elements(), self._gauge()
            moved = {
                name: self._table.act(name, getattr(self, f"b{index}"), elements)
                for index, name in enumerate(self.names)
            }
            return regauge(moved, self._table, gauge)

    def _elements(self) -> Elements:
        """The elements that move, relative to the start."""
        return {name: motion() for name, motion in zip(self._moving, self.motions, strict=True)}

    def _gauge(self) -> State:
        return {
            name: value.exp() if name in self._scales else value
            for name, value in zip(self._free, self.gauge, strict=True)
        }

    @torch.no_grad()
    def alignment(self) -> Alignment:
        """Where it now is, as an alignment of the original B; in float64."""
        exact = deepcopy(self).double().to("cpu")
        here = self._table.identity() | exact._elements()
        gauge = {name: value.float() for name, value in exact._gauge().items()}
        moved = Alignment("learned", here, self._start.score, gauge)
        return replace(self._start, method="learned").compose(moved, self._table)

    def optimizers(self) -> list[torch.optim.Optimizer]:
        """Muon for the maps inside heads, Adam for rotations and the gauge; nothing is decayed."""
        matrices = [matrix for motion in self.motions if isinstance(motion, Motion) for matrix in motion.matrices()]
        free = {id(matrix) for matrix in matrices}
        rotations = [parameter for parameter in self.motions.parameters() if id(parameter) not in free]
        groups = [{"params": rotations, "lr": ROTATION_LR}, {"params": list(self.gauge), "lr": GAUGE_LR}]
        adam = torch.optim.Adam([group for group in groups if group["params"]], betas=(0.9, 0.99))
        muon = [Muon(matrices, lr=HEADS_LR, weight_decay=0.0, momentum=0.9)] if matrices else []
        return [adam, *muon]
