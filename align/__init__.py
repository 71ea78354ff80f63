"""Taking the gauge out: groups, symmetries as data (`families`), canonical forms, matching, alignments."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .pipeline import align_models

__all__ = ["align_models"]


def __getattr__(name: str) -> object:
    if name == "align_models":
        return importlib.import_module(f"{__name__}.pipeline").align_models
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
