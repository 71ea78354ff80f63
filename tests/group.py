"""Random elements of a model's symmetry group, made independently of the matching that has to find them."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from isthmus.align.symmetry import Elements, Family

Kind = Literal["permutation", "orthogonal", "invertible"]


def rotation(size: int, generator: torch.Generator) -> Tensor:
    return torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.float64))[0]


def rotation_that_keeps_ones(size: int, generator: torch.Generator) -> Tensor:
    """Q with Q·1 = 1: a rotation of the orthogonal complement, in a basis that begins with 1."""
    start = torch.randn(size, size, generator=generator, dtype=torch.float64)
    start[:, 0] = 1.0
    basis = torch.linalg.qr(start)[0]
    inner = torch.eye(size, dtype=torch.float64)
    inner[1:, 1:] = rotation(size - 1, generator)
    return basis @ inner @ basis.T


def random_elements(table: Family, kind: Kind, seed: int = 0) -> Elements:
    """``permutation`` permutes, ``orthogonal`` rotates stream and heads, ``invertible`` maps heads at will."""
    generator = torch.Generator().manual_seed(seed)
    found: Elements = {}
    for name, space in table.spaces.items():
        if space.kind == "inner":
            blocks = []
            for _ in range(space.blocks):
                if kind == "permutation":
                    order = torch.randperm(space.size, generator=generator)
                    blocks.append(torch.eye(space.size, dtype=torch.float64)[order])
                    continue
                block = rotation(space.size, generator)
                if kind == "invertible":
                    block = block * (0.5 + torch.rand(space.size, generator=generator, dtype=torch.float64))
                blocks.append(block)
            found[name] = torch.stack(blocks)
        elif space.kind == "stream" and kind == "orthogonal":
            found[name] = rotation_that_keeps_ones(space.size, generator)
        else:
            found[name] = torch.randperm(space.size, generator=generator)
    return found
