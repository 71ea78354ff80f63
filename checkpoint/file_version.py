"""Versions of files, so that everything that is read from a file belongs to one version of it.

A file may be overwritten while it is read: in place, by a rename, or together with its directory. Its device, inode,
size and times are recorded when the model is opened, and compared on the open file before and after every read.
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

TICK = 0.02  # seconds; more than a tick of the system's clock, the resolution of the times of a file
PATIENCE = 2.0  # seconds to wait for a file that is being written


@dataclass(frozen=True)
class FileVersion:
    """Device, inode, size in bytes, and the times of the last changes to content and inode, in nanoseconds."""

    device: int
    inode: int
    size: int
    modified: int
    changed: int

    @classmethod
    def of(cls, status: os.stat_result) -> FileVersion:
        """The version in a result of `os.stat`."""
        return cls(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)

    @property
    def is_fresh(self) -> bool:
        """Whether it was written so recently that another change might not show in its times."""
        return 0 <= time.time() - max(self.modified, self.changed) / 1e9 < TICK


def changed(filename: str, model: str) -> CorruptCheckpoint:
    """The error for a file that has changed since the model was opened."""
    return CorruptCheckpoint(
        f"'{filename}' of '{model}' was changed while it was read: run again when nothing writes to it"
    )


def settled(listing: Callable[[], Mapping[str, FileVersion]], model: str) -> Mapping[str, FileVersion]:
    """The versions of files by name that `listing` gives, once none was written within the last `TICK`.

    Raises CorruptCheckpoint for a file that is still being written after `PATIENCE`.
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
    """Open a file for reading. Raises CorruptCheckpoint if it is not this version before the block or after it."""
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
    """Fill `target` with the next bytes. Raises CorruptCheckpoint if the file ends before."""
    while len(target):
        count = file.readinto(target)  # type: ignore[attr-defined]
        if not count:
            raise CorruptCheckpoint(f"'{filename}' of '{model}' was cut off while it was read")
        target = target[count:]


def require_version(path: Path, version: FileVersion, model: str) -> None:
    """Raise CorruptCheckpoint if the file at this path is not of this version."""
    try:
        current: FileVersion | None = FileVersion.of(path.stat())
    except OSError:
        current = None
    if current != version:
        raise changed(path.name, model)
