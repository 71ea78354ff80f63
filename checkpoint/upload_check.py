"""The files of a merge before they are pushed: unchanged since isthmus wrote them, finite, nothing private in them."""

from __future__ import annotations

import hashlib
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path

from .errors import BadInput
from .file_version import FileVersion
from .headers import read_header
from .lazy_state import DTYPES, LazyState, StoredTensor
from .manifest import files_in, require_unchanged
from .naming import Conversion
from .source import CARD

TEXT = frozenset({".md", ".json", ".html", ".txt", ".jinja"})
_TOKEN = re.compile(r"\bhf_[A-Za-z0-9]{30,}\b")


@dataclass(frozen=True)
class OutputFile:
    """A file to push: its name in the repository, its path here, its bytes, and the two digests that the Hub uses."""

    name: str
    path: Path
    size: int
    sha256: str
    blob_id: str


def read_output(directory: Path, *, edited_card: bool = False) -> tuple[OutputFile, ...]:
    """The files of a merge that isthmus wrote and nobody has changed since, except for the card with `edited_card`.

    Raises BadInput for any other directory, and if a text in it holds an access token or a path of this machine;
    CorruptCheckpoint for NaN or Inf in its weights.
    """
    if not directory.is_dir():
        raise BadInput(f"there is no directory '{directory.name}': give what 'isthmus merge' wrote")
    require_unchanged(directory, but=frozenset({CARD}) if edited_card else frozenset())
    paths = files_in(directory)
    for path in paths.values():
        if path.suffix in TEXT:
            _require_public(path)
        if path.suffix == ".safetensors":
            _require_finite(path, directory.resolve().name)
    return tuple(_output_file(name, path) for name, path in paths.items())


def _require_public(path: Path) -> None:
    text = path.read_text(encoding="utf-8", errors="replace")
    if _TOKEN.search(text):
        raise BadInput(f"'{path.name}' holds an access token of the Hub: take it out, and revoke it")
    directories = {"home": Path.home(), "working": Path.cwd(), "temporary": Path(tempfile.gettempdir())}
    for kind, directory in directories.items():
        if len(directory.parts) > 1 and re.search(rf"(?<![\w/.-]){re.escape(str(directory))}(?=[/\s\"'<]|$)", text):
            raise BadInput(f"'{path.name}' holds the path of your {kind} directory: merge again, or take it out")


def _require_finite(path: Path, model: str) -> None:
    version = FileVersion.of(path.stat())
    infos = {name: info for name, info in read_header(path, model).items() if info.dtype in DTYPES}
    stored = {name: StoredTensor(path, version, name, info) for name, info in infos.items()}
    state = LazyState({name: Conversion((name,), (name,)) for name in infos}, stored, model)
    for name in state:
        for _ in state.blocks(name):
            pass  # raises for NaN and Inf


def _output_file(name: str, path: Path) -> OutputFile:
    size = path.stat().st_size
    blob, whole = hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False), hashlib.sha256()
    with path.open("rb") as file:
        while part := file.read(2**20):
            blob.update(part)
            whole.update(part)
    return OutputFile(name, path, size, whole.hexdigest(), blob.hexdigest())
