"""Two-layer ReLU networks f(x) = Σ_j a_j max(0, w_j · x), many at a time, the data that they fit, and their training.

With decoupled decay λ, an optimizer of the Lion-K family solves min L(θ) subject to ‖θ‖ ≤ 1/λ in the norm whose dual
its update has (Chen et al. 2023, arXiv 2310.05898; for Muon: arXiv 2506.15054): entrywise ‖W‖_max for the sign-like
updates of AdamW and Lion, the spectral norm for the orthogonalised ones of Muon. The outer weights are a matrix of one
row, whose spectral norm is ‖a‖_2.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Optimizer = Literal["adamw", "muon", "lion"]
OPTIMIZERS: tuple[Optimizer, ...] = ("adamw", "muon", "lion")
CONVERGENT, ITERATIONS = (1.5, -0.5, 0.0), 40  # Newton–Schulz that ends in the polar factor
Geometry = Literal["entrywise", "spectral"]
GEOMETRY: dict[str, Geometry] = {"adamw": "entrywise", "lion": "entrywise", "muon": "spectral"}


@dataclass(frozen=True)
class Networks:
    """Networks of one width: `inner` W (..., m, d) and `outer` a (..., m), float64; leading axes are networks."""

    inner: Tensor
    outer: Tensor

    @property
    def width(self) -> int:
        """m, the number of neurons."""
        return self.outer.shape[-1]

    def __getitem__(self, index: int | slice | Tensor | tuple[slice | Tensor | list[int] | None, ...]) -> Networks:
        return Networks(self.inner[index], self.outer[index])

    def clone(self) -> Networks:
        """The same in new tensors, off any graph."""
        return Networks(self.inner.detach().clone(), self.outer.detach().clone())


@dataclass(frozen=True)
class Data:
    """n inputs (n, d) and targets (n,), float64."""

    inputs: Tensor
    targets: Tensor


def outputs(networks: Networks, inputs: Tensor) -> Tensor:
    """f(x_i) of every network, (..., n)."""
    hidden = torch.relu(networks.inner @ inputs.T)  # (..., m, n)
    return (networks.outer[..., None, :] @ hidden)[..., 0, :]


def loss(networks: Networks, data: Data) -> Tensor:
    """Mean squared error over the data, one for every network."""
    return (outputs(networks, data.inputs) - data.targets).square().mean(-1)


def in_the_plane(points: int, seed: int) -> Data:
    """Standard normal inputs, d = 2, and standard normal targets."""
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(points, 2, generator=generator, dtype=torch.float64)
    return Data(inputs, torch.randn(points, generator=generator, dtype=torch.float64))


def drawn(count: int, width: int, inputs: int, seed: int) -> Networks:
    """Networks as they are before training: normal entries, of such a size that outputs are of order 1."""
    generator = torch.Generator().manual_seed(seed)
    scale = width**-0.25
    inner = torch.randn(count, width, inputs, generator=generator, dtype=torch.float64) * scale
    outer = torch.randn(count, width, generator=generator, dtype=torch.float64) * scale
    return Networks(inner, outer)


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
