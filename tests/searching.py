"""Models whose weights are searched for."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from conftest import EMBEDDED, tiny_model


def models_around_a_base(root: Path, names: str) -> Path:
    """A directory with a random `base` and models near it, each further away; large tokens keep text short."""
    base = tiny_model(0, vocab_size=1024)
    for seed, name in enumerate(("base", *names)):
        model = tiny_model(0, vocab_size=1024)
        with torch.no_grad():
            for own, parameter in zip(model.parameters(), base.parameters(), strict=True):
                own.copy_(parameter + 0.05 * seed * torch.randn_like(parameter))
        model.save_pretrained(root / name)
        for file in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(EMBEDDED / "docs" / file, root / name / file)
    return root
