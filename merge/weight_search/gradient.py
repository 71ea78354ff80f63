"""Weights learned along the gradient of the loss through the merge.

θ(w) is what the operator makes of the models. One backward pass gives ∂L/∂θ on some blocks of the fit text; the few
∂L/∂w_i are its inner products with the operator's slopes ∂θ/∂w_i (`isthmus.merge.operators.slopes`), tensor by tensor,
so that beside the models only one merge and one gradient are in memory. Steps are Adam's (Kingma & Ba 2015, arXiv
1412.6980) with a cosine schedule; the select text says which of the weights on the way are taken.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.func import functional_call

from ...checkpoint.errors import TooLittleText
from ...checkpoint.model import arguments, empty_model, with_tied
from ...eval.loss import LOGITS_AT_ONCE, cross_entropy
from ...eval.targets import IGNORED, lengths, predicted, scores, shown, stacked
from ..operators.combined import Combined
from .objective import Evaluations, MergeWithWeights
from .weight_table import LARGEST, Table, rounded

if TYPE_CHECKING:
    from torch import nn
    from transformers import PretrainedConfig

    from ..plans import SearchPlan

EVALUATIONS = 6  # of the select text, after the start
PATIENCE = 4  # evaluations without a lower loss
RATE = {True: 0.06, False: 0.02}  # peak learning rates: of logits (on the simplex), and of weights
FLOOR = 0.05  # the last learning rate over the peak


class LossGradient:
    """The mean loss of a state on blocks, every text with the same share, and its gradient by every tensor."""

    def __init__(self, config: PretrainedConfig, device: str):
        self.config, self.device, self.model = config, torch.device(device), empty_model(config)

    def __call__(self, state: Mapping[str, Tensor], rows: Tensor) -> tuple[float, dict[str, Tensor]]:
        """The mean over blocks (blocks, context) of their mean loss per target, and float32 gradients on the CPU."""
        weights = {name: state[name].detach().to(self.device, torch.float32).requires_grad_() for name in state}
        total = 0.0
        ordered = rows[lengths(rows).argsort(stable=True)]
        for part in ordered.split(max(1, LOGITS_AT_ONCE // (rows.shape[1] * int(self.config.vocab_size)))):
            loss = _block_losses(self.model, with_tied(weights, self.model), part, self.device).sum() / len(rows)
            loss.backward()
            total += loss.item()
        return total, {name: weight.grad.cpu() for name, weight in weights.items() if weight.grad is not None}


def _block_losses(model: nn.Module, state: Mapping[str, Tensor], rows: Tensor, device: torch.device) -> Tensor:
    """The mean loss per target of every block, (blocks,)."""
    logits = functional_call(model, dict(state), (), arguments(model, shown(rows).to(device))).logits
    targets = predicted(rows).to(device)
    values = cross_entropy(scores(logits, rows).float(), targets)
    return values.sum(1) / (targets != IGNORED).sum(1)  # what is ignored counts 0


def table_gradient(
    merged: Combined, gradient: Mapping[str, Tensor], groups: Mapping[str, int], shape: Sequence[int]
) -> Tensor:
    """∂L/∂w, float64 of the table's shape (groups, models), from ∂L/∂θ by tensor."""
    total = torch.zeros(*shape, dtype=torch.float64)
    for name, whole in gradient.items():
        start = 0
        for slopes in merged.slopes(name):
            rows = len(slopes[0]) if slopes[0].ndim else 1
            part = (whole[start : start + rows] if whole.ndim else whole).flatten()
            total[groups[name]] += torch.stack([torch.dot(part, slope.flatten()) for slope in slopes]).double()
            start += rows
    return total


class Parameters:
    """The numbers that are learned for a table: logits of weights on the simplex, else the weights themselves."""

    def __init__(self, start: Table, *, simplex: bool):
        self.simplex = simplex
        table = torch.tensor(start, dtype=torch.float64)
        self.numbers = (table.log() if simplex else table).clone()

    def table(self) -> Tensor:
        """The weights, (groups, models)."""
        return self.numbers.softmax(1) if self.simplex else self.numbers

    def gradient(self, by_weight: Tensor) -> Tensor:
        """∂L by the numbers, from ∂L/∂w."""
        if not self.simplex:
            return by_weight
        table = self.table()
        return table * (by_weight - (table * by_weight).sum(1, keepdim=True))

    def clamp(self) -> None:
        """Keep weights in their range."""
        if not self.simplex:
            self.numbers.clamp_(0.0, LARGEST)


def learn_weights(
    merge: MergeWithWeights,
    evaluations: Evaluations,
    fit: Mapping[str, Tensor],
    config: PretrainedConfig,
    plan: SearchPlan,
    *,
    seed: int,
    device: str,
    on_step: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Learn weights from equal ones on, on `fit` (label → blocks); what the report says of it.

    `evaluations` judge them on the way, the start first; the best are taken from there. A gradient that is no number
    ends the search.
    """
    start = merge.space.equal()
    parameters, loss_of = Parameters(start, simplex=merge.space.simplex), LossGradient(config, device)
    numbers = parameters.numbers
    optimizer = torch.optim.Adam([numbers], lr=RATE[merge.space.simplex], betas=(0.9, 0.95))
    every = max(1, plan.steps // EVALUATIONS)
    evaluations(start)
    best, waited, losses, step = evaluations.best, 0, [], 0
    for step, rows in enumerate(batches(fit, plan.batch, plan.steps, seed), 1):
        with torch.no_grad():
            merged = merge(rounded(parameters.table().tolist()))
            state = {name: merged[name] for name in merged}
        loss, gradient = loss_of(state, rows)
        losses.append(loss)
        with torch.no_grad():
            by_weight = table_gradient(merged, gradient, merge.space.groups, numbers.shape)
            if not bool(torch.isfinite(by_weight).all()):
                break
            numbers.grad = parameters.gradient(by_weight)
            for group in optimizer.param_groups:
                share = 0.5 * (1 + math.cos(math.pi * (step - 1) / plan.steps))
                group["lr"] = RATE[merge.space.simplex] * (FLOOR + (1 - FLOOR) * share)
            optimizer.step()
            parameters.clamp()
        on_step()
        if step % every == 0 or step == plan.steps:
            evaluations(rounded(parameters.table().tolist()))
            waited = 0 if evaluations.best != best else waited + 1
            best = evaluations.best
            if waited == PATIENCE:
                break
    return {"steps": step, "batch": plan.batch, "fit_loss": [losses[0], losses[-1]]}


def batches(fit: Mapping[str, Tensor], size: int, steps: int, seed: int) -> Iterator[Tensor]:
    """Blocks for every step, (about `size`, context): as many of every label, all of them before one comes again.

    Raises TooLittleText for a label without any.
    """
    for label, rows in fit.items():
        if not len(rows):
            raise TooLittleText(
                f"the text '{label}' is too short to learn weights from and to choose on: give more text, or take "
                "--search coordinate"
            )
    each, generator = max(1, size // len(fit)), torch.Generator().manual_seed(seed)
    orders = {
        label: torch.cat([torch.randperm(len(rows), generator=generator) for _ in range(-(-steps * each // len(rows)))])
        for label, rows in fit.items()
    }
    for step in range(steps):
        chosen = slice(step * each, (step + 1) * each)
        yield stacked([rows[orders[label][chosen]] for label, rows in fit.items()])
