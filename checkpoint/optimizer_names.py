"""The names of optimizers, as libraries and people write them."""

from __future__ import annotations

import re

# The names that libraries give to optimizers whose weights look alike.
ALIASES = {
    "adam": "adamw",
    "adamw_torch": "adamw",
    "adamw_torch_fused": "adamw",
    "adamw_torch_xla": "adamw",
    "adamw_torch_npu_fused": "adamw",
    "adamw_apex_fused": "adamw",
    "adamw_hf": "adamw",
    "adamw_anyprecision": "adamw",
    "adamw_torch_4bit": "adamw",
    "adamw_torch_8bit": "adamw",
    "adamw_bnb_8bit": "adamw",
    "adamw_8bit": "adamw",
    "paged_adamw": "adamw",
    "paged_adamw_32bit": "adamw",
    "paged_adamw_8bit": "adamw",
    "lion_8bit": "lion",
    "lion_32bit": "lion",
    "paged_lion_8bit": "lion",
    "paged_lion_32bit": "lion",
}
_NAMES = ("adamw", "adam", "muon", "lion", "sgd", "adafactor", "shampoo", "soap", "sophia", "lamb")


def canonical_name(written: str) -> str | None:
    """The optimizer in a text, such as ``adamw`` for Adam and its variants; None if the text names none or several."""
    words = re.findall(r"[a-z0-9_]+", written[:200].lower().replace("optimizernames.", ""))
    if words and words[0] in ALIASES:
        return ALIASES[words[0]]
    optimizers = {ALIASES.get(name, name) for name in _NAMES if name in words}
    return optimizers.pop() if len(optimizers) == 1 else None
