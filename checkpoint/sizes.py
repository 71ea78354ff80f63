"""Sizes of memory and disk, as people say them and back."""

from __future__ import annotations

import re

from .errors import BadInput

UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}


def bytes_of(size: str) -> int:
    """The bytes that ``6GB``, ``500M`` or ``1000000`` stand for. Raises BadInput for anything else."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)i?B?", size.strip(), re.IGNORECASE)
    if match is None:
        raise BadInput(f"--max-memory is a size such as 6GB or 500MB; got '{size}'")
    return int(float(match[1]) * UNITS[match[2].upper()])


def shown_size(count: float) -> str:
    """An amount of memory or disk, as people say it."""
    if count >= 1e9:
        return f"{count / 1e9:.1f} GB"
    return f"{count / 1e6:.0f} MB" if count >= 1e6 else f"{count / 1e3:.0f} kB"
