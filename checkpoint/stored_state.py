"""States that lie in files of their own while a job runs, and are read from there."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from .file_version import FileVersion
from .headers import read_header
from .lazy_state import LazyState, StoredTensor
from .naming import Conversion


def stored_state(file: Path, what: str, owner: object = None) -> LazyState:
    """The tensors of one safetensors file as a state; `what` names it in errors.

    The `owner` of the file lives as long as the state. Raises CorruptCheckpoint as every state on disk does.
    """
    version, infos = FileVersion.of(file.stat()), read_header(file, what)
    stored: Mapping[str, StoredTensor] = {name: StoredTensor(file, version, name, info) for name, info in infos.items()}
    return LazyState({name: Conversion((name,), (name,)) for name in infos}, stored, what, owner)
