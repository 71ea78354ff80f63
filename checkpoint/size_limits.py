"""Limits on the files of an untrusted model: bytes, JSON values, entries of a header, files in a folder.

A file is checked against its limit before anything is built from it. The limits lie far above what real models have:
the largest tokenizers take about 35 MB, the largest indexes about 20 MB.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from .errors import BadInput, CorruptCheckpoint
from .untrusted_text import plain

MB = 2**20
# Bytes of the files that a merge reads or copies.
LARGEST = {
    "config.json": 4 * MB,
    "generation_config.json": 4 * MB,
    "adapter_config.json": 4 * MB,
    "special_tokens_map.json": 4 * MB,
    "chat_template.jinja": 4 * MB,
    "tokenizer_config.json": 16 * MB,
    "added_tokens.json": 16 * MB,
    "tokenizer.json": 64 * MB,
    "vocab.json": 64 * MB,
    "vocab.txt": 64 * MB,
    "merges.txt": 64 * MB,
    "tokenizer.model": 64 * MB,
    "spiece.model": 64 * MB,
    **dict.fromkeys(
        (
            "spm.model",
            "sentencepiece.model",
            "sentencepiece.bpe.model",
            "spm_char.model",
            "source.spm",
            "target.spm",
            "tekken.json",
            "tiktoken.model",
            "byte_maps.json",
            "bpe.codes",
            "dict.txt",
        ),
        64 * MB,
    ),
    "model.safetensors.index.json": 32 * MB,
    "pytorch_model.bin.index.json": 32 * MB,
}
# Bytes of files that describe a model without being a part of it; a larger one is not read.
DOCUMENT, CARD_BYTES, FRONT_MATTER = MB, 8 * MB, MB // 2
RECIPE = MB // 4
HEADER, ENTRIES, AXES, AXIS = 32 * MB, 250_000, 32, 2**40
VALUES = 6_000_000  # of one JSON file
FILES = 20_000  # of one model's folder
_SPECIAL_FILES = {
    stat.S_ISFIFO: "a named pipe",
    stat.S_ISSOCK: "a socket",
    stat.S_ISCHR: "a device",
    stat.S_ISBLK: "a device",
}


def require_regular_file(path: Path, model: str) -> None:
    """Raise CorruptCheckpoint for a pipe, a socket or a device: reading one may never end."""
    kind = _special_kind(path.stat().st_mode)
    if kind:
        raise CorruptCheckpoint(f"'{path.name}' of '{model}' is {kind}, not a file: remove it")


def require_sizes(sizes: Mapping[str, int | None], model: str) -> None:
    """Raise CorruptCheckpoint if one of a model's files is larger than its limit in `LARGEST`."""
    for name, limit in LARGEST.items():
        require_size(sizes.get(name) or 0, limit, f"'{name}' of '{model}'")


def require_size(size: int, limit: int, where: str) -> None:
    """Raise CorruptCheckpoint for more bytes than `limit`; `where` names the file."""
    if size > limit:
        raise CorruptCheckpoint(
            f"{where} has {_megabytes(size)}, more than the {_megabytes(limit)} that isthmus reads of such a file: "
            "check that it is what its name says, or fetch it again"
        )


def read_bytes(path: Path, limit: int, where: str) -> bytes:
    """The content of a regular file of at most `limit` bytes. Never waits for a pipe, never reads more.

    Raises CorruptCheckpoint for a larger file and for anything but a regular file; OSError as `open` does.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise CorruptCheckpoint(
                f"{where} is {_special_kind(status.st_mode) or 'a directory'}, not a file: remove it"
            )
        require_size(status.st_size, limit, where)
        content = file.read(limit + 1)
    require_size(len(content), limit, where)
    return content


def require_values(raw: bytes, where: str) -> bytes:
    """The JSON text itself, if it holds at most `VALUES` values; raises CorruptCheckpoint otherwise.

    A parsed value takes up to 30 times its bytes. Every value follows a comma or an opening bracket.
    """
    values = sum(map(raw.count, (b",", b"[", b"{")))
    if values > VALUES:
        raise CorruptCheckpoint(
            f"{where} holds about {values:,} values, more than the {VALUES:,} that isthmus reads: fetch it again, and "
            "do not trust this model if it stays so"
        )
    return raw


def require_few_files(names: Collection[object], model: str) -> None:
    """Raise BadInput for a folder of more than `FILES` files."""
    if len(names) > FILES:
        raise BadInput(f"'{model}' holds more than {FILES:,} files: give the folder of one model")


def require_header(raw: bytes, where: str) -> bytes:
    """The safetensors header itself, if it has at most `ENTRIES` entries; raises CorruptCheckpoint otherwise."""
    require_values(raw, where)
    entries = raw.count(b'"data_offsets"')
    if entries > ENTRIES:
        raise CorruptCheckpoint(
            f"the header of {where} has {entries:,} entries, more than the {ENTRIES:,} that isthmus reads: fetch the "
            "file again"
        )
    return raw


def require_shapes(header: Mapping[str, Any], where: str) -> None:
    """Raise CorruptCheckpoint for a shape in a parsed header that has too many axes or too long an axis."""
    for name, entry in header.items():
        shape = entry["shape"]
        if len(shape) > AXES or any(isinstance(axis, int) and axis > AXIS for axis in shape):
            # The shape itself is not shown: it may fill a large header.
            raise CorruptCheckpoint(
                f"the header of {where} gives '{plain(name, 100)}' a shape that no tensor has: fetch the file again"
            )


def _special_kind(mode: int) -> str | None:
    return next((kind for test, kind in _SPECIAL_FILES.items() if test(mode)), None)


def _megabytes(size: int) -> str:
    return f"{size / MB:.1f} MB" if size % MB or size < MB else f"{size // MB:,} MB"
