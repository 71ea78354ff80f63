"""GPT-2 small (124M parameters) with random weights, from a seed; run as a script to save some."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedModel


def make(seed: int) -> GPT2LMHeadModel:
    """One, float32. Norms and biases are random, too, as they are in a trained model."""
    torch.manual_seed(seed)
    model = GPT2LMHeadModel(GPT2Config())
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def save(directory: Path, seed: int) -> None:
    """Save one."""
    make(seed).save_pretrained(directory)


def save_family(model: PreTrainedModel, base: Path, others: Sequence[Path]) -> None:
    """Save a model as a base, and models a tenth of its weights away from it, as fine-tunes are."""
    model.save_pretrained(base)
    start = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    for place, directory in enumerate(others, start=1):
        torch.manual_seed(place)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.copy_(start[name] + 0.1 * start[name].std() * torch.randn_like(parameter))
        model.save_pretrained(directory)


if __name__ == "__main__":
    if sys.argv[1] == "--family":
        save_family(make(0), Path(sys.argv[2]), [Path(directory) for directory in sys.argv[3:]])
    else:
        for place, directory in enumerate(sys.argv[1:]):
            save(Path(directory), place)
