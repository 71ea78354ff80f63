"""The parents and the base of a merge by isthmus, found from its report: on the Hub, or on disk next to the merge."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .errors import BadInput, CorruptCheckpoint, ModelNotFound
from .manifest import REPORT, REPORT_BYTES
from .reference import Reference, parse_reference, shown_name
from .size_limits import read_bytes
from .strict_json import parse_object

GIVE = "give the parents: isthmus explain M A B"


def read_record(model: str | Path) -> dict[str, Any] | None:
    """The report that isthmus wrote beside a model on disk; None where there is none.

    Raises BadInput for one that cannot be read.
    """
    directory = _directory(parse_reference(model))
    if directory is None or not (directory / REPORT).exists():
        return None
    where = f"'{REPORT}' in '{shown_name(directory)}'"
    try:
        return parse_object(read_bytes(directory / REPORT, REPORT_BYTES, where), where)
    except OSError as error:
        raise BadInput(f"{where} cannot be read: {error.strerror}") from None
    except CorruptCheckpoint as error:
        raise BadInput(f"{error}; or remove it, and give the parents") from None


def _directory(reference: Reference) -> Path | None:
    return reference.parts[-1].directory  # a merge that is saved as an adapter has its report there


def require_layers_in_place(record: Mapping[str, Any] | None, name: str) -> None:
    """Raise BadInput for a merge, by its report, in which layers are others than they were in the models."""
    method = record.get("method") if record is not None and record.get("command") == "merge" else None
    stages = method.get("stages") if isinstance(method, Mapping) else None
    for recipe in (method, *(stages if isinstance(stages, list) else ())):
        segments = recipe.get("segments") if isinstance(recipe, Mapping) else None
        if any(isinstance(one, Mapping) and one.get("sources") for one in (segments or ())):
            raise BadInput(
                f"layers of '{name}' moved, by its {REPORT}, and explain compares layer with layer: its recipe says "
                "where every layer comes from"
            )


def recorded_parents(model: str | Path, record: Mapping[str, Any] | None) -> list[str]:
    """The parents that a report names, as references.

    Raises BadInput where there is no report, or one of something else than a merge; ModelNotFound for a parent that is
    neither on the Hub nor next to the merge, nor in the current directory.
    """
    name = parse_reference(model).name
    if record is None:
        raise BadInput(f"'{name}' has no {REPORT} that would name its parents: {GIVE}")
    if record.get("command") != "merge":
        what = f"isthmus {record['command']}" if isinstance(record.get("command"), str) else "something else"
        raise BadInput(f"{REPORT} in '{name}' is that of '{what[:60]}', not of a merge: {GIVE}")
    ends = record.get("endpoints")
    if not isinstance(ends, list) or len(ends) < 1:
        raise BadInput(f"{REPORT} in '{name}' names no parents: {GIVE}")
    return [_located(model, end, "parent", GIVE) for end in ends]


def recorded_base(model: str | Path, record: Mapping[str, Any] | None) -> str | None:
    """The base that a report of a merge names, as a reference; None where it names none.

    Raises ModelNotFound as `recorded_parents`.
    """
    base = None if record is None or record.get("command") != "merge" else record.get("base")
    return None if base is None else _located(model, base, "base", "give it with --base")


def _located(model: str | Path, end: Any, what: str, advice: str) -> str:
    """The reference of a model in a report."""
    parts = end.get("parts") if isinstance(end, dict) else None
    if isinstance(parts, list) and parts:
        return "+".join(_located(model, {**part, "parts": None}, what, advice) for part in parts)
    ref = end.get("ref") if isinstance(end, dict) else None
    if not isinstance(ref, str) or not ref:
        raise BadInput(f"{REPORT} in '{parse_reference(model).name}' names no {what} by its 'ref': {advice}")
    if end.get("on_hub") is True:
        repository, colon, folder = ref.partition(":")
        revision = end.get("revision")
        pinned = f"{repository}@{revision}" if isinstance(revision, str) and "@" not in repository else repository
        return f"{pinned}{colon}{folder}"
    directory = _directory(parse_reference(model))
    if Path(ref).name == ref and directory is not None:
        for folder_of_merge in (directory.resolve().parent, Path.cwd()):
            if (folder_of_merge / ref).exists():
                return str(folder_of_merge / ref)
    raise ModelNotFound(
        f"the {what} '{ref[:100]}' of '{parse_reference(model).name}' is neither next to it nor in the current "
        f"directory: {advice}"
    )
