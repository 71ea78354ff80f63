"""Giving freed memory back: glibc keeps what lies between living tensors, for a large model as much as the model."""

from __future__ import annotations

import ctypes

LARGE = 2**20  # bytes
_MMAP_THRESHOLD = -3  # M_MMAP_THRESHOLD of glibc's malloc.h


def release_freed() -> None:
    """Return freed pages to the system, where the C library knows how (glibc's ``malloc_trim``); else do nothing."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def release_large_when_freed() -> None:
    """From now on every tensor of `LARGE` bytes or more has pages of its own, which go back as soon as it is freed.

    By itself glibc raises this size to that of the largest which was freed, up to 32 MiB, and keeps what is smaller.
    Elsewhere nothing is done.
    """
    allow = getattr(ctypes.CDLL(None), "mallopt", None)
    if allow is not None:
        allow(_MMAP_THRESHOLD, LARGE)
