"""GPT-2 small (124M parameters) with random weights, from a seed; run as a script to save some."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from transformers import GPT2Config, GPT2LMHeadModel


def save(directory: Path, seed: int) -> None:
    """Save one, float32. Norms and biases are random, too, as they are in a trained model."""
    torch.manual_seed(seed)
    model = GPT2LMHeadModel(GPT2Config())
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(directory)


if __name__ == "__main__":
    for place, directory in enumerate(sys.argv[1:]):
        save(Path(directory), place)
