"""The optimizers that train bends and small models: AdamW, Muon or Lion for the matrices, and their schedule.

Muon (Jordan et al. 2024) orthogonalises the update of each matrix. The pieces of the symmetry table are trained, in
which Q, K and V are separate even where a model fuses them (Zhang et al. 2026, arXiv 2605.09991). Embeddings, norms and
biases are trained by AdamW. Lion (Chen et al. 2023, arXiv 2302.06675) takes the sign of an interpolated momentum.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ...align.muon import Muon
from ..plans import OptimizerName

if TYPE_CHECKING:
    from ...align.table_entries import Stack

BETAS = (0.9, 0.95)


def make_optimizers(
    name: OptimizerName,
    leaves: Sequence[Mapping[str, Tensor]],
    matrices: Iterable[str],
    *,
    stacks: Mapping[str, Stack] | None = None,
    transposed: Collection[str] = (),
    lr: float,
    adamw_lr: float,
    weight_decay: float = 0.0,
    muon: Callable[..., torch.optim.Optimizer] | None = None,
) -> list[torch.optim.Optimizer]:
    """Optimizers over the leaves of one or several states, pieces by name.

    With ``muon``, the `matrices` are trained at `lr`, those of `stacks` each of the matrices that they are by itself,
    and everything else by AdamW at `adamw_lr`; the other two train all. Vectors (norms, biases) are never decayed.
    Matrices are (outputs, inputs), those of `transposed` (inputs, outputs). Another `muon` than the usual one is called
    with pairs of a name and its leaf, and the same settings.
    """
    kinds = frozenset(matrices)
    named = [(key, leaf) for state in leaves for key, leaf in state.items()]
    hidden = [leaf for key, leaf in named if key in kinds]
    others = [leaf for key, leaf in named if key not in kinds and leaf.ndim > 1]
    vectors = [leaf for _, leaf in named if leaf.ndim == 1]
    if name == "muon":
        groups = _groups(others, vectors, weight_decay)
        settings: dict[str, Any] = {"lr": lr, "weight_decay": weight_decay, "momentum": 0.95}
        if muon is None:
            turning: torch.optim.Optimizer = Muon(_by_layout(named, kinds, stacks or {}, transposed), **settings)
        else:
            turning = muon([(key, leaf) for key, leaf in named if key in kinds], **settings)
        return [turning, torch.optim.AdamW(groups, lr=adamw_lr, betas=BETAS)]
    groups = _groups([*others, *hidden], vectors, weight_decay)
    if name == "lion":
        from lion_pytorch import Lion

        return [Lion(groups, lr=lr, betas=(0.9, 0.99))]
    return [torch.optim.AdamW(groups, lr=lr, betas=BETAS)]


def _by_layout(
    named: Sequence[tuple[str, Tensor]],
    kinds: Collection[str],
    stacks: Mapping[str, Stack],
    transposed: Collection[str],
) -> list[dict[str, Any]]:
    """Groups for Muon: the matrices as they are, those that are several side by side, and those that are transposed."""
    groups: dict[tuple[Stack | None, bool], dict[str, Any]] = {}
    for key, leaf in named:
        if key in kinds:
            stack, inputs_first = stacks.get(key), key in transposed
            layout: dict[str, Any] = {} if stack is None else {"stacked": (stack.axis, stack.count)}
            layout |= {"transposed": True} if inputs_first else {}
            groups.setdefault((stack, inputs_first), {"params": [], **layout})["params"].append(leaf)
    return list(groups.values())


def _groups(decayed: list[Tensor], plain: list[Tensor], weight_decay: float) -> list[dict[str, object]]:
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}]


class Schedule:
    """The learning rates of a run: the peaks that the optimizers were made with, times `learning_rate_factor`."""

    def __init__(self, optimizers: Sequence[torch.optim.Optimizer], steps: int, *, floor: float):
        self.optimizers, self.steps, self.floor = optimizers, steps, floor
        self.peaks = [[group["lr"] for group in optimizer.param_groups] for optimizer in optimizers]

    def set(self, step: int) -> None:
        """Set the learning rates for a step, counted from 0."""
        factor = learning_rate_factor(step, self.steps, floor=self.floor)
        for optimizer, peaks in zip(self.optimizers, self.peaks, strict=True):
            for group, peak in zip(optimizer.param_groups, peaks, strict=True):
                group["lr"] = peak * factor


def learning_rate_factor(step: int, steps: int, *, floor: float = 0.1, warmup: float = 0.05) -> float:
    """Linear warm-up over a share of the steps, then cosine down to `floor`; 1 at the peak."""
    warm = max(1, round(warmup * steps))
    if step < warm:
        return (step + 1) / warm
    progress = (step - warm) / max(1, steps - warm)
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress))
