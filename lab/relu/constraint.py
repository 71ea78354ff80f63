"""The sets that decoupled weight decay keeps weights in: a box for AdamW and Lion, operator-norm balls for Muon.

With decoupled decay λ, an optimizer of the Lion-K family solves min L(θ) subject to ‖θ‖ ≤ 1/λ in the norm whose dual
its update has (Chen et al. 2023, arXiv 2310.05898; for Muon: arXiv 2506.15054): entrywise ‖W‖_max for sign-like
updates, the spectral norm for orthogonalised ones. The outer weights are a matrix of one row, whose spectral norm is
‖a‖_2.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from .network import Networks

Geometry = Literal["entrywise", "spectral"]
GEOMETRY: dict[str, Geometry] = {"adamw": "entrywise", "lion": "entrywise", "muon": "spectral"}


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
