"""One version of a file: what the system says of it, and reading that holds every byte against it.

A file may be overwritten while it is read: in place, by a rename, or with its whole directory. Its device, inode, size
and times are noted when the model is opened. They are compared on the open file before and after every read, so that
all bytes belong to the version that was noted, or reading stops.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from .errors import CorruptCheckpoint

TICK = 0.02  # seconds; the times of a file are no finer than the system's clock tick
PATIENCE = 2.0  # seconds


@dataclass(frozen=True)
class FileVersion:
    """Device, inode, bytes, and the times of the last change to content and entry, in nanoseconds."""

    device: int
    inode: int
    size: int
    modified: int
    changed: int

    @classmethod
    def of(cls, facts: os.stat_result) -> FileVersion:
        """The version that `os.stat` tells of."""
        return cls(facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns)

    @property
    def is_fresh(self) -> bool:
        """Whether it was written so recently that another change could leave its times as they are."""
        return 0 <= time.time() - max(self.modified, self.changed) / 1e9 < TICK


def changed(filename: str, model: str) -> CorruptCheckpoint:
    """The error for a file that is not what it was when the model was opened."""
    return CorruptCheckpoint(
        f"'{filename}' of '{model}' was changed while it was read: run again when nothing writes to it"
    )


def settled(listing: Callable[[], Mapping[str, FileVersion]], model: str) -> Mapping[str, FileVersion]:
    """The versions of files by name, as `listing` gives them once none was written within the last clock tick.

    Raises CorruptCheckpoint for a file that is being written all the time.
    """
    deadline = time.monotonic() + PATIENCE
    while True:
        versions = listing()
        fresh = [name for name, version in versions.items() if version.is_fresh]
        if not fresh:
            return versions
        if time.monotonic() > deadline:
            raise CorruptCheckpoint(f"'{fresh[0]}' of '{model}' is being written: run again when it is complete")
        time.sleep(TICK)


@contextmanager
def opened(path: Path, version: FileVersion, model: str) -> Iterator[IO[bytes]]:
    """A file of one version, for reading. Raises CorruptCheckpoint before or after, when it is another."""
    try:
        with path.open("rb", buffering=0) as file:
            if FileVersion.of(os.fstat(file.fileno())) != version:
                raise changed(path.name, model)
            yield file
            if FileVersion.of(os.fstat(file.fileno())) != version:
                raise changed(path.name, model)
    except FileNotFoundError:
        raise changed(path.name, model) from None
    except OSError as error:
        raise CorruptCheckpoint(f"cannot read '{path.name}' of '{model}': {error.strerror or error}") from None


def read_into(file: IO[bytes], target: memoryview, filename: str, model: str) -> None:
    """Fill `target` from where the file is. Raises CorruptCheckpoint at its end."""
    while len(target):
        count = file.readinto(target)  # type: ignore[attr-defined]
        if not count:
            raise CorruptCheckpoint(f"'{filename}' of '{model}' was cut off while it was read")
        target = target[count:]


def require_version(path: Path, version: FileVersion, model: str) -> None:
    """Raise CorruptCheckpoint when the file under this path is not of this version."""
    try:
        found = FileVersion.of(path.stat())
    except OSError:
        found = None
    if found != version:
        raise changed(path.name, model)
