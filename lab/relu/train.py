"""Training two-layer networks, all seeds at once, with AdamW, Lion or Muon and decoupled weight decay."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from .network import Data, Networks, drawn, loss

Optimizer = Literal["adamw", "muon", "lion"]
OPTIMIZERS: tuple[Optimizer, ...] = ("adamw", "muon", "lion")
CONVERGENT, ITERATIONS = (1.5, -0.5, 0.0), 40  # Newton–Schulz that ends in the polar factor


def train(
    optimizer: Optimizer,
    data: Data,
    *,
    width: int,
    decay: float,
    seeds: int,
    seed: int = 0,
    steps: int = 4000,
    lr: float = 0.02,
) -> Networks:
    """`seeds` networks trained on the mean squared error; the learning rate falls from `lr` to 0 along a cosine.

    Every network is trained on its own: losses are summed, and no optimizer looks across networks.
    """
    start = drawn(seeds, width, data.inputs.shape[1], seed)
    leaves = [[matrix.clone().requires_grad_() for matrix in start.inner]]
    leaves.append([vector[None].clone().requires_grad_() for vector in start.outer])
    made = [_optimizer(optimizer, parameters, lr, decay) for parameters in leaves]
    schedules = [torch.optim.lr_scheduler.CosineAnnealingLR(one, steps) for one in made]
    for _ in range(steps):
        loss(_stacked(leaves), data).sum().backward()
        for one, schedule in zip(made, schedules, strict=True):
            one.step()
            schedule.step()
            one.zero_grad()
    return _stacked(leaves).clone()


def _stacked(leaves: list[list[Tensor]]) -> Networks:
    return Networks(torch.stack(leaves[0]), torch.stack(leaves[1])[:, 0])


def _optimizer(name: Optimizer, parameters: list[Tensor], lr: float, decay: float) -> torch.optim.Optimizer:
    if name == "adamw":
        return torch.optim.AdamW(parameters, lr=lr, betas=(0.95, 0.95), weight_decay=decay)
    if name == "lion":
        from lion_pytorch import Lion

        lion: torch.optim.Optimizer = Lion(parameters, lr=lr, betas=(0.9, 0.95), weight_decay=decay)
        return lion
    # torch scales the update of a tall matrix, not its decay: undone, so that the fixed point is a norm of 1/λ.
    rows, columns = parameters[0].shape
    scale = max(1.0, rows / columns) ** 0.5
    return torch.optim.Muon(
        parameters,
        lr=lr / scale,
        weight_decay=decay * scale,
        momentum=0.9,
        nesterov=False,
        ns_coefficients=CONVERGENT,
        ns_steps=ITERATIONS,
    )
