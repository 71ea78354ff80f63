"""What isthmus wrote, known again: SHA-256 and size of every file of an output, kept in its report."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from isthmus.checkpoint.errors import BadInput

REPORT = "isthmus.json"
FILES, SEAL = "files", "seal"


def sealed(report: Mapping[str, Any], directory: Path, known: Mapping[str, str] | None = None) -> dict[str, Any]:
    """The report of an output with `files`, the hashes of all that is in `directory`, and `seal`, the report's own.

    `known` are hashes that were taken when the files were written.
    """
    known = known or {}
    content = {key: value for key, value in report.items() if key not in (FILES, SEAL)}
    content[FILES] = {
        name: {"bytes": path.stat().st_size, "sha256": known.get(name) or _sha256(path)}
        for name, path in files_in(directory).items()
        if name != REPORT
    }
    return {**content, SEAL: _seal(content)}


def files_in(directory: Path) -> dict[str, Path]:
    """The files in a directory and its subfolders, by name within it, sorted; and subfolders that hold nothing."""
    paths = [p for p in sorted(directory.rglob("*")) if p.is_symlink() or not p.is_dir() or not any(p.iterdir())]
    return {path.relative_to(directory).as_posix(): path for path in paths}


def require_unchanged(directory: Path, *, but: frozenset[str] = frozenset()) -> None:
    """Refuse a directory that isthmus did not write, or that was changed since, except for the files `but`.

    Raises BadInput for any other directory, naming what was changed, added or removed.
    """
    name = directory.resolve().name
    try:
        report = json.loads((directory / REPORT).read_text(encoding="utf-8"))
        seal, files = report.pop(SEAL), dict(report[FILES])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise BadInput(
            f"'{name}' is no merge that isthmus wrote: give the output directory of 'isthmus merge'"
        ) from None
    if seal != _seal(report):
        raise BadInput(f"'{REPORT}' in '{name}' was changed since it was written: merge again")
    found = {name: path for name, path in files_in(directory).items() if name != REPORT}
    for file in sorted(found.keys() | files.keys()):
        what = None
        if file not in files:
            what = "was added to"
        elif file not in found:
            what = "is missing from"
        elif found[file].is_symlink() or not found[file].is_file():
            what = "is no plain file any more in"
        elif file not in but and _sha256(found[file]) != files[file]["sha256"]:
            what = "was changed in"
        if what is not None:
            raise BadInput(f"'{file}' {what} '{name}' since isthmus wrote it: merge again, or undo that")


def _seal(content: Mapping[str, Any]) -> str:
    written = json.dumps(content, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(written.encode()).hexdigest()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
