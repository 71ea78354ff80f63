"""Architectures as data: which space each axis of each weight lives in, and what acts on a space.

A family is a table. Nothing here, and nothing that uses a table, knows the name of a tensor: the
algorithms see *pieces* (a weight, or the query, key or value part of a fused one), *axes* and *spaces*.

A group element is one tensor per space, and always takes B to A:

- ``(m,)`` int64, a permutation of m equal blocks of the axis: block i of the result is block ``p[i]``;
- ``(n, n)`` float, a matrix G: a vector x along the axis becomes x G;
- ``(m, d, d)`` float, one matrix per block of the axis, applied after the permutation of the blocks.

A dual axis transforms by the inverse transpose, so that inner products of a primal and a dual axis stay.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor

from ..checkpoint.model import Schema

State = dict[str, Tensor]
Elements = dict[str, Tensor]


@dataclass(frozen=True)
class Space:
    """One index set on which a symmetry acts. `size` counts what is permuted, or the dimension rotated.

    Kinds: ``stream`` the residual stream (permutation, or rotation that keeps the all-ones vector);
    ``neurons`` an MLP's hidden units (permutation); ``heads`` the heads of a layer (permutation); ``inner`` the
    inside of every head of a layer, `blocks` matrices of `size` x `size`.
    """

    kind: Literal["stream", "neurons", "heads", "inner"]
    size: int
    blocks: int = 1


@dataclass(frozen=True)
class Axis:
    """How one axis of a piece transforms: by the elements of `spaces`, in order; by none when empty.

    `size` is the length of an axis on which nothing acts.
    """

    spaces: tuple[str, ...] = ()
    dual: bool = False
    size: int = 1


@dataclass(frozen=True)
class Piece:
    """A parameter, or columns `start:stop` of its last axis, with what acts on each of its axes."""

    parameter: str
    axes: tuple[Axis, ...]
    start: int | None = None
    stop: int | None = None


@dataclass(frozen=True)
class Reader:
    """A linear map that reads a normalised vector along `axis` of `weight`; its bias, when it has one."""

    weight: str
    axis: int
    bias: str | None


@dataclass(frozen=True)
class Norm:
    """A LayerNorm over the residual stream and the linear maps that read it, and nothing else reads it."""

    weight: str
    bias: str
    readers: tuple[Reader, ...]


@dataclass(frozen=True)
class Attention:
    """The pieces of an attention layer that have gauge of their own: biases of k and v, output map."""

    key_bias: str
    value_bias: str
    output: str
    output_bias: str


@dataclass(frozen=True)
class Activation:
    """Where vectors along a space can be seen: columns `start:stop` of what goes into a module, or comes out of it."""

    space: str
    module: str
    side: Literal["input", "output"]
    start: int | None = None
    stop: int | None = None


@dataclass(frozen=True)
class Family:
    """The symmetry table of one model: pieces, spaces, and where the gauge of its norms and biases sits.

    `writers` are (piece, axis) pairs that add to the residual stream; `head` is the unembedding, which is no piece
    of its own while it is `tied` to `embedding`; `matrices` lists the pieces whose spectra are measured; `prefix` is
    what transformers puts before the names of the base model; `activations` are the places where spaces can be seen.
    `configuration` is what the forward pass reads of the configuration, defaults filled in.
    """

    model_type: str
    prefix: str
    spaces: dict[str, Space]
    pieces: dict[str, Piece]
    norms: tuple[Norm, ...]
    attentions: tuple[Attention, ...]
    writers: tuple[tuple[str, int], ...]
    embedding: str
    positions: str
    head: str
    head_piece: Piece
    tied: bool
    matrices: tuple[str, ...]
    activations: tuple[Activation, ...]
    configuration: Mapping[str, object] = field(default_factory=dict)

    def untied(self) -> Family:
        """The table of the same model with an unembedding of its own."""
        return replace(self, pieces=self.pieces | {self.head: self.head_piece}, tied=False)

    def schema(self) -> Schema:
        """The tensors of the model, as transformers names them, without importing its modelling code."""
        shapes: dict[str, tuple[int, ...]] = {}
        for piece in self.pieces.values():
            sizes = [axis.size * math.prod(self.spaces[space].size for space in axis.spaces) for axis in piece.axes]
            if piece.parameter in shapes:
                sizes[-1] += shapes[piece.parameter][-1]
            shapes[piece.parameter] = tuple(sizes)
        tied = {self.head_piece.parameter: self.pieces[self.embedding].parameter} if self.tied else {}
        return Schema(shapes, tied, self.prefix)

    def identity(self) -> Elements:
        """The elements that move nothing, rotations as matrices."""
        found: Elements = {}
        for name, space in self.spaces.items():
            if space.kind in ("neurons", "heads"):
                found[name] = torch.arange(space.size)
            else:
                eye = torch.eye(space.size, dtype=torch.float64)
                found[name] = eye.repeat(space.blocks, 1, 1) if space.kind == "inner" else eye
        return found

    def inner_spaces(self) -> dict[str, tuple[str, ...]]:
        """For every ``heads`` space, the ``inner`` spaces that act inside those heads."""
        found: dict[str, tuple[str, ...]] = {}
        for entry in self.pieces.values():
            for axis in entry.axes:
                if len(axis.spaces) == 2:
                    outer, inner = axis.spaces
                    found[outer] = tuple(dict.fromkeys((*found.get(outer, ()), inner)))
        return found

    def split(self, state: Mapping[str, Tensor]) -> State:
        """Pieces of a state: views, one per entry of `pieces`."""
        return {name: self.piece(state, name) for name in self.pieces}

    def piece(self, state: Mapping[str, Tensor], name: str) -> Tensor:
        """One piece of a state."""
        entry = self.pieces[name]
        whole = state[entry.parameter]
        return whole if entry.start is None else whole[..., entry.start : entry.stop]

    def join(self, pieces: Mapping[str, Tensor]) -> State:
        """The state whose pieces these are: fused weights are put together again, in the table's order."""
        parts: dict[str, list[Tensor]] = {}
        for name, entry in self.pieces.items():
            parts.setdefault(entry.parameter, []).append(pieces[name])
        return {
            parameter: values[0] if len(values) == 1 else torch.cat(values, dim=-1)
            for parameter, values in parts.items()
        }

    def occurrences(self, space: str) -> Iterator[tuple[str, int]]:
        """Every (piece, axis) on which a space acts."""
        for name, entry in self.pieces.items():
            for position, axis in enumerate(entry.axes):
                if space in axis.spaces:
                    yield name, position


def act(tensor: Tensor, position: int, element: Tensor, *, dual: bool = False) -> Tensor:
    """Act with one group element on one axis of a tensor; the element's dtype and shape say which action it is."""
    if element.dtype == torch.int64:
        blocks = torch.unflatten(tensor, position, (element.numel(), -1))
        return torch.flatten(blocks.index_select(position, element), position, position + 1)
    matrix = torch.linalg.inv(element).mT if dual else element
    matrix = matrix.to(tensor.dtype)
    moved = tensor.movedim(position, -1)
    if element.ndim == 2:
        return (moved @ matrix).movedim(-1, position)
    heads = torch.unflatten(moved, -1, tuple(element.shape[:2]))
    return torch.einsum("...hd,hde->...he", heads, matrix).flatten(-2).movedim(-1, position)


def act_on_piece(
    tensor: Tensor, piece: Piece, elements: Mapping[str, Tensor], *, skip: frozenset[str] = frozenset()
) -> Tensor:
    """Act on every axis of a piece with the elements that are given, but for the spaces in `skip`."""
    for position, axis in enumerate(piece.axes):
        for space in axis.spaces:
            if space in elements and space not in skip:
                tensor = act(tensor, position, elements[space], dual=axis.dual)
    return tensor
