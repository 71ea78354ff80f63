"""The gauge that the canonical form fixes, at other values: same function, another straight line.

In canonical form every norm with readers has scale 1 and shift 0, as far as these take them, and values have no bias.
All of that is choice: with any d > 0, β and u

- norm: scale d, shift β (d ∘ its own where a reader has no bias); readers W ← diag(1/d) W, b ← b − β W;
- attention: value bias b_v + u, output bias b_o − u W_o

leave the log-probabilities alone. A straight line between a canonical A and such a B is not the line between two
canonical forms, though: products of interpolated factors differ by t (1 − t) (d − 1)(…), and a learned alignment finds
the values for which that helps. Heads have such a gauge, too: any invertible map between query and key, or value and
output, whose factors `balanced` makes equally large.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from .canonical import balanced_sides, canonical
from .groups import Matrices
from .symmetry import Family, State


def regauge(pieces: Mapping[str, Tensor], table: Family, gauge: Mapping[str, Tensor]) -> State:
    """Canonical pieces with the gauge moved to `gauge`, function unchanged; differentiable in both.

    `gauge` has vectors (width,) by the name of a piece: d for a norm's weight, β for its bias, u for a value bias. What
    it does not name stays.
    """
    moved = dict(pieces)
    for norm in table.norms:
        scale, shift = gauge.get(norm.weight), None if norm.bias is None else gauge.get(norm.bias)
        if scale is not None:
            moved[norm.weight] = norm.weight_of(norm.scale(moved[norm.weight]) * scale)
        if norm.bias is not None:
            if scale is not None:
                moved[norm.bias] = moved[norm.bias] * scale
            if shift is not None:
                moved[norm.bias] = moved[norm.bias] + shift
        for reader in norm.readers if scale is not None or shift is not None else ():
            weight = moved[reader.weight].movedim(reader.axis, -1)  # (outputs, residual)
            if scale is not None:
                weight = weight / scale
                moved[reader.weight] = weight.movedim(-1, reader.axis)
            if shift is not None and reader.bias is not None:
                moved[reader.bias] = moved[reader.bias] - weight @ shift
    for attention in table.attentions:
        value = gauge.get(attention.value_bias)
        if value is not None:
            moved[attention.value_bias] = moved[attention.value_bias] + value
            carried = attention.carried(value, moved[attention.output])
            moved[attention.output_bias] = moved[attention.output_bias] - carried
    return moved


def free_gauge(table: Family) -> State:
    """The gauge that changes nothing, all that `regauge` takes: ones for scales, zeros for shifts and value biases."""

    def vector(name: str, value: float) -> Tensor:
        return torch.full(table.shape_of(table.pieces[name]), value)

    gauge = {}
    for norm in (norm for norm in table.norms if norm.folds):
        gauge[norm.weight] = vector(norm.weight, 1.0)
        if norm.bias is not None and norm.shifts:
            gauge[norm.bias] = vector(norm.bias, 0.0)
    return gauge | {one.value_bias: vector(one.value_bias, 0.0) for one in table.attentions}


def neutral(state: Mapping[str, Tensor], table: Family) -> State:
    """A state in canonical form with `balanced` heads: what a gauge changed is taken out again, function unchanged."""
    return table.untied().join(balanced(table.untied().split(canonical(state, table)), table))


def balanced(pieces: Mapping[str, Tensor], table: Family) -> State:
    """Pieces in which both sides of every head's circuit, and of every gated neuron, have the same singular values."""
    moved = dict(pieces)
    for name, space in table.spaces.items():
        if isinstance(space.group, Matrices):
            moved |= balanced_sides(moved, table, name)
    return moved
