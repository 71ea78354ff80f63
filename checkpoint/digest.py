"""A fingerprint of a state, by which a saved path recognises its endpoints."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor


def digest(state: Mapping[str, Tensor]) -> str:
    """SHA-256 over the names, shapes and values (as float32) of all tensors, sorted by name; 64 hex digits."""
    sha256 = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].to("cpu", torch.float32).contiguous()
        sha256.update(f"{name}{list(tensor.shape)}".encode())
        sha256.update(tensor.flatten().view(torch.uint8).numpy().data)
    return sha256.hexdigest()
