"""The entries of a symmetry table: axes, spaces, pieces of weights, and what reads and writes the residual stream."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from torch import Tensor

from .groups import Group


@dataclass(frozen=True)
class Space:
    """One index set and the group that acts on it: the residual stream, the neurons of an MLP, the heads of a layer.

    The group of a space `inside` another, as the inside of heads, has an element for every block of the other, and acts
    after it; with the permutations of the blocks, the elements go along.
    """

    group: Group
    inside: str | None = None


@dataclass(frozen=True)
class Axis:
    """How one axis of a piece transforms: by the elements of `spaces`, in order; by none when empty.

    `size` is the length of an axis on which nothing acts, or of a block where its inside is not acted on. The axis of a
    norm's `scale` transforms as a diagonal matrix does.
    """

    spaces: tuple[str, ...] = ()
    dual: bool = False
    size: int = 1
    scale: bool = False


@dataclass(frozen=True)
class View:
    """A part of an axis: of each of `runs` equal runs, the entries `start:stop`.

    One run for parts that lie one after the other; as many as there are heads where they are interleaved.
    """

    axis: int
    start: int
    stop: int
    runs: int = 1

    def of(self, tensor: Tensor) -> Tensor:
        """This part of a tensor: a view of it where that is possible."""
        axis = self.axis % tensor.ndim
        return self.in_runs(tensor).flatten(axis, axis + 1)

    def in_runs(self, tensor: Tensor) -> Tensor:
        """The same, always a view, the axis split into runs and what lies inside of them."""
        axis = self.axis % tensor.ndim
        return torch.unflatten(tensor, axis, (self.runs, -1)).narrow(axis + 1, self.start, self.stop - self.start)

    def fused(self, parts: Sequence[Tensor]) -> Tensor:
        """The whole, of all parts of the same runs in their order."""
        axis = self.axis % parts[0].ndim
        whole = torch.cat([torch.unflatten(part, axis, (self.runs, -1)) for part in parts], dim=axis + 1)
        return whole.flatten(axis, axis + 1)


@dataclass(frozen=True)
class Stack:
    """How a tensor of `count` matrices, (count, m, n), is one matrix: side by side along `axis` of that.

    Along axis 0 it is (count × m, n), along axis 1 (m, count × n).
    """

    axis: int
    count: int

    def laid_out(self, tensor: Tensor) -> Tensor:
        """The one matrix: a view where that is possible."""
        return tensor.movedim(0, self.axis).flatten(self.axis, self.axis + 1)

    def apart(self, matrix: Tensor) -> Tensor:
        """The tensor of matrices, as a view of the one."""
        return torch.unflatten(matrix, self.axis, (self.count, -1)).movedim(self.axis, 0)


@dataclass(frozen=True)
class Piece:
    """A parameter, or a `view` of it, with what acts on each of its axes.

    A parameter of many matrices, as those of experts, is laid out as one by its `stack`, before the view. The pieces of
    one parameter have the same stack, views of the same axis and number of runs, and stand in the table in their order.
    """

    parameter: str
    axes: tuple[Axis, ...]
    view: View | None = None
    stack: Stack | None = None

    def of(self, parameter: Tensor) -> Tensor:
        """The piece of its parameter: a view where that is possible."""
        matrix = parameter if self.stack is None else self.stack.laid_out(parameter)
        return matrix if self.view is None else self.view.of(matrix)

    @property
    def repeats_a_space(self) -> bool:
        """Whether one space acts on both axes."""
        spaces = [space for axis in self.axes for space in axis.spaces]
        return len(set(spaces)) < len(spaces)


@dataclass(frozen=True)
class Reader:
    """A linear map that reads a normalised vector along `axis` of `weight`; its bias, when it has one."""

    weight: str
    axis: int
    bias: str | None = None


@dataclass(frozen=True)
class Norm:
    """A norm over the residual stream, and the linear maps that read what it gives.

    `centres` is true of LayerNorm, which subtracts the mean, and false of RMSNorm. `neutral` is the value of the weight
    for which it scales by 1: 0 where a model stores the scale less 1. A norm without readers writes to the stream
    itself, or its vectors go elsewhere: its scale stays.
    """

    weight: str
    bias: str | None
    readers: tuple[Reader, ...]
    centres: bool = True
    neutral: float = 1.0

    @property
    def folds(self) -> bool:
        """Whether its scale can move into readers."""
        return bool(self.readers)

    @property
    def shifts(self) -> bool:
        """Whether its bias can move into the biases of readers: only if all of them have one."""
        return self.bias is not None and self.folds and all(reader.bias for reader in self.readers)

    def scale(self, weight: Tensor) -> Tensor:
        """By how much it scales with this weight."""
        return weight if self.neutral == 1 else weight + (1 - self.neutral)

    def weight_of(self, scale: Tensor) -> Tensor:
        """The weight with which it scales by so much."""
        return scale if self.neutral == 1 else scale - (1 - self.neutral)


@dataclass(frozen=True)
class Attention:
    """A value bias, and the output map that can take it: attention weights sum to 1, so it moves into the map's bias.

    `axis` of the piece `output` is that along which values come in, those of `groups` heads, each `shared` by so many
    queries. Only where there are both biases.
    """

    value_bias: str
    output: str
    axis: int
    output_bias: str
    groups: int = 1
    shared: int = 1

    def carried(self, value: Tensor, output: Tensor) -> Tensor:
        """What the output map makes of a value bias: (width,), in the precision of both."""
        values = value.view(self.groups, 1, -1).expand(-1, self.shared, -1).flatten()
        return values @ output.movedim(self.axis, 0)


@dataclass(frozen=True)
class Vanishing:
    """A bias that drops out, as a key's does in the softmax: all of the piece, or what `view` takes of it."""

    piece: str
    view: View | None = None


@dataclass(frozen=True)
class Activation:
    """Where vectors along a space can be seen: a `view` of what goes into a module, or of what comes out of it.

    `acting` are the spaces that act on them, where it is not that space after those around it.
    """

    space: str
    module: str
    side: Literal["input", "output"]
    view: View | None = None
    acting: tuple[str, ...] = ()


@dataclass(frozen=True)
class LinearMap:
    """A module that multiplies what goes into it by its weight, along `axis` of that."""

    module: str
    axis: int
    side: ClassVar[Literal["input"]] = "input"
    view: ClassVar[None] = None

    @property
    def weight(self) -> str:
        """The name of its weight."""
        return f"{self.module}.weight"


@dataclass(frozen=True)
class Head:
    """The unembedding: what it is in the table of a model whose embedding is not tied to it.

    `shifts` is whether a number added to all logits drops out: not where they go through another function first. Some
    models then have more that is their own: `apart` are the pieces that differ, `copies` the pieces of a tied model
    from which new ones are made, and `spaces` and `activations` those that are added.
    """

    name: str
    piece: Piece
    map: LinearMap
    shifts: bool = True
    apart: Mapping[str, Piece] = field(default_factory=dict)
    copies: Mapping[str, str] = field(default_factory=dict)
    spaces: Mapping[str, Space] = field(default_factory=dict)
    activations: tuple[Activation, ...] = ()
