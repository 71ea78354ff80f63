"""Tensors in a pickled file of weights: where each lies, without executing the pickle or reading the data.

The file has to hold dense tensors with their values, by name; anything else is refused. torch writes a zip archive
around a pickle, and does not compress its members. A compressed member can unpack to thousands of times its size, so an
archive that has one is refused. So is an archive with more members than any model has tensors.
"""

from __future__ import annotations

import io
import logging
import pickle
import pickletools
import zipfile
from collections.abc import Iterator, Mapping
from typing import IO

import torch
from torch import Tensor

from .errors import CorruptCheckpoint
from .headers import TensorInfo
from .size_limits import MB

DTYPE_NAMES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64",
    torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip
DIRECTORY = 16 * MB  # bytes of an archive that are read for its list of members
MEMBERS = 200_000
PICKLE = 16 * MB  # of names, shapes and offsets; the values are separate members
LEGACY = 512 * MB  # of a file written before torch 1.6, which is one pickle
# Callables that allocate as many bytes as they are told; torch's weights-only reader allows them.
FILLERS = frozenset({"bytearray"})


def pickle_header(file: IO[bytes], filename: str, model: str) -> dict[str, TensorInfo]:
    """Dtype, shape and first byte of the tensors in an open pickle; the byte is -1 if a tensor is not contiguous.

    Raises CorruptCheckpoint for a pickle that holds more than weights, or is damaged.
    """
    if zipfile.is_zipfile(file):
        from torch._subclasses.fake_tensor import FakeTensorMode

        require_archive(file, f"'{filename}' of '{model}'")
        log = logging.getLogger("torch._subclasses.fake_tensor")
        disabled, log.disabled = log.disabled, True
        try:
            with FakeTensorMode():
                tensors = _load(file, filename, model)
            return {name: _info(tensor) for name, tensor in tensors.items()}
        except CorruptCheckpoint:
            pass  # reading whole tensors supports more kinds, and says what is wrong with the others
        finally:
            log.disabled = disabled
    return {name: _info(tensor) for name, tensor in read_pickle(file, filename, model).items()}


def read_pickle(file: IO[bytes], filename: str, model: str) -> dict[str, Tensor]:
    """All tensors of an open pickle, in memory, as plain tensors without gradients.

    Raises as `pickle_header` does.
    """
    require_archive(file, f"'{filename}' of '{model}'")
    tensors = _load(file, filename, model)
    return {name: value.detach().as_subclass(Tensor).resolve_conj().resolve_neg() for name, value in tensors.items()}


def _info(tensor: Tensor) -> TensorInfo:
    begin: int | None = getattr(tensor.untyped_storage(), "_checkpoint_offset", None)
    start = -1
    if begin is not None and tensor.is_contiguous():
        start = begin + int(tensor.storage_offset()) * tensor.element_size()
    return TensorInfo(DTYPE_NAMES.get(tensor.dtype, str(tensor.dtype)), tuple(tensor.shape), start)


def _load(file: IO[bytes], filename: str, model: str) -> dict[str, Tensor]:
    where, size = f"'{filename}' of '{model}'", file.seek(0, io.SEEK_END)
    file.seek(0)
    try:
        content = torch.load(file, weights_only=True, map_location="cpu")
        tensors = named_tensors(content, where)
    except CorruptCheckpoint:
        raise
    except pickle.UnpicklingError:
        raise CorruptCheckpoint(
            f"{where} holds more than weights, and was not executed: ask its author for safetensors"
        ) from None
    except Exception as error:
        raise CorruptCheckpoint(f"{where} cannot be read ({type(error).__name__}): fetch it again") from None
    for name, tensor in tensors.items():
        if tensor.numel() * tensor.element_size() > size:
            raise CorruptCheckpoint(
                f"'{name[:100]}' in {where} claims the shape {list(tensor.shape)[:8]}, more than the file holds: do "
                "not trust this model"
            )
    return tensors


def named_tensors(content: object, where: str) -> dict[str, Tensor]:
    """The tensors in an unpickled object by name; other values are left out, as transformers does.

    `where` names the file in messages. Raises CorruptCheckpoint for anything but a mapping with text as keys, and for
    tensors without values (on the meta device) or that are sparse, nested or quantized.
    """
    if not isinstance(content, Mapping):
        raise CorruptCheckpoint(
            f"{where} holds {type(content).__name__} instead of tensors by name: save the model's state_dict"
        )
    tensors = {}
    for name, value in content.items():
        if not isinstance(name, str):
            raise CorruptCheckpoint(f"{where} has {str(name)[:60]!r} as the name of a tensor: save the state_dict")
        if isinstance(value, Tensor):
            _require_plain(name, value, where)
            tensors[name] = value
    return tensors


def _require_plain(name: str, tensor: Tensor, where: str) -> None:
    kind = None
    if tensor.device.type == "meta":
        kind = "has no values (it is on the meta device)"
    elif tensor.is_nested:
        kind = "is a nested tensor"
    elif tensor.layout != torch.strided:
        kind = f"is sparse ({str(tensor.layout).removeprefix('torch.')})"
    elif tensor.is_quantized:
        kind = "is quantized"
    if kind is not None:
        raise CorruptCheckpoint(f"'{name}' in {where} {kind}: save the model's full-precision weights")


class Budget(io.RawIOBase):
    """A file of which at most `budget` bytes can be read in total. Reading more raises OSError."""

    def __init__(self, file: IO[bytes], budget: int):
        self._file, self._left = file, budget

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move to a position, which costs nothing."""
        return self._file.seek(offset, whence)

    def read(self, size: int | None = -1) -> bytes:
        """The next bytes. Raises OSError if they exceed what is left of the budget."""
        wanted = self._left + 1 if size is None or size < 0 else size
        if wanted > self._left:
            position = self._file.tell()
            wanted = min(wanted, self._file.seek(0, io.SEEK_END) - position)
            self._file.seek(position)
            if wanted > self._left:
                raise OSError("the file is larger inside than files of its kind are")
        content = self._file.read(wanted)
        self._left -= len(content)
        return content


def require_archive(file: IO[bytes], where: str) -> None:
    """Raise CorruptCheckpoint for an open file of weights that would unpack to more bytes than it has."""
    size = file.seek(0, io.SEEK_END)
    if not zipfile.is_zipfile(file):
        if size > LEGACY:
            return  # an old format: the bytes of the tensors follow the pickle, and are read as a stream
        file.seek(0)
        _require_no_fillers(file.read(min(size, PICKLE)), where)
        return
    try:
        with zipfile.ZipFile(Budget(file, DIRECTORY)) as archive:
            members = archive.infolist()
            if any(member.compress_type != zipfile.ZIP_STORED for member in members):
                raise CorruptCheckpoint(
                    f"{where} is a compressed archive, which torch never writes, and was not unpacked: ask "
                    "its author for safetensors"
                )
            if len(members) > MEMBERS or sum(member.file_size for member in members) > size:
                raise CorruptCheckpoint(f"{where} claims more content than it has bytes: do not trust this model")
            for member in members:
                if member.filename.endswith("data.pkl"):
                    if member.file_size > PICKLE:
                        raise CorruptCheckpoint(
                            f"{where} has a pickle of {member.file_size:,} bytes, and isthmus reads up to {PICKLE:,}: "
                            "ask its author for safetensors"
                        )
                    _require_no_fillers(archive.read(member), where)
    except (OSError, ValueError, EOFError, RuntimeError, NotImplementedError, zipfile.BadZipFile) as error:
        raise CorruptCheckpoint(f"{where} is damaged ({str(error)[:100]}): fetch it again") from None


def strings(raw: bytes) -> Iterator[str]:
    """The texts in a pickle, including the names of what it would call. Nothing is executed.

    Raises ValueError if the bytes are not a pickle.
    """
    for _, argument, _ in pickletools.genops(io.BytesIO(raw)):
        if isinstance(argument, str):
            yield argument


def _require_no_fillers(raw: bytes, where: str) -> None:
    try:
        for text in strings(raw):
            if text.rpartition(" ")[2] in FILLERS:
                raise CorruptCheckpoint(
                    f"{where} holds more than weights ({text[:40]}), and was not executed: ask its author for "
                    "safetensors"
                )
    except (ValueError, EOFError, IndexError, OverflowError):
        return  # an old file continues after its pickle; torch reports what is wrong with any other
