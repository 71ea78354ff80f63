"""Before any work: what a command will write is none of what it reads, and can be written."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

from .errors import BadInput
from .path_conflicts import Place, holds, output_path, require_apart
from .saving import require_free

RESULTS = ({"schema", "command"}, {"study", "question"})  # keys that every result of a command or a study has
LAB_RESULT = {"models", "pairs", "table"}  # keys, and no others, of the other results of the lab


def require_outputs(
    json_file: str | None,
    outputs: Sequence[tuple[str, Path | None]],
    inputs: Sequence[Place],
    *,
    overwrite: bool = False,
    existing: bool = False,
) -> None:
    """Refuse outputs, and a --json file, that are an input, contain one or lie in one, or that cannot be written.

    `outputs` are directories and what messages call them; with `existing`, they may hold anything.
    """
    targets = []
    for what, path in outputs:
        if path is None:
            continue
        if not str(path) or path == Path():
            raise BadInput(f"{what} is empty or the current directory: name a new directory")
        targets.append(Place(f"{what} '{path.name}'", output_path(path)))
        if not existing:
            require_free(path, overwrite=overwrite, inputs=inputs)
    json_path = None if json_file in (None, "-") else Path(str(json_file))
    written = [] if existing else list(targets)  # existing ones are added to: a JSON file may lie in them
    if existing:
        require_apart(targets, inputs)
    if json_path is not None:
        if json_path.is_dir():
            raise BadInput(f"the JSON file '{json_path.name}' is a directory: name a file")
        output_path(json_path)  # refuses names of unfinished work, and those that are too long
        written.append(Place.of("the JSON file", json_path))
    require_apart(written, inputs)
    will_be_made = existing and any(holds(target.path, json_path) for target in targets if json_path is not None)
    if json_path is not None and (json_path.parent.exists() or not will_be_made):
        _require_json(json_path)


def _require_json(path: Path) -> None:
    """Refuse a file for --json that cannot be written, or that holds something else than a result of isthmus."""
    path = Path(os.path.realpath(path))
    if not path.parent.is_dir() or not os.access(path if path.exists() else path.parent, os.W_OK):
        raise BadInput(f"cannot write the JSON file '{path.name}': its folder is not there, or it cannot be written")
    if not path.is_file() or path.stat().st_size == 0:
        return
    if not _is_result(path) or path.name == "isthmus.json":
        raise BadInput(
            f"the JSON file '{path.name}' exists and is not a result that --json wrote: choose another name, or remove "
            "it yourself"
        )


def _is_result(path: Path) -> bool:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError, MemoryError):
        return False
    if not isinstance(content, dict):
        return False
    keys = set(content)
    return any(result <= keys for result in RESULTS) or (bool(keys) and keys <= LAB_RESULT)
