"""Names, shapes and dtypes of the tensors in a safetensors file, read from its header alone.

The format: 8 bytes, little-endian, the length of a JSON header; the header maps names to dtype, shape and byte offsets;
then the data. Everything in the header is checked against the size of the file.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from .errors import CorruptCheckpoint
from .size_limits import AXES, AXIS, ENTRIES, HEADER, require_size, require_values
from .strict_json import parse_json
from .untrusted_text import plain

ITEM_BITS = {
    "F64": 64, "F32": 32, "F16": 16, "BF16": 16, "C64": 64,
    "F8_E4M3": 8, "F8_E4M3FNUZ": 8, "F8_E5M2": 8, "F8_E5M2FNUZ": 8, "F8_E8M0": 8, "F6_E2M3": 6, "F6_E3M2": 6, "F4": 4,
    "I64": 64, "I32": 32, "I16": 16, "I8": 8, "U64": 64, "U32": 32, "U16": 16, "U8": 8, "BOOL": 8,
}  # fmt: skip


@dataclass(frozen=True)
class TensorInfo:
    """One tensor by the header: its dtype by the name in the format (F32, BF16, ...), its shape, its first byte."""

    dtype: str
    shape: tuple[int, ...]
    start: int = field(default=0, compare=False)

    @property
    def bytes(self) -> int:
        """The size of its data in bytes."""
        return math.prod(self.shape) * ITEM_BITS[self.dtype] // 8


def read_header(path: Path, model: str) -> dict[str, TensorInfo]:
    """The header of a local safetensors file; `model` is the name used in messages.

    Raises CorruptCheckpoint if the file is truncated, or its header does not describe it.
    """
    with path.open("rb") as file:
        return header_of(file, f"'{path.name}' of '{model}'")


def header_of(file: IO[bytes], where: str) -> dict[str, TensorInfo]:
    """The header of an open safetensors file, which `where` names in messages. Raises as `read_header` does."""

    def read(start: int, stop: int) -> bytes:
        file.seek(start)
        return file.read(stop - start)

    return header_from(read, file.seek(0, io.SEEK_END), where)


def header_from(read: Callable[[int, int], bytes], size: int, where: str) -> dict[str, TensorInfo]:
    """The header of a safetensors file of `size` bytes; `read` gives its bytes from a start up to a stop.

    `where` names the file in messages. Raises CorruptCheckpoint as `read_header` does.
    """
    length = int.from_bytes(read(0, 8), "little") if size >= 8 else 0
    if not 2 <= length <= size - 8:
        raise CorruptCheckpoint(f"{where} is truncated or not a safetensors file: fetch it again")
    require_size(length, HEADER, f"the header of {where}")
    raw = require_values(read(8, 8 + length), where)
    entries = raw.count(b'"data_offsets"')
    if entries > ENTRIES:
        raise CorruptCheckpoint(
            f"the header of {where} has {entries:,} entries, more than the {ENTRIES:,} that isthmus reads: fetch the "
            "file again"
        )
    header = parse_json(raw, f"the header of {where} is damaged: it", unique=True)
    infos, spans, consistent = {}, [], True
    try:
        metadata = header.pop("__metadata__", None) or {}
        if not all(isinstance(value, str) for value in metadata.values()):
            raise TypeError("metadata in safetensors is text")
        for name, entry in header.items():
            shape = entry["shape"]
            if len(shape) > AXES or any(isinstance(axis, int) and axis > AXIS for axis in shape):
                # The shape itself is not shown: it may fill a large header.
                raise CorruptCheckpoint(
                    f"the header of {where} gives '{plain(name, 100)}' a shape that no tensor has: fetch the file again"
                )
        for name, entry in header.items():
            begin, stop = entry["data_offsets"]
            if type(begin) is not int or type(stop) is not int:
                raise TypeError("an offset is not a whole number")
            info = infos[name] = TensorInfo(entry["dtype"], tuple(entry["shape"]), 8 + length + begin)
            consistent &= stop - begin == info.bytes and all(type(axis) is int and axis >= 0 for axis in info.shape)
            spans.append((begin, stop))
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, OverflowError):
        raise CorruptCheckpoint(f"the header of {where} is damaged: fetch the file again") from None
    end = 0
    for begin, stop in sorted(spans):
        consistent &= begin == end
        end = stop
    if not consistent:
        raise CorruptCheckpoint(f"the header of {where} contradicts itself: fetch the file again")
    if end != size - 8 - length:
        raise CorruptCheckpoint(
            f"{where} is truncated: it holds {size - 8 - length} bytes of data where its header promises {end}: "
            "fetch it again"
        )
    return infos
