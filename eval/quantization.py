"""What quantization cost a model whose weights were dequantized, estimated without the weights that it was made of.

A number that was rounded to a grid of step s lies within ± s/2 of what it was, evenly spread: its error has the
variance s²/12. The loss is quadratic in small changes of the weights of a trained model, and what random errors add to
it, ½ tr(H Σ), is about the same where they are added again. So the weights get as much rounding again, and what the
loss rises by is the estimate.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .loss import Losses, LossMeter

if TYPE_CHECKING:
    from transformers import PretrainedConfig

BLOCK = 16  # numbers that have one grid, in every format of llama.cpp
SAME = 1e-6  # of the largest number of a block: two that are closer are the same, but for rounding to float32
MULTIPLES = 8  # of the step that the smallest difference of a block may be
WHOLE = 0.01  # from a whole number, at most: what float32 leaves of it


def steps(weight: Tensor) -> Tensor:
    """The step of the grid that every number of a matrix was rounded to, in blocks of `BLOCK` numbers of a row.

    That is the largest number of which all differences in a block are multiples; 0 where there is none, as in a matrix
    that was never rounded. (rows, columns), float32. Grids that are not even (IQ4_NL) have the smallest difference as
    their step: they are told by blocks that hold a number twice. The blocks lie along the columns where the grids of
    those are coarser, as of matrices that are stored the other way round.
    """
    along_rows = _steps(weight)
    if weight.shape[0] % BLOCK or weight.shape[1] % BLOCK:
        return along_rows
    along_columns = _steps(weight.mT.contiguous()).mT
    return along_columns if along_columns.mean() > along_rows.mean() else along_rows


def _steps(weight: Tensor) -> Tensor:
    if weight.shape[1] % BLOCK:
        return torch.zeros_like(weight)
    blocks = weight.reshape(-1, BLOCK).sort(-1).values
    gaps = blocks.diff(dim=-1)
    differ = gaps > SAME * blocks.abs().amax(-1, keepdim=True)
    least = torch.where(differ, gaps, torch.inf).amin(-1, keepdim=True)
    least = torch.where(torch.isfinite(least), least, 0.0)
    uneven = (differ.sum(-1) < BLOCK - 1).float().mean() > 0.5
    step = least if uneven else torch.zeros_like(least)
    for multiple in range(MULTIPLES, 0, -1):
        counts = torch.where(differ, gaps / (least / multiple).clamp_min(torch.finfo(least.dtype).tiny), 0.0)
        even = (counts - counts.round()).abs().amax(-1, keepdim=True) < WHOLE
        step = torch.where(even, least / multiple, step)
    return step.expand(-1, BLOCK).reshape(weight.shape)


def quantization_cost(
    state: Mapping[str, Tensor],
    config: PretrainedConfig,
    blocks: Mapping[str, Tensor],
    *,
    seed: int = 0,
    device: str = "cpu",
) -> Losses:
    """What quantization cost a model on token blocks, nats per token, block by block: an estimate (see above)."""
    generator = torch.Generator().manual_seed(seed)
    rounded = {}
    for name in state:
        weight = state[name]
        rounded[name] = weight
        if weight.ndim == 2:
            noise = torch.rand(weight.shape, generator=generator) - 0.5
            rounded[name] = weight + noise * steps(weight.float())
    meter = LossMeter(config, blocks, device=device)
    return meter(rounded) - meter(state)
