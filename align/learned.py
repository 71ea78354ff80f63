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
from dataclasses import dataclass

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


@dataclass(frozen=True)
class Place:
    """Where a state is, relative to where it began: elements by space, and the gauge by piece."""

    elements: Elements
    gauge: State


class LearnedAlignment(nn.Module):
    """States in motion: called with the pieces of all where they began, the first one's first, it gives them where they
    now are, differentiable in its parameters.

    They begin canonical and untied, where their alignments in closed form, `starts`, have brought them, which may share
    a basis (`Alignment.in_basis`); `table` is the untied symmetry table. With a `widening`, of two states, it gives
    wider ones, of these `narrow` states, whatever it is called with.
    """

    def __init__(
        self,
        starts: Sequence[Alignment],
        table: Family,
        widening: Widening | None = None,
        narrow: Sequence[Mapping[str, Tensor]] = (),
    ):
        super().__init__()
        self._widening = widening
        self._narrow = nn.ModuleList(_Pieces(table.split(state)) for state in narrow)
        self._starts, self._table = tuple(starts), table
        self.others = nn.ModuleList(MovingState(table) for _ in starts)
        self.turn = table.spaces[table.stream].group.motion() if has_basis(table) else None

    def forward(self, begun: Sequence[Mapping[str, Tensor]]) -> list[State]:
        """The pieces of every state, moved; in float32 whatever the precision of the training."""
        with torch.autocast(next(self.parameters()).device.type, enabled=False):
            states = begun if self._widening is None else [narrow() for narrow in self._narrow]
            moved = [self.moved(state, place) for state, place in zip(states, self.places(), strict=True)]
            if self._widening is None:
                return moved
            a, b = moved
            return list(self._widening.pieces(a, b, self._table))

    def places(self) -> list[Place]:
        """Where every state now is, the first one's first."""
        turn = self._turn()
        return [Place(turn, {}), *(other(turn) for other in self.others)]

    def moved(self, begun: Mapping[str, Tensor], place: Place) -> State:
        """Pieces at a place, of those where they began: of a whole state, or of some pieces that are `linked`
        (`isthmus.align.canonical`).
        """
        moved = {name: self._table.act(name, piece, place.elements) for name, piece in begun.items()}
        return regauge(moved, self._table, {name: value for name, value in place.gauge.items() if name in begun})

    def _turn(self) -> Elements:
        """The element of the residual stream that all states have in common, by its space; {} for none."""
        return {} if self.turn is None else {self._table.stream: self.turn()}

    @torch.no_grad()
    def alignments(self) -> tuple[Alignment, ...]:
        """Where all but the first now are, as alignments of what they were; in float64."""
        common, table, alignments = deepcopy(self.turn), self._table, []
        turn = {} if common is None else {table.stream: common.to("cpu").double()()}
        for start, moving in zip(self._starts, self.others, strict=True):
            other = deepcopy(moving).to("cpu").double()
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
    """The motion of one state from where its alignment in closed form has brought it."""

    def __init__(self, table: Family):
        super().__init__()
        self._table = table
        motions = {name: motion for name, space in table.spaces.items() if (motion := space.group.motion())}
        self._moving = tuple(motions)
        self.motions = nn.ModuleList(motions.values())
        gauge = free_gauge(table)
        self._free = tuple(gauge)
        self.values = nn.ParameterList(nn.Parameter(torch.zeros_like(value)) for value in gauge.values())

    def forward(self, turn: Elements) -> Place:
        """Where the state now is; `turn` is common to all states."""
        return Place(self.elements(turn), self.gauge())

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
