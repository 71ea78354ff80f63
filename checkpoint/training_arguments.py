"""The arguments of a trainer (`training_args.bin`), a pickle, read without executing anything in it."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import torch
from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

from .errors import CorruptCheckpoint
from .pickles import require_archive
from .size_limits import DOCUMENT

# The packages of the classes in a trainer's arguments; `_Inert` replaces them, and they are never imported.
TRAINERS = ("transformers", "accelerate", "trl", "peft", "torch", "sentence_transformers", "datasets")


class _Inert:
    """Replaces every class in a trainer's arguments: it stores what it is given, and does nothing."""

    values: tuple[object, ...] = ()

    def __init__(self, *values: object):
        self.values = values

    def __setstate__(self, state: object) -> None:
        self.state = state


def read_training_arguments(path: Path, model: str) -> dict[str, Any]:
    """The arguments by name, read by torch's weights-only loader with `_Inert` in place of every class.

    Empty if the file cannot be read. Raises CorruptCheckpoint if it needs anything but the classes of a trainer.
    """
    try:
        if path.stat().st_size > DOCUMENT or not zipfile.is_zipfile(path):
            return {}
        with path.open("rb") as file:
            require_archive(file, f"'{path.name}' of '{model}'")
    except (CorruptCheckpoint, OSError):
        return {}
    try:
        names = get_unsafe_globals_in_checkpoint(path)
        foreign = [name for name in names if name.partition(".")[0] not in TRAINERS]
        if foreign:
            raise CorruptCheckpoint(
                f"'{path.name}' of '{model}' would run {foreign[0]} when it is loaded, and was not: do not trust this "
                "model"
            )
        with safe_globals([(_Inert, name) for name in names]):
            content = torch.load(path, weights_only=True, map_location="cpu")
    except CorruptCheckpoint:
        raise
    except Exception:  # torch raises many kinds of errors for a damaged or foreign file
        return {}
    state = content if isinstance(content, dict) else getattr(content, "state", {})
    if not isinstance(state, dict):
        return {}
    return {
        key: value.values[0] if isinstance(value, _Inert) and value.values else value for key, value in state.items()
    }
