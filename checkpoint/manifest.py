"""Recognising what isthmus wrote: the report of an output lists the SHA-256 and the size of every file in it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from .errors import BadInput, CorruptCheckpoint
from .size_limits import MB, read_bytes
from .strict_json import parse_object

REPORT = "isthmus.json"
FILES, SEAL = "files", "seal"
REPORT_BYTES = 64 * MB


def sealed(report: Mapping[str, Any], directory: Path, digests: Mapping[str, str] | None = None) -> dict[str, Any]:
    """The report of an output, with `files`, the digests of all files in `directory`, and `seal`, its own digest.

    `digests` are those that were computed while the files were written.
    """
    digests = digests or {}
    content = {key: value for key, value in report.items() if key not in (FILES, SEAL)}
    content[FILES] = {
        name: {"bytes": path.stat().st_size, "sha256": digests.get(name) or _sha256(path)}
        for name, path in files_in(directory).items()
        if name != REPORT
    }
    return {**content, SEAL: _seal(content)}


def files_in(directory: Path) -> dict[str, Path]:
    """The files in a directory and its subfolders by name, sorted, and its empty subfolders."""
    paths = [p for p in sorted(directory.rglob("*")) if p.is_symlink() or not p.is_dir() or not any(p.iterdir())]
    return {path.relative_to(directory).as_posix(): path for path in paths}


def require_unchanged(directory: Path, *, but: frozenset[str] = frozenset()) -> None:
    """Refuse a directory that isthmus did not write, or that has changed since, except for the files `but`.

    The BadInput names what was changed, added or removed.
    """
    name = directory.resolve().name
    report = _sealed_report(directory)
    if report is None or report.get("command") not in ("merge", "extract"):
        raise BadInput(f"'{name}' is not a merge that isthmus wrote: give the output directory of 'isthmus merge'")
    if report[SEAL] != _seal(report):
        raise BadInput(f"'{REPORT}' in '{name}' was changed since it was written: merge again")
    for file, change in _changes(directory, report[FILES], but):
        advice = " (a card that was edited on purpose is pushed with --edited-card)" if file == "README.md" else ""
        raise BadInput(f"'{file}' {change} '{name}' since isthmus wrote it: merge again, or undo that{advice}")


def require_replaceable(directory: Path, name: str) -> None:
    """Refuse to replace an output directory, called `name`, with anything in it that isthmus did not write.

    Missing files do not matter. The BadInput names what would be lost.
    """
    advice = "so --overwrite does not replace it: choose another output, or delete it yourself"
    report = _sealed_report(directory)
    if report is None:
        if (directory / REPORT).exists():
            raise BadInput(f"'{REPORT}' in the output directory '{name}' is not from this version of isthmus, {advice}")
        other = min(path.name for path in directory.iterdir())
        raise BadInput(f"the output directory '{name}' holds '{other}', which isthmus did not write, {advice}")
    if report[SEAL] != _seal(report):
        raise BadInput(f"'{REPORT}' in the output directory '{name}' was changed since isthmus wrote it, {advice}")
    for file, change in _changes(directory, report[FILES]):
        if change != _MISSING:
            raise BadInput(f"'{file}' {change} the output directory '{name}' since isthmus wrote it, {advice}")


_MISSING = "is missing from"


def _sealed_report(directory: Path) -> dict[str, Any] | None:
    """The report in a directory, if it has a seal and a list of files; else None."""
    path = directory / REPORT
    try:
        where = f"'{REPORT}' in '{directory.name}'"
        report = None if path.is_symlink() else parse_object(read_bytes(path, REPORT_BYTES, where), where)
    except (OSError, CorruptCheckpoint):
        return None
    if not isinstance(report, dict) or not isinstance(report.get(SEAL), str) or not isinstance(report.get(FILES), dict):
        return None
    hashed = all(isinstance(entry, dict) and "sha256" in entry for entry in report[FILES].values())
    return report if hashed else None


def _changes(directory: Path, files: Mapping[str, Any], but: frozenset[str] = frozenset()) -> Iterator[tuple[str, str]]:
    """Every file that differs from what was written, and how."""
    present = {name: path for name, path in files_in(directory).items() if name != REPORT}
    for file in sorted(present.keys() | files.keys()):
        if file not in files:
            yield file, "was added to"
        elif file not in present:
            yield file, _MISSING
        elif present[file].is_symlink() or not present[file].is_file():
            yield file, "is no longer a regular file in"
        elif file not in but and _sha256(present[file]) != files[file]["sha256"]:
            yield file, "was changed in"


def _seal(report: Mapping[str, Any]) -> str:
    content = {key: value for key, value in report.items() if key != SEAL}
    written = json.dumps(content, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(written.encode()).hexdigest()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
