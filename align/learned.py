"""A learned alignment: the continuous part of the symmetry group as a module, to be trained with the loss of a merge.

It starts from alignments in closed form, and moves every state but the first further by

- the elements of every group that moves continuously (`isthmus.align.groups.Group.motion`): a rotation of the residual
  stream, invertible maps inside every head, one for query and key and one for value and output;
- the gauge of norms and value biases (`isthmus.align.gauge`); scales as exponentials, so that they stay positive.

Scales of norms are diagonal, and which matrices are diagonal depends on the basis. So the first state moves, too, by a
rotation of the residual stream into a *basis* that all states have in common: another straight line, whose ends compute
what they computed. It starts where the states' activations are uncorrelated across axes, so that a scale can hold back
the directions in which they do not agree (as canonical correlations would: Hotelling 1936). Any other element that all
states have in common moves the whole line alike, and changes nothing.

Neurons and heads keep the order that the closed form found. Learning the symmetries of transformers so is Theus et al.
2025 (arXiv 2506.22712); theirs interpolates whole circuits, ours a plain model's weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy

import torch
from torch import Tensor, nn

from .alignment import Alignment
from .gauge import free_gauge, regauge
from .groups import Orthogonal
from .motions import Motion
from .muon import Muon
from .symmetry import Elements, Family, State
from .width import Widening

ROTATION_LR, GAUGE_LR, HEADS_LR = 6e-3, 4e-2, 5e-2


class LearnedAlignment(nn.Module):
    """States in motion: called without arguments, it gives the pieces of all where they now are, the first one's first,
    differentiable in its parameters.

    `states` are canonical and untied, where their alignments in closed form, `starts`, have brought them, which may
    share a basis (`Alignment.in_basis`); `table` is the untied symmetry table. With a `widening`, of two states, it
    gives the wider ones.
    """

    def __init__(
        self,
        starts: Sequence[Alignment],
        states: Sequence[Mapping[str, Tensor]],
        table: Family,
        widening: Widening | None = None,
    ):
        super().__init__()
        self._widening = widening
        first, *others = states
        self._starts, self._table = tuple(starts), table
        self._first = _Pieces(table.split(first))
        self.others = nn.ModuleList(MovingState(table.split(state), table) for state in others)
        self.turn = table.spaces[table.stream].group.motion() if has_basis(table) else None

    def forward(self) -> list[State]:
        """The pieces of every state, moved; in float32 whatever the precision of the training."""
        with torch.autocast(next(self.parameters()).device.type, enabled=False):
            turn = self._turn()
            first = self._first()
            if turn:
                first = {name: self._table.act(name, piece, turn) for name, piece in first.items()}
            moved = [first, *(other(turn) for other in self.others)]
            if self._widening is None:
                return moved
            a, b = moved
            return list(self._widening.pieces(a, b, self._table))

    def _turn(self) -> Elements:
        """The element of the residual stream that all states have in common, by its space; {} for none."""
        return {} if self.turn is None else {self._table.stream: self.turn()}

    @torch.no_grad()
    def alignments(self) -> tuple[Alignment, ...]:
        """Where all but the first now are, as alignments of what they were; in float64."""
        exact, table = deepcopy(self).double().to("cpu"), self._table
        turn, alignments = exact._turn(), []
        for start, other in zip(self._starts, exact.others, strict=True):
            assert isinstance(other, MovingState)
            elements = table.compose(start.elements, table.identity() | other.elements(turn))
            gauge = {name: value.float() for name, value in other.gauge().items()}
            basis = table.compose(start.basis, turn) if start.basis else turn
            alignments.append(Alignment("learned", elements, start.score, gauge, basis))
        return tuple(alignments)

    def optimizers(self) -> list[torch.optim.Optimizer]:
        """Muon for the maps inside heads, Adam for rotations and the gauge; nothing is decayed."""
        moving = [module for module in self.others if isinstance(module, MovingState)]
        motions = [motion for state in moving for motion in state.motions if isinstance(motion, Motion)]
        matrices = [matrix for motion in motions for matrix in motion.matrices()]
        gauge = [value for state in moving for value in state.values]
        others = {id(parameter) for parameter in [*matrices, *gauge]}
        rotations = [parameter for parameter in self.parameters() if id(parameter) not in others]
        groups = [{"params": rotations, "lr": ROTATION_LR}, {"params": gauge, "lr": GAUGE_LR}]
        adam = torch.optim.Adam([group for group in groups if group["params"]], betas=(0.9, 0.99))
        muon = [Muon(matrices, lr=HEADS_LR, weight_decay=0.0, momentum=0.9)] if matrices else []
        return [adam, *muon]


class _Pieces(nn.Module):
    """Pieces by name that are not trained, and move with their module from device to device."""

    def __init__(self, pieces: Mapping[str, Tensor]):
        super().__init__()
        self.names = tuple(pieces)
        for index, piece in enumerate(pieces.values()):
            self.register_buffer(f"piece{index}", piece.detach().clone(), persistent=False)

    def forward(self) -> State:
        return {name: getattr(self, f"piece{index}") for index, name in enumerate(self.names)}


class MovingState(nn.Module):
    """One state in motion, from where its alignment in closed form has brought it; called with the common turn."""

    def __init__(self, pieces: Mapping[str, Tensor], table: Family):
        super().__init__()
        self._table = table
        self._start = _Pieces(pieces)
        motions = {name: motion for name, space in table.spaces.items() if (motion := space.group.motion())}
        self._moving = tuple(motions)
        self.motions = nn.ModuleList(motions.values())
        self._free = tuple(free_gauge(table, pieces))
        self.values = nn.ParameterList(nn.Parameter(torch.zeros_like(pieces[name])) for name in self._free)

    def forward(self, turn: Elements) -> State:
        """The pieces where they now are."""
        elements = self.elements(turn)
        moved = {name: self._table.act(name, piece, elements) for name, piece in self._start().items()}
        return regauge(moved, self._table, self.gauge())

    def elements(self, turn: Elements) -> Elements:
        """The elements that move, relative to the start, followed by the common turn."""
        elements = {name: motion() for name, motion in zip(self._moving, self.motions, strict=True)}
        for name, common in turn.items():
            elements[name] = self._table.spaces[name].group.compose(elements[name], common)
        return elements

    def gauge(self) -> State:
        """The gauge where it now is."""
        folded = self._table.folded
        return {
            name: value.exp() if name in folded else value for name, value in zip(self._free, self.values, strict=True)
        }


def common_basis(cross: Tensor, table: Family) -> Elements:
    """The basis that a learned alignment starts with: the axes of the stream along which activations go together.

    `cross` (width, width) are the correlations of the stream of aligned states
    (`isthmus.align.activations.cross_correlations`), summed over pairs of them. Returns the element of the stream's
    space, of a table that `has_basis`.
    """
    group = table.spaces[table.stream].group
    assert isinstance(group, Orthogonal)
    return {table.stream: group.eigenbasis(cross)}


def has_basis(table: Family) -> bool:
    """Whether the stream has rotations, and norms have scales that are diagonal in a basis of it."""
    return bool(table.folded) and isinstance(table.spaces[table.stream].group, Orthogonal)
