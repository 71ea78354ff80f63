"""Training two-layer networks, all seeds at once, and the sets that decoupled weight decay keeps their weights in.

With decoupled decay λ, an optimizer of the Lion-K family solves min L(θ) subject to ‖θ‖ ≤ 1/λ in the norm whose dual
its update has (Chen et al. 2023, arXiv 2310.05898; for Muon: arXiv 2506.15054): entrywise ‖W‖_max for the sign-like
updates of AdamW and Lion, the spectral norm for the orthogonalised ones of Muon. The outer weights are a matrix of one
row, whose spectral norm is ‖a‖_2.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from .network import Data, Networks, drawn, loss

Optimizer = Literal["adamw", "muon", "lion"]
OPTIMIZERS: tuple[Optimizer, ...] = ("adamw", "muon", "lion")
CONVERGENT, ITERATIONS = (1.5, -0.5, 0.0), 40  # Newton–Schulz that ends in the polar factor
Geometry = Literal["entrywise", "spectral"]
GEOMETRY: dict[str, Geometry] = {"adamw": "entrywise", "lion": "entrywise", "muon": "spectral"}


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


def size(networks: Networks, geometry: Geometry) -> Tensor:
    """The smallest radius of a set that holds the network: the larger of the two layers' norms."""
    if geometry == "entrywise":
        return torch.maximum(networks.inner.abs().amax((-2, -1)), networks.outer.abs().amax(-1))
    return torch.maximum(torch.linalg.matrix_norm(networks.inner, 2), networks.outer.norm(dim=-1))


def project(networks: Networks, geometry: Geometry, radius: float) -> Networks:
    """The nearest networks in the set: entries, or singular values, clipped at the radius."""
    if geometry == "entrywise":
        return Networks(networks.inner.clamp(-radius, radius), networks.outer.clamp(-radius, radius))
    values, vectors = torch.linalg.eigh(networks.inner.mT @ networks.inner)  # of WᵀW: d is small
    shrink = (radius / values.clamp_min(1e-300).sqrt()).clamp(max=1.0)
    inner = networks.inner @ (vectors * shrink[..., None, :]) @ vectors.mT
    length = networks.outer.norm(dim=-1, keepdim=True).clamp_min(1e-300)
    return Networks(inner, networks.outer * (radius / length).clamp(max=1.0))
