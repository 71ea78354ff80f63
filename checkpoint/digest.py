"""A fingerprint of a state, by which a saved path knows its endpoints again."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor


def digest(state: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, shapes and values (float32) of all tensors, in the order of their names; 64 hex digits."""
    found = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].to("cpu", torch.float32).contiguous()
        found.update(f"{name}{list(tensor.shape)}".encode())
        found.update(tensor.flatten().view(torch.uint8).numpy().data)
    return found.hexdigest()
