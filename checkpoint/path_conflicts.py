"""Conflicts between the paths that a command reads and writes: no output may be an input, contain one, or lie in one.

Paths are compared by the device and inode of each directory on them. So symbolic links, hard links, bind mounts, ``..``
and other spellings of a path do not hide a conflict.
"""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from .errors import BadInput, IsthmusError
from .reference import parse_reference
from .size_limits import LARGEST, read_bytes
from .small_files import ADAPTER

ENTRIES = 100_000  # of one input that are looked at: a huge tree costs at most a second
NAME_BYTES = 255
_HIDDEN = re.compile(r"\..*\.isthmus-(training|[0-9a-f]{16})")

# For an existing file or directory: device, inode, (). Else: device and inode of the nearest existing folder above it,
# and the rest of the path.
Identity = tuple[int, int, tuple[str, ...]]


@dataclass(frozen=True)
class Place:
    """Something on disk that a command reads or writes: its `name` in messages, and its absolute `path`."""

    name: str
    path: Path

    @classmethod
    def of(cls, what: str, path: str | Path) -> Place:
        """The place at `path`, relative to the current directory; `what` is, for instance, "the model"."""
        if "\0" in str(path):
            raise BadInput(f"{what} {str(path)[:60]!a} holds a character that no path can have: check it")
        absolute = Path(os.path.expanduser(path)).absolute()  # noqa: PTH111 - which leaves an unknown user's ~ as it is
        return cls(f"{what} '{absolute.name or absolute}'", absolute)


def model_places(references: Iterable[Any], what: str = "the model") -> list[Place]:
    """The places of models, given as references or opened: directories, or the Hub's cache. Bad ones are skipped."""
    places = []
    for reference in references:
        try:
            place = getattr(reference, "place", None) or parse_reference(getattr(reference, "reference", reference))
        except (BadInput, RuntimeError, OSError, ValueError):
            continue  # opening the model reports it
        for part in place.parts:
            if part.directory is not None:
                places.append(Place.of(what, part.directory / (part.file or "")))
                base = _base_of_adapter(part.directory)
                places += [] if base is None else [Place.of("the base of an adapter", base)]
            else:
                from huggingface_hub import constants

                places.append(Place("the Hub's cache", Path(constants.HF_HUB_CACHE).expanduser().absolute()))
    return places


def _base_of_adapter(directory: Path) -> Path | None:
    """The directory of the base that an adapter names; None for anything else, which opening the model reports."""
    try:
        settings = json.loads(read_bytes(directory / ADAPTER, LARGEST[ADAPTER], ADAPTER))
        place = parse_reference(settings["base_model_name_or_path"]).directory
    except (OSError, ValueError, KeyError, TypeError, RecursionError, IsthmusError):
        return None
    return place if place is not None and place.is_dir() else None


def output_path(target: str | Path) -> Path:
    """The absolute path of an output, with links in its parent resolved: the directory that will be replaced.

    Raises BadInput for a name that cannot be a new directory, or that isthmus uses for its own work.
    """
    path = Path(target).absolute()
    try:
        path = path.resolve() if path.name in ("", "..") else path.parent.resolve() / path.name
        path.is_symlink()  # raises OSError for a path that is too long
    except (OSError, RuntimeError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise BadInput(f"the output '{_short(path.name)}' cannot be written: {reason}; choose another name") from None
    if not path.name:
        raise BadInput("the output is the root directory, which cannot be replaced: name a directory below it")
    if len(os.fsencode(path.name)) > NAME_BYTES:
        raise BadInput(f"the output '{_short(path.name)}' has a name longer than {NAME_BYTES} bytes: shorten it")
    if any(_HIDDEN.fullmatch(part) for part in path.parts):
        raise BadInput(f"the output '{path.name}' is a name that isthmus uses for unfinished work: choose another name")
    return path


def require_apart(outputs: Sequence[Place], inputs: Iterable[Place]) -> None:
    """Refuse outputs that are an input or another output, contain one, or lie in one. The BadInput names both."""
    for output, other in combinations(outputs, 2):
        relation = _relation(output.path, other.path)
        if relation is not None:
            raise BadInput(f"{output.name} {relation} {other.name}, which this command also writes: choose another")
    chains = [(output, _chain(output.path)) for output in outputs]
    for place in inputs if outputs else ():
        for output in outputs:
            relation = _relation(output.path, place.path)
            if relation is not None:
                raise BadInput(
                    f"{output.name} {relation} {place.name}, which this command reads and would destroy or change: "
                    "choose another output"
                )
        for path, identity in _below(place.path):
            for output, chain in chains:
                if identity in chain if identity else _relation(output.path, path):
                    raise BadInput(
                        f"{output.name} shares files with {place.name} (through '{path.name}'), which this command "
                        "reads: choose another output"
                    )


def holds(directory: Path, path: Path) -> bool:
    """Whether `path` is `directory` or lies in it, under any name."""
    return _chain(directory)[0] in _chain(path)


def _relation(output: Path, place: Path) -> str | None:
    output_chain, place_chain = _chain(output), _chain(place)
    if output_chain[0] == place_chain[0]:
        return "is"
    if output_chain[0] in place_chain:
        return "contains"
    return "lies in" if place_chain[0] in output_chain else None


def _chain(path: Path) -> list[Identity]:
    """The identities of a path and of all directories above it."""
    real = Path(os.path.realpath(path))
    chain: list[Identity] = []
    missing: list[str] = []
    for place in (real, *real.parents):
        try:
            status = place.stat()
        except OSError:
            missing.append(place.name)
            continue
        for depth in range(len(missing)):
            chain.append((status.st_dev, status.st_ino, tuple(reversed(missing[depth:]))))
        missing = []
        chain.append((status.st_dev, status.st_ino, ()))
    return chain


def _below(place: Path) -> Iterator[tuple[Path, Identity | None]]:
    """The entries of an input directory that may also lie elsewhere: folders, with their identity, and linked files."""
    count = 0
    if not place.is_dir():
        return
    for folder, folders, files in os.walk(place):
        for name in (*folders, *files):
            count += 1
            path = Path(folder, name)
            try:
                status = path.lstat()
            except OSError:
                continue
            if stat.S_ISDIR(status.st_mode):
                yield path, (status.st_dev, status.st_ino, ())
            elif path.is_file() and (stat.S_ISLNK(status.st_mode) or status.st_nlink > 1):
                yield path, None
        if count > ENTRIES:
            return


def _short(name: str) -> str:
    return name if len(name) <= 60 else f"{name[:57]}..."
