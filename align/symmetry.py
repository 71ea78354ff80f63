"""Architectures as data: which space each axis of each weight lives in, and which group acts on a space.

A family is a table. Nothing here, and nothing that uses a table, knows the name of a tensor: the algorithms see
*pieces* (a weight, or the query, key or value part of a fused one), *axes*, *spaces* and *groups*
(`isthmus.align.groups`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from ..checkpoint.model import Schema
from ..checkpoint.task import CAUSAL, CLASSIFIERS, Task
from .table_entries import Activation, Attention, Head, LinearMap, Norm, Piece, Space, Stack, Vanishing

State = dict[str, Tensor]
Elements = dict[str, Tensor]


@dataclass(frozen=True)
class Family:
    """The symmetry table of one model: pieces, spaces, and where the gauge of its norms and biases sits.

    `stream` is the space of the residual stream; `writers` are (piece, axis) pairs that add to it; `unembedding` is no
    piece of its own while it is `tied` to `embedding`; `positions` is the table of position embeddings, if there is
    one; `matrices` lists the pieces whose spectra are measured; `prefix` is what transformers puts before the names of
    the base model. `activations` are the places where spaces can be seen for matching, `maps` the linear maps between
    hidden vectors, whose inputs tell how to average them.

    `configuration` is what the forward pass reads of the configuration, defaults filled in, and `rounding` the keys of
    that by which results differ by rounding alone. `buffers` is a regular expression for tensors that old files have
    beside the weights. `calibrated` says that optimizers are told apart by the weights of such models
    (`isthmus.eval.fingerprint`). `limits` is what users should know of an architecture that allows little, as the end
    of a sentence on its alignment. `task` is what the model does: its unembedding is the map to labels of a classifier.
    `sound` says that transformers surely builds the model, so that it need not be tried.

    Names of pieces are the table's own, but for `matrices`: what comes after the last dot is the kind of a matrix, by
    which reports sum up; queries, keys and the output of attention are ``q``, ``k`` and ``o``.
    """

    prefix: str
    stream: str
    spaces: Mapping[str, Space]
    pieces: Mapping[str, Piece]
    norms: tuple[Norm, ...]
    attentions: tuple[Attention, ...]
    vanishing: tuple[Vanishing, ...]
    writers: tuple[tuple[str, int], ...]
    embedding: str
    positions: str | None
    unembedding: Head
    tied: bool
    matrices: tuple[str, ...]
    activations: tuple[Activation, ...]
    maps: tuple[LinearMap, ...]
    configuration: Mapping[str, object] = field(default_factory=dict)
    rounding: frozenset[str] = frozenset()
    buffers: str | None = None
    calibrated: bool = False
    limits: str = ""
    task: Task = CAUSAL
    sound: bool = False

    @property
    def head(self) -> str:
        """The name of the unembedding as a piece."""
        return self.unembedding.name

    def untied(self) -> Family:
        """The table of the same model with an unembedding of its own."""
        if not self.tied:
            return self
        pieces = {**self.pieces, self.head: self.unembedding.piece, **self.unembedding.apart}
        return replace(
            self,
            spaces={**self.spaces, **self.unembedding.spaces},
            pieces=pieces,
            activations=(*self.activations, *self.unembedding.activations),
            maps=(*self.maps, self.unembedding.map),
            tied=False,
        )

    @property
    def sources(self) -> dict[str, Piece]:
        """For every piece of the untied table, the piece of this one that has its values."""
        copies = {self.head: self.embedding, **self.unembedding.copies} if self.tied else {}
        return {name: self.pieces[copies.get(name, name)] for name in self.untied().pieces}

    def permuting(self, wanted: Callable[[Space], bool] = lambda space: True) -> Family:
        """The same table with only the permutations of every group, or of the groups of the spaces that are `wanted`.

        They act on a state in any form, where other elements may need the canonical one.
        """
        return replace(
            self,
            spaces={
                name: replace(space, group=space.group.permutations()) if wanted(space) else space
                for name, space in self.spaces.items()
            },
        )

    def schema(self) -> Schema:
        """The tensors of the model, as transformers names them, without importing its modelling code."""
        shapes: dict[str, tuple[int, ...]] = {}
        wholes: dict[str, list[int]] = {}
        for piece in self.pieces.values():
            sizes = self.shape_of(piece)
            if piece.parameter in wholes:
                assert piece.view is not None
                sizes[piece.view.axis] += wholes[piece.parameter][piece.view.axis]
            wholes[piece.parameter] = sizes
            shapes[piece.parameter] = tuple(sizes)
            if piece.stack is not None:
                axis, count = piece.stack.axis, piece.stack.count
                shapes[piece.parameter] = (count, *sizes[:axis], sizes[axis] // count, *sizes[axis + 1 :])
        untied = self.untied().pieces
        pairs = {untied[name].parameter: source.parameter for name, source in self.sources.items()}
        tied = {target: source for target, source in pairs.items() if target not in shapes}
        buffers = re.compile(self.buffers) if self.buffers else None
        return Schema(shapes, tied, self.prefix, buffers, self.sound, self.limits, self.task, aligns=True)

    def shape_of(self, piece: Piece) -> list[int]:
        """How long the axes of a piece are."""
        return [axis.size * math.prod(self.spaces[space].group.size for space in axis.spaces) for axis in piece.axes]

    def identity(self) -> Elements:
        """The elements that move nothing."""
        return {name: space.group.identity() for name, space in self.spaces.items()}

    def random(self, generator: torch.Generator) -> Elements:
        """Elements drawn at random."""
        return {name: space.group.random(generator) for name, space in self.spaces.items()}

    def inverse(self, elements: Mapping[str, Tensor]) -> Elements:
        """The elements that take back what these do."""
        inverses: Elements = {}
        for name in sorted(elements, key=lambda name: len(self.outer(name))):  # a space after those around it
            inverse = self.spaces[name].group.inverse(elements[name])
            inverses[name] = self._carried(name, inverse, inverses)
        return {name: inverses[name] for name in elements}

    def compose(self, first: Mapping[str, Tensor], then: Mapping[str, Tensor]) -> Elements:
        """The elements that do what these and then those do."""
        return {
            name: self.spaces[name].group.compose(self._carried(name, element, then), then[name])
            for name, element in first.items()
        }

    def lifted(self, permutations: Mapping[str, Tensor]) -> Elements:
        """Elements of the table of `permuting`, as those of this one."""
        return {name: self.spaces[name].group.lifted(element) for name, element in permutations.items()}

    def outer(self, space: str) -> tuple[str, ...]:
        """The spaces that a space is inside of, from the outermost."""
        around = self.spaces[space].inside
        return () if around is None else (*self.outer(around), around)

    def inner(self, space: str) -> tuple[str, ...]:
        """The spaces that are inside a space, directly."""
        return tuple(name for name, other in self.spaces.items() if other.inside == space)

    def _carried(self, space: str, element: Tensor, elements: Mapping[str, Tensor]) -> Tensor:
        """An element before those of the spaces around it, as the element after them that does the same."""
        for around in self.outer(space):
            if around in elements:
                element = self.spaces[around].group.act(element, 0, elements[around])
        return element

    def act(
        self, name: str, piece: Tensor, elements: Mapping[str, Tensor], *, skip: frozenset[str] = frozenset()
    ) -> Tensor:
        """Act on every axis of a piece with the elements that are given, except for the spaces in `skip`."""
        for position, axis in enumerate(self.pieces[name].axes):
            for space in axis.spaces:
                if space in elements and space not in skip:
                    group, element = self.spaces[space].group, elements[space]
                    if axis.scale:
                        piece = group.act_on_scale(piece, position, element)
                    else:
                        piece = group.act(piece, position, element, dual=axis.dual)
        return piece

    def act_on_space(self, space: str, tensor: Tensor, axis: int, elements: Mapping[str, Tensor]) -> Tensor:
        """Act on an axis of what is seen of a space, with the elements of the spaces around it first."""
        seen = {place.space: place.acting for place in self.activations}
        for acting in seen.get(space) or (*self.outer(space), space):
            tensor = self.spaces[acting].group.act(tensor, axis, elements[acting])
        return tensor

    def split(self, state: Mapping[str, Tensor]) -> State:
        """Pieces of a state, one per entry of `pieces`: views where that is possible."""
        whole = {parameter: state[parameter] for parameter in self.parts()}  # looked up once: it may be read from disk
        return {name: entry.of(whole[entry.parameter]) for name, entry in self.pieces.items()}

    def piece(self, state: Mapping[str, Tensor], name: str) -> Tensor:
        """One piece of a state."""
        entry = self.pieces[name]
        return entry.of(state[entry.parameter])

    def join(self, pieces: Mapping[str, Tensor]) -> State:
        """The state whose pieces these are: fused weights are put together again."""
        return {
            parameter: self.fused([pieces[name] for name in names], names) for parameter, names in self.parts().items()
        }

    def parts(self) -> dict[str, list[str]]:
        """The pieces of every parameter, in the table's order."""
        names: dict[str, list[str]] = {}
        for name, entry in self.pieces.items():
            names.setdefault(entry.parameter, []).append(name)
        return names

    def fused(self, parts: Sequence[Tensor], names: Sequence[str]) -> Tensor:
        """A parameter, of its pieces with these names."""
        view, stack = self.pieces[names[0]].view, self.pieces[names[0]].stack
        whole = parts[0] if view is None else view.fused(parts)
        return whole if stack is None else stack.apart(whole).contiguous()

    @property
    def stacks(self) -> dict[str, Stack]:
        """The pieces that are several matrices side by side, and how."""
        return {name: piece.stack for name, piece in self.pieces.items() if piece.stack is not None}

    @property
    def transposed(self) -> frozenset[str]:
        """The matrices that are stored (inputs, outputs), as those of Conv1D, where Linear stores (outputs, inputs)."""
        inputs_first = {linear.weight for linear in self.maps if linear.axis == 0}
        return frozenset(name for name in self.matrices if self.pieces[name].parameter in inputs_first)

    def measured(self, pieces: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The matrices whose spectra are measured, by name, of pieces: views of them.

        Of every matrix that is several side by side, each of these, under the name of the piece with a number before
        the kind: ``layers.0.experts.gate`` is ``layers.0.experts.3.gate`` and so on.
        """
        return {name: matrix for piece in self.matrices for name, matrix in self.matrices_of(piece, pieces[piece])}

    def matrices_of(self, name: str, piece: Tensor) -> Iterator[tuple[str, Tensor]]:
        """The same of one piece: itself, or each of those that are side by side in it."""
        stack = self.pieces[name].stack
        if stack is None:
            yield name, piece
            return
        place, _, kind = name.rpartition(".")
        for number, matrix in enumerate(stack.apart(piece)):
            yield f"{place}.{number}.{kind}", matrix

    def occurrences(self, space: str) -> Iterator[tuple[str, int]]:
        """Every (piece, axis) on which a space acts."""
        for name, entry in self.pieces.items():
            for position, axis in enumerate(entry.axes):
                if space in axis.spaces:
                    yield name, position

    @property
    def compared(self) -> tuple[str, ...]:
        """The pieces that tell which elements match two states: those on which spaces act linearly.

        Not the scales of norms, most of which the canonical form folds, nor pieces with the same space on both axes;
        nor the map to labels of a classifier, whose few rows say little, and may be those of another model.
        """
        return tuple(
            name
            for name, piece in self.pieces.items()
            if any(axis.spaces for axis in piece.axes)
            and not any(axis.scale for axis in piece.axes)
            and not piece.repeats_a_space
            and not (name == self.head and self.task in CLASSIFIERS)
        )

    @property
    def folded(self) -> frozenset[str]:
        """The scales of norms that the canonical form moves into readers."""
        return frozenset(norm.weight for norm in self.norms if norm.folds)

    @property
    def centred(self) -> bool:
        """Whether the mean of the residual stream is seen by nothing: all that reads it centres it first."""
        return all(norm.centres and norm.folds for norm in self.norms)
