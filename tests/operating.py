"""Tensors, and operators that are run on them in blocks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from isthmus.merge.operators.custom import operator

Whole = list[tuple[Tensor, ...]]


def tensors(count: int, *shape: int, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator) for _ in range(count)]


def cut(parts: Sequence[Tensor], rows: int) -> Whole:
    return list(zip(*(part.split(rows) if part.ndim else [part] for part in parts), strict=True))


def run(name: str, parts: Sequence[Tensor], rows: int = 1000, **values: Any) -> Tensor:
    chosen = operator(name)
    models = len(parts) - chosen.needs_base
    filled = {
        key: values.get(key, [parameter.default] * models if parameter.each else parameter.default)
        for key, parameter in chosen.parameters.items()
    }
    blocks = list(chosen.run(cut(parts, rows), **chosen.arguments(filled, "key")))
    return torch.cat(blocks) if len(blocks) > 1 else blocks[0]
