"""Limits on the files of an untrusted model: bytes, JSON values, entries of a header, steps of a tokenizer.

A file is checked against its limit before anything is built from it. The limits lie far above what real models have:
the largest tokenizers take about 35 MB, the largest indexes about 20 MB.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from .errors import BadInput, CorruptCheckpoint
from .small_files import (
    ADAPTER,
    ADDED_TOKENS,
    CONFIGURATION,
    GENERATION,
    SPECIAL_TOKENS,
    TEMPLATE,
    TOKENIZER,
    TOKENIZER_SETTINGS,
    VOCABULARIES,
)

MB = 2**20
# Bytes of the files that a merge reads or copies.
LARGEST = {
    **dict.fromkeys((CONFIGURATION, GENERATION, ADAPTER, SPECIAL_TOKENS, TEMPLATE), 4 * MB),
    **dict.fromkeys((TOKENIZER_SETTINGS, ADDED_TOKENS), 16 * MB),
    **dict.fromkeys((*VOCABULARIES, "merges.txt", "target.spm", "bpe.codes", "dict.txt"), 64 * MB),
    **dict.fromkeys(("model.safetensors.index.json", "pytorch_model.bin.index.json"), 32 * MB),
}
# Bytes of files that describe a model without being a part of it; a larger one is not read.
DOCUMENT, CARD_BYTES, FRONT_MATTER = MB, 8 * MB, MB // 2
RECIPE = MB // 4
HEADER, ENTRIES, AXES, AXIS = 32 * MB, 250_000, 32, 2**40
VALUES = 6_000_000  # of one JSON file
FILES = 20_000  # of one model's folder
# How deep the steps of a tokenizer.json are nested, and how much longer they can make a text.
STEPS, NESTING, PIECES = 2_000, 16, 64
GROWTH, PADDING = 10_000, 2**20  # times longer than the text; tokens
PIPELINE = ("normalizer", "pre_tokenizer", "post_processor", "decoder")
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


def require_pipeline(content: Mapping[str, Any], where: str) -> None:
    """Check the steps of a parsed tokenizer.json, and how much they pad or lengthen a text.

    Raises CorruptCheckpoint for steps that are nested too deep, or that would fill the memory.
    """
    padding = content.get("padding")
    if isinstance(padding, Mapping):
        strategy = padding.get("strategy")
        fixed = strategy.get("Fixed") if isinstance(strategy, Mapping) else None
        if any(isinstance(n, int) and n > PADDING for n in (fixed, padding.get("pad_to_multiple_of"))):
            raise CorruptCheckpoint(f"{where} pads every text to more than {PADDING:,} tokens: do not trust this model")
    for part in PIPELINE:
        growth, steps = 1.0, 0
        todo: list[tuple[Any, int]] = [(content.get(part), 1)]
        while todo:
            step, depth = todo.pop()
            if not isinstance(step, (Mapping, list)):
                continue
            steps += 1
            if steps > STEPS or depth > NESTING or growth > GROWTH:
                raise CorruptCheckpoint(
                    f"the {part} of {where} has more steps, or makes a text longer, than that of any real tokenizer: "
                    "do not trust this model"
                )
            if isinstance(step, Mapping):
                growth *= _growth(step)
            inner = step.values() if isinstance(step, Mapping) else step
            todo += [(entry, depth + 1) for entry in inner]
        if growth > GROWTH:
            raise CorruptCheckpoint(
                f"the {part} of {where} makes a text up to {growth:.0e} times longer: do not trust this model"
            )


def require_tokenizer_file(path: Path, where: str) -> None:
    """Apply `require_pipeline` to a tokenizer.json. If it is not JSON, the library that loads it reports that."""
    try:
        content = json.loads(require_values(read_bytes(path, LARGEST[TOKENIZER], where), where))
    except (ValueError, RecursionError):
        return
    if isinstance(content, Mapping):
        require_pipeline(content, where)


def _special_kind(mode: int) -> str | None:
    return next((kind for test, kind in _SPECIAL_FILES.items() if test(mode)), None)


def _megabytes(size: int) -> str:
    return f"{size / MB:.1f} MB" if size % MB or size < MB else f"{size // MB:,} MB"


def _growth(step: Mapping[str, Any]) -> float:
    """The factor by which one step can lengthen a text."""
    kind = step.get("type")
    if kind == "TemplateProcessing":
        pieces = (step.get(side) for side in ("single", "pair"))
        return GROWTH + 1.0 if any(isinstance(p, list) and len(p) > PIECES for p in pieces) else 1.0
    if kind == "Prepend":
        return 1.0 + len(str(step.get("prepend") or "")) / 2
    if kind != "Replace":
        return 1.0
    pattern, content = step.get("pattern"), str(step.get("content") or "")
    literal = pattern.get("String") if isinstance(pattern, Mapping) else None
    if isinstance(literal, str):
        return max(1.0, len(content) / max(1, len(literal)))
    return 1.0 + len(content)  # a regular expression may match nothing, everywhere
