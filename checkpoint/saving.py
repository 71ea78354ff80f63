"""Saving: a directory appears whole under its name, or not at all.

Everything is written into a hidden sibling, synced, and then moved into place by one rename; over an old output the two
directories are exchanged in one step (Linux ``renameat2``), so that at any moment a reader, a crash or a kill finds
either the old output or the new one. If the file system cannot exchange them, the old output is moved aside for a
moment; if the run is killed in that moment, the next run puts it back.
"""

from __future__ import annotations

import ctypes
import errno
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from .errors import BadInput, IsthmusError, NotFinite
from .manifest import require_replaceable
from .path_conflicts import Place, holds, output_path, require_apart
from .untrusted_text import json_text
from .working_folders import WorkingFolder, hidden_sibling, remove_leftovers

STAGING = ".isthmus-"
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2

Signature = tuple[tuple[str, int, int, int], ...]


def require_free(target: Path, *, overwrite: bool, inputs: Iterable[Place] = ()) -> None:
    """Refuse an output that cannot be written, or that would destroy one of `inputs`, before any work is done for it.

    Leftovers of killed runs beside it are removed. Raises BadInput if `target` is a file, a link, a mount point, the
    current directory, an input, or not empty (with `overwrite`: if it holds files that isthmus did not write), or if
    its folder cannot be written.
    """
    target = output_path(target)
    require_apart([Place.of("the output", target)], inputs)
    try:
        _recover(target)
        if target.is_symlink() or (target.exists() and not target.is_dir()):
            raise BadInput(f"the output '{target.name}' exists and is not a directory: choose another name")
        if target.is_dir():
            _require_replaceable(target, overwrite=overwrite)
        parent = target.parent
        while not parent.exists():
            parent = parent.parent
        if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
            raise BadInput(f"the folder '{parent.name}' cannot be written: choose another output")
    except OSError as error:
        raise BadInput(f"the output '{target.name}' cannot be read: {error.strerror}; choose another") from None


def _require_replaceable(target: Path, *, overwrite: bool) -> None:
    if holds(target, Path.cwd()):
        raise BadInput(
            f"the output '{target.name}' is the current directory, or contains it: name a new directory in it"
        )
    if is_mount_point(target):
        raise BadInput(
            f"the output '{target.name}' is a mount point, which cannot be replaced in one step: name a new directory "
            f"in it, such as '{target.name}/merge'"
        )
    if not any(target.iterdir()):
        return
    if not overwrite:
        raise BadInput(f"the output directory '{target.name}' is not empty: choose another, or add --overwrite")
    require_replaceable(target, target.name)
    if not os.access(target, os.W_OK | os.X_OK):
        raise BadInput(f"the output directory '{target.name}' cannot be changed: choose another output")


@contextmanager
def atomic_directory(target: str | Path, *, overwrite: bool = False, inputs: Iterable[Place] = ()) -> Iterator[Path]:
    """A directory to write into. It becomes `target` in one step when the block ends without an error.

    Raises BadInput as `require_free` does, and if another process writes `target` in the meantime; IsthmusError if the
    disk is full or the folder is read-only.
    """
    target = output_path(target)
    before = _signature(target)
    require_free(target, overwrite=overwrite, inputs=inputs)
    with _os_errors_as_sentences(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        with WorkingFolder(hidden_sibling(target, STAGING)) as folder:
            staging = folder / "new" / target.name
            staging.mkdir(parents=True)
            yield staging
            for path in (*filter(Path.is_file, staging.rglob("*")), staging):
                _sync(path)
            _publish(staging, target, folder / "old", before if overwrite else None)
            _sync(target.parent)


def replace_file(target: str | Path, content: str | bytes) -> None:
    """Write a file in one step: a reader, a crash or a kill finds the old content or the new one.

    A pipe, a device, and a file in a folder where no new file can be created are written directly. Raises OSError.
    """
    target = Path(os.path.realpath(target))
    raw = content.encode() if isinstance(content, str) else content
    if target.exists() and not (target.is_file() and os.access(target.parent, os.W_OK) and not is_mount_point(target)):
        target.write_bytes(raw)
        return
    with WorkingFolder(hidden_sibling(target, STAGING)) as folder:
        new = folder / "new"
        new.write_bytes(raw)
        _sync(new)
        if target.exists():
            shutil.copymode(target, new)
        new.replace(target)


def is_mount_point(path: Path) -> bool:
    """Whether something is mounted at a path, even if it is a part of the same file system."""
    if os.path.ismount(path):
        return True
    real = os.path.realpath(path)
    try:
        lines = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return False
    mount_points = (re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), line.split(" ")[4]) for line in lines)
    return real in mount_points


@contextmanager
def _os_errors_as_sentences(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reasons = {
            errno.ENOSPC: "the disk is full",
            errno.EDQUOT: "the disk quota is used up",
            errno.EROFS: "the disk is read-only",
        }
        reason = reasons.get(error.errno or 0, error.strerror or str(error))
        raise IsthmusError(f"could not write '{target.name}': {reason}; nothing was changed") from None


def _recover(target: Path) -> None:
    """Remove the leftovers of killed runs, and put back an output that one of them had moved aside."""

    def rescue(folder: Path) -> None:
        old = folder / "old"
        if old.is_dir() and not target.exists():
            old.rename(target)

    remove_leftovers(hidden_sibling(target, STAGING), rescue)


def _signature(directory: Path) -> Signature:
    """Name, inode, size and time of every entry: a directory with the same signature has not changed."""
    try:
        entries = [(path.name, path.lstat()) for path in directory.iterdir()]
    except OSError:  # it does not exist, or is removed at this moment
        return ()
    return tuple(sorted((name, status.st_ino, status.st_size, status.st_mtime_ns) for name, status in entries))


def _publish(new: Path, target: Path, aside: Path, before: Signature | None) -> None:
    """Move a directory to its place; over an existing output only if it still has the signature `before`."""
    while True:
        try:
            new.rename(target)  # never replaces a directory that is not empty
            return
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
        if before is None:
            raise BadInput(
                f"the output directory '{target.name}' was written by another process in the meantime, and was left "
                "as it is: choose another output, or add --overwrite"
            )
        try:
            _exchange(new, target, aside, before)
        except FileNotFoundError:
            if new.exists() and not target.exists():
                continue  # the old one was removed at this moment
            raise
        return


def _sync(path: Path) -> None:
    """Write a file, or the list of a directory's entries, through to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _exchange(new: Path, old: Path, aside: Path, before: Signature) -> None:
    """Swap two directories in one step; if the system cannot, move the old one aside first.

    Raises BadInput, with the old one in its place, if anything but isthmus has changed it since `before`.
    """
    if _swap(new, old):
        try:
            if _signature(new) != before:
                require_replaceable(new, old.name)
        except BadInput:
            _swap(new, old)
            raise
        return
    if _signature(old) != before:
        require_replaceable(old, old.name)
    old.rename(aside)
    try:
        new.rename(old)
    except OSError:
        aside.rename(old)
        raise


def _swap(first: Path, second: Path) -> bool:
    """Exchange two directories in one step; False if the system or the file system cannot."""
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if renameat2 is None:
        return False
    status = renameat2(_AT_FDCWD, os.fsencode(first), _AT_FDCWD, os.fsencode(second), _RENAME_EXCHANGE)
    if status != 0 and ctypes.get_errno() not in (errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return bool(status == 0)


def write_json(path: Path, content: Mapping[str, object]) -> None:
    """Write JSON: indented, UTF-8, with invisible characters escaped and a final newline. NaN is refused."""
    path.write_text(_finite_json(path, content), encoding="utf-8")


def replace_json(path: Path, content: Mapping[str, object]) -> None:
    """Write JSON as `write_json` does, but in one step (`replace_file`)."""
    replace_file(path, _finite_json(path, content))


def _finite_json(path: Path, content: Mapping[str, object]) -> str:
    try:
        return json_text(content) + "\n"
    except ValueError:
        from .finite import place_of_nan

        place = place_of_nan(content)
        if place is None:
            raise
        raise NotFinite(f"'{place}' in '{path.name}' would be NaN or Inf: nothing was written") from None
