"""Two-layer ReLU networks f(x) = Σ_j a_j max(0, w_j · x), many at a time, and the data that they fit."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Networks:
    """Networks of one width: `inner` W (..., m, d) and `outer` a (..., m), float64; leading axes are networks."""

    inner: Tensor
    outer: Tensor

    @property
    def width(self) -> int:
        """m, the number of neurons."""
        return self.outer.shape[-1]

    def __getitem__(self, index: int | slice | Tensor) -> Networks:
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
