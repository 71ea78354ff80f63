"""Saving: a directory appears whole under its name, or not at all.

Everything is written into a hidden sibling, synced, and then moved into place by one rename; over an old output the two
directories are exchanged in one step (Linux ``renameat2``), so that at any moment a reader, a crash or a kill finds
either the old output or the new one.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from isthmus.checkpoint.errors import BadInput, IsthmusError, NotFinite

TOKENIZER_SETTINGS = "tokenizer_config.json"
LOCAL_PLACES = frozenset({"name_or_path", "special_tokens_map_file", "tokenizer_file", "vocab_file", "merges_file"})
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2


def require_free(target: Path, *, overwrite: bool) -> None:
    """Refuse an output that cannot be written, before any work is done for it.

    Raises BadInput when `target` is a file, a non-empty directory (unless `overwrite`, which never replaces a
    directory of directories that holds no model), or when its folder cannot be written.
    """
    if target.is_symlink() or (target.exists() and not target.is_dir()):
        raise BadInput(f"the output '{target.name}' exists and is not a directory: choose another name")
    if target.is_dir() and any(target.iterdir()):
        if not overwrite:
            raise BadInput(f"the output directory '{target.name}' is not empty: choose another, or add --overwrite")
        if any(path.is_dir() for path in target.iterdir()) and not (target / "config.json").exists():
            raise BadInput(
                f"the output directory '{target.name}' holds other directories and no model, so --overwrite does not "
                "replace it: choose another, or remove it yourself"
            )
    parent = target.absolute().parent
    while not parent.exists():
        parent = parent.parent
    if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
        raise BadInput(f"the folder '{parent.name}' cannot be written: choose another output")


@contextmanager
def atomic_directory(target: str | Path, *, overwrite: bool = False) -> Iterator[Path]:
    """A directory to write into, which becomes `target` when the block ends without an error, in one step.

    Raises BadInput as `require_free` does; IsthmusError when the disk is full or the folder is read-only.
    """
    target = Path(target).absolute()
    require_free(target, overwrite=overwrite)
    with _plain_os_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(target)
        staging = target.parent / f".{target.name}.isthmus-{os.getpid()}"
        staging.mkdir()
        try:
            yield staging
            _sync(staging)
            if target.exists():
                _exchange(staging, target)
            else:
                staging.rename(target)
            _sync_directory(target.parent)
        finally:
            shutil.rmtree(staging, ignore_errors=True)


@contextmanager
def _plain_os_errors(target: Path) -> Iterator[None]:
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


def _remove_leftovers(target: Path) -> None:
    """Staging directories of processes that were killed; those of living ones stay."""
    for path in target.parent.glob(f".{target.name}.isthmus-*"):
        pid = path.name.rpartition("-")[2]
        if pid.isdigit() and not Path(f"/proc/{pid}").exists() and Path("/proc").exists():
            shutil.rmtree(path, ignore_errors=True)


def _sync(directory: Path) -> None:
    for path in directory.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
    _sync_directory(directory)


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _exchange(new: Path, old: Path) -> None:
    """Swap two directories in one step, or, where the system cannot, move the old one aside first."""
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if renameat2 is not None:
        done = renameat2(_AT_FDCWD, os.fsencode(new), _AT_FDCWD, os.fsencode(old), _RENAME_EXCHANGE)
        if done == 0:
            return
        if ctypes.get_errno() not in (errno.ENOSYS, errno.EINVAL):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    aside = old.with_name(f".{old.name}.isthmus-old")
    shutil.rmtree(aside, ignore_errors=True)
    old.rename(aside)
    try:
        new.rename(old)
    except OSError:
        aside.rename(old)
        raise
    shutil.rmtree(aside, ignore_errors=True)


def save_small_files(directory: Path, facts: Mapping[str, Any], files: Mapping[str, Path], dtype: torch.dtype) -> None:
    """Write config.json with these `facts`, and carry over tokenizer and generation files.

    They are unchanged, but for where on somebody's disk a tokenizer was loaded from.
    """
    content = {key: value for key, value in facts.items() if key not in ("_name_or_path", "torch_dtype")}
    content["dtype"] = str(dtype).removeprefix("torch.")
    if not content.get("architectures"):
        from isthmus.checkpoint.config import build_config
        from isthmus.checkpoint.model import empty_model

        content["architectures"] = [type(empty_model(build_config(facts, directory.name))).__name__]
    write_json(directory / "config.json", content)
    carry_over(directory, {name: path for name, path in files.items() if name != "config.json"})


def carry_over(directory: Path, files: Mapping[str, Path]) -> None:
    """Copy small files as they are, but for where on somebody's disk a tokenizer was loaded from."""
    for name, path in files.items():
        if name == TOKENIZER_SETTINGS:
            settings = json.loads(path.read_text(encoding="utf-8"))
            write_json(directory / name, {key: value for key, value in settings.items() if key not in LOCAL_PLACES})
        else:
            shutil.copyfile(path, directory / name)


def write_json(path: Path, content: Mapping[str, object]) -> None:
    """Write JSON, indented, UTF-8, ending in a newline; NaN is refused."""
    try:
        text = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False)
    except ValueError:
        from isthmus.checkpoint.finite import place_of_nan

        place = place_of_nan(content)
        if place is None:
            raise
        raise NotFinite(f"'{place}' in '{path.name}' would be NaN or Inf: nothing was written") from None
    path.write_text(text + "\n", encoding="utf-8")
