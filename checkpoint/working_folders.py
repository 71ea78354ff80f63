"""Working folders: hidden, with random names, and locked as long as their process lives.

A process that is killed leaves its folder behind, but not its lock. So the next run tells leftovers from the work of
others that are alive, in other containers, too, where process ids say nothing.
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
SHORT = 140  # bytes of a name that every file system takes, encrypted ones as well


def hidden_sibling(target: Path, ending: str) -> Path:
    """The hidden name next to `target` that ends so; a digest stands for a name that would be too long."""
    name = f".{target.name}{ending}"
    if len(os.fsencode(name)) > SHORT:
        name = f".{hashlib.sha256(os.fsencode(target.name)).hexdigest()[:16]}{ending}"
    return target.with_name(name)


_HELD: weakref.WeakSet[WorkingFolder] = weakref.WeakSet()


class WorkingFolder:
    """A folder of this process, at `stem` with a random ending. `release` removes it, and so does its last reference.

    Leftovers of dead processes under the same stem are removed first. Raises OSError when it cannot be made.
    """

    def __init__(self, stem: Path):
        remove_leftovers(stem)
        while True:
            self.path = stem.with_name(stem.name + secrets.token_hex(8))
            self.path.mkdir(mode=0o700)
            try:
                descriptor = _lock(self.path / LOCK)
            except OSError as error:
                if error.errno not in _NO_LOCKS:
                    raise
                descriptor = os.open(self.path / LOCK, os.O_RDWR)  # nobody can lock here, so nobody will remove it
            if descriptor is not None:
                break  # else another process took it for a leftover, before it was locked
        self._end = weakref.finalize(self, _remove, self.path, descriptor, os.getpid())
        _HELD.add(self)

    def release(self) -> None:
        """Remove the folder, then unlock it."""
        self._end()

    def __enter__(self) -> Path:
        return self.path

    def __exit__(self, *exc: object) -> None:
        self.release()


def release_all() -> None:
    """Release every claim of this process: for a process that ends without taking itself apart."""
    for claim in list(_HELD):
        claim.release()


def remove_leftovers(stem: Path, rescue: Callable[[Path], None] = lambda folder: None) -> None:
    """Remove what processes that are dead left under `stem`; before that, `rescue` may take something out of it."""
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
        except OSError:  # it is gone already, or nobody can lock here, and it may be alive
            continue
        if descriptor is None:
            continue
        rescue(folder)
        _remove(folder, descriptor, os.getpid())


class FolderLock:
    """A folder that one process at a time works in, by a file ``lock`` in it.

    Raises BadInput, with `refusal` as its sentence, while another process holds it.
    """

    def __init__(self, folder: Path, refusal: str, name: str = LOCK):
        folder.mkdir(parents=True, exist_ok=True)
        descriptor: int | None = None
        for _ in range(3):  # it may be removed at the moment when it is opened
            try:
                descriptor = _lock(folder / name)
            except OSError as error:
                if error.errno not in _NO_LOCKS:
                    raise
                descriptor = os.open(folder / name, os.O_RDWR)
            if descriptor is not None:
                break
        if descriptor is None:
            raise BadInput(refusal)
        self._descriptor = descriptor

    def __enter__(self) -> FolderLock:
        return self

    def __exit__(self, *exc: object) -> None:
        os.close(self._descriptor)


_NO_LOCKS = frozenset({errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL})


def _lock(file: Path) -> int | None:
    """The descriptor of a locked file, made if it is not there; None where another process has locked or removed it."""
    try:
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(descriptor), file.stat()):
            return descriptor
    except (BlockingIOError, FileNotFoundError):
        pass
    except OSError:
        os.close(descriptor)
        raise
    os.close(descriptor)
    return None


def _remove(folder: Path, descriptor: int, owner: int) -> None:
    if os.getpid() != owner:  # a fork; the folder is its parent's
        return
    for path in folder.glob("old"):
        path.rename(path.with_name("gone"))  # what is half removed must not be taken for an output to put back
    shutil.rmtree(folder, ignore_errors=True)
    os.close(descriptor)
