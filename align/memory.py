"""Giving freed memory back: glibc keeps what lies between living tensors, for a large model as much as the model."""

from __future__ import annotations

import ctypes


def release_freed() -> None:
    """Return freed pages to the system, where the C library knows how (glibc's ``malloc_trim``); else do nothing."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
