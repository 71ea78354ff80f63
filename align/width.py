"""Room for neurons that find no partner: MLPs of two aligned states that grow, while both compute what they computed.

A pair of neurons i is merged, or stays twice. One that stays twice becomes two neurons of the wider MLP, with the
inputs of A's and of B's at both ends; at A's end nothing reads the second, at B's end nothing the first. On the line
between such ends the first is read by (1 − t) o_A and the second by t o_B: the average of what both neurons compute,
where a merged one computes with averaged inputs. With budget 1 every pair is merged, with budget 2 none.

Which pairs: with neurons that were linear, o_A w_A x and o_B w_B x, averaging inputs w and outputs o apart is off by
¼ (w_A − w_B) x (o_A − o_B)ᵀ, and for normal x by |w_A − w_B| |o_A − o_B| / 4 on average. Those with the largest error
stay twice; of all MLPs equally many, as the configuration has one hidden size.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..checkpoint.errors import UnsupportedFamily
from .groups import Permutation
from .symmetry import Family, State

KEYS = ("n_inner", "intermediate_size", "ffn_dim")  # what configurations call the hidden size of MLPs


@dataclass(frozen=True)
class Neurons:
    """Where the neurons of one MLP are: (piece, axis) of all that gives them inputs, biases included, and of the map
    that reads them.
    """

    inputs: tuple[tuple[str, int], ...]
    output: tuple[str, int]


@dataclass(frozen=True)
class Widening:
    """The hidden size of all MLPs, what the configuration calls it, and who stays twice: space → (extra,) int64."""

    key: str
    hidden: int
    twice: Mapping[str, Tensor]

    @property
    def widened(self) -> int:
        """The hidden size with room for them."""
        return self.hidden + len(next(iter(self.twice.values())))

    def facts(self, facts: Mapping[str, Any]) -> dict[str, Any]:
        """The content of config.json of the wider model."""
        return {**facts, self.key: self.widened}

    def pieces(self, a: Mapping[str, Tensor], b: Mapping[str, Tensor], table: Family) -> tuple[State, State]:
        """The pieces of A and B with wider MLPs; `table` is that of the narrow ones. Differentiable in both."""
        wide_a, wide_b = dict(a), dict(b)
        for space, twice in self.twice.items():
            neurons = neurons_of(table)[space]
            for name, axis in neurons.inputs:
                index = twice.to(a[name].device)
                wide_a[name] = torch.cat([a[name], b[name].index_select(axis, index)], axis)
                shared = b[name].index_copy(axis, index, a[name].index_select(axis, index))
                wide_b[name] = torch.cat([shared, b[name].index_select(axis, index)], axis)
            name, axis = neurons.output
            index = twice.to(a[name].device)
            own = b[name].index_select(axis, index)
            wide_a[name] = torch.cat([a[name], torch.zeros_like(own)], axis)
            wide_b[name] = torch.cat([b[name].index_fill(axis, index, 0.0), own], axis)
        return wide_a, wide_b


def widening_of(a: Mapping[str, Tensor], b: Mapping[str, Tensor], table: Family, budget: float) -> Widening:
    """The neurons of two aligned states, pieces by name, that stay twice when MLPs grow to `budget` times their size.

    Raises UnsupportedFamily for an architecture whose MLPs do not all have one hidden size, as those of experts.
    """
    neurons = neurons_of(table)
    sizes = {table.spaces[space].group.size for space in neurons}
    keys = [key for key in KEYS if {table.configuration.get(key)} == sizes]
    if len(sizes) != 1 or len(keys) != 1:
        raise UnsupportedFamily("--budget widens MLPs that all have one hidden size, and those of this model do not")
    (hidden,) = sizes
    extra = round((budget - 1) * hidden)
    twice = {space: mismatch(a, b, each).topk(extra).indices.sort().values for space, each in neurons.items()}
    return Widening(keys[0], hidden, twice)


def mismatch(a: Mapping[str, Tensor], b: Mapping[str, Tensor], neurons: Neurons) -> Tensor:
    """|w_A − w_B|² |o_A − o_B|² of every pair of neurons, (hidden,)."""
    inputs = sum(_squares(a[name] - b[name], axis) for name, axis in neurons.inputs)
    name, axis = neurons.output
    return inputs * _squares(a[name] - b[name], axis)


def neurons_of(table: Family) -> dict[str, Neurons]:
    """The spaces of neurons that one map reads, and nothing but maps and their biases gives inputs; not of experts."""
    maps = {linear.weight: linear.axis for linear in table.maps}
    found = {}
    for name, space in table.spaces.items():
        plain = type(space.group) is Permutation and space.inside is None
        if not plain or any(table.spaces[inner].group.size != 1 for inner in table.inner(name)):
            continue
        places = list(table.occurrences(name))
        reads = [(piece, axis) for piece, axis in places if maps.get(table.pieces[piece].parameter) == axis]
        matrices = [table.pieces[piece] for piece, _ in places]
        scaled = any(axis.scale for piece in matrices for axis in piece.axes)
        if len(reads) == 1 and len(places) > 1 and not scaled:
            found[name] = Neurons(tuple(place for place in places if place != reads[0]), reads[0])
    return found


def _squares(tensor: Tensor, axis: int) -> Tensor:
    """The sum of squares over all axes but one."""
    return tensor.movedim(axis, 0).flatten(1).square().sum(1) if tensor.ndim > 1 else tensor.square()
