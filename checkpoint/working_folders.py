"""Working folders: hidden, with random names, and locked while their process lives.

A killed process leaves its folder behind, but not its lock. So the next run can tell leftovers from the folders of
running processes, even of processes in other containers, where process ids say nothing.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import re
import secrets
import shutil
import weakref
from collections.abc import Callable
from pathlib import Path

from .errors import BadInput

LOCK = "lock"
SHORT = 140  # bytes of a name that every file system allows, encrypted ones included


def hidden_sibling(target: Path, ending: str) -> Path:
    """The hidden path next to `target` with this ending; a digest replaces a name that would be too long."""
    name = f".{target.name}{ending}"
    if len(os.fsencode(name)) > SHORT:
        name = f".{hashlib.sha256(os.fsencode(target.name)).hexdigest()[:16]}{ending}"
    return target.with_name(name)


_HELD: weakref.WeakSet[WorkingFolder] = weakref.WeakSet()


class WorkingFolder:
    """A folder of this process, at `stem` plus a random ending. It is removed by `release`, or with its last reference.

    Leftovers of dead processes under the same stem are removed first. Raises OSError if the folder cannot be created.
    """

    def __init__(self, stem: Path):
        remove_leftovers(stem)
        while True:
            self.path = stem.with_name(stem.name + secrets.token_hex(8))
            self.path.mkdir(mode=0o700)
            descriptor = _locked(self.path / LOCK)
            if descriptor is not None:
                break  # else another process removed it as a leftover before it was locked
        self._remove = weakref.finalize(self, _remove, self.path, descriptor, os.getpid())
        _HELD.add(self)

    def release(self) -> None:
        """Remove the folder, then unlock it."""
        self._remove()

    def __enter__(self) -> Path:
        return self.path

    def __exit__(self, *exc: object) -> None:
        self.release()


def release_all() -> None:
    """Remove every working folder of this process, for an exit that runs no finalizers."""
    for folder in list(_HELD):
        folder.release()


def remove_leftovers(stem: Path, rescue: Callable[[Path], None] = lambda folder: None) -> None:
    """Remove the folders that dead processes left under `stem`; `rescue` may first take something out of each."""
    name = re.compile(re.escape(stem.name) + "[0-9a-f]{16}")
    try:
        entries = [Path(entry.path) for entry in os.scandir(stem.parent) if name.fullmatch(entry.name)]
    except OSError:
        return
    for folder in entries:
        try:
            if folder.is_symlink() or not folder.is_dir() or folder.stat().st_uid != os.geteuid():
                continue
            descriptor = _lock(folder / LOCK)
        except OSError:  # it has been removed, or there are no locks here and its process may be alive
            continue
        if descriptor is None:
            continue
        rescue(folder)
        _remove(folder, descriptor, os.getpid())


class FolderLock:
    """A folder in which one process works at a time, by a lock on a file in it.

    Raises BadInput with the sentence `refusal` while another process has the lock.
    """

    def __init__(self, folder: Path, refusal: str, name: str = LOCK):
        folder.mkdir(parents=True, exist_ok=True)
        for _ in range(3):  # the file may be removed at the moment when it is opened
            descriptor = _locked(folder / name)
            if descriptor is not None:
                break
        else:
            raise BadInput(refusal)
        self._descriptor = descriptor

    def __enter__(self) -> FolderLock:
        return self

    def __exit__(self, *exc: object) -> None:
        os.close(self._descriptor)


_NO_LOCKS = frozenset({errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL})


def _lock(file: Path) -> int | None:
    """The descriptor of a locked file, created if missing; None if another process has locked or removed it."""
    try:
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except FileNotFoundError:
        return None
    locked = False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        locked = os.path.samestat(os.fstat(descriptor), file.stat())
    except (BlockingIOError, FileNotFoundError):
        pass
    finally:
        if not locked:
            os.close(descriptor)
    return descriptor if locked else None


def _locked(file: Path) -> int | None:
    """As `_lock`; on a file system without locks, where no other process removes the file, its descriptor."""
    try:
        return _lock(file)
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        return os.open(file, os.O_RDWR)


def _remove(folder: Path, descriptor: int, owner: int) -> None:
    if os.getpid() != owner:  # a fork: the folder belongs to its parent
        return
    for path in folder.glob("old"):
        path.rename(path.with_name("gone"))  # a half-removed output must not be put back
    shutil.rmtree(folder, ignore_errors=True)
    os.close(descriptor)
