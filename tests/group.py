"""Random elements of a model's symmetry group."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from isthmus.align.symmetry import Elements, Family, State

Kind = Literal["permutation", "orthogonal", "invertible"]


def random_elements(table: Family, kind: Kind, seed: int = 0) -> Elements:
    """``permutation`` permutes, ``orthogonal`` rotates stream and heads, ``invertible`` maps heads at will.

    All but rotations of the stream act on a state in any form.
    """
    generator = torch.Generator().manual_seed(seed)
    found: Elements = {}
    for name, space in table.spaces.items():
        group = space.group.permutations()
        if kind == "orthogonal":
            group = space.group.compact()
        elif kind == "invertible" and space.inside:
            group = space.group
        found[name] = group.random(generator)
    return found


def moved(state: dict[str, Tensor], table: Family, elements: Elements) -> State:
    """A state under elements of the table's groups, as it is."""
    return table.join({name: table.act(name, table.piece(state, name), elements) for name in table.pieces})
