"""Tensors in a pickled file of weights: where each lies, without executing the pickle or reading the data.

The file has to hold dense tensors with their values, by name; anything else is refused.
"""

from __future__ import annotations

import io
import logging
import pickle
import zipfile
from collections.abc import Mapping
from typing import IO

import torch
from torch import Tensor

from .archive import require_archive
from .errors import CorruptCheckpoint
from .headers import TensorInfo

DTYPE_NAMES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64",
    torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip


def pickle_header(file: IO[bytes], filename: str, model: str) -> dict[str, TensorInfo]:
    """Dtype, shape and first byte of the tensors in an open pickle; the byte is -1 if a tensor is not contiguous.

    Raises CorruptCheckpoint for a pickle that holds more than weights, or is damaged.
    """
    if not zipfile.is_zipfile(file):
        return {name: _info(tensor, -1) for name, tensor in read_pickle(file, filename, model).items()}
    from torch._subclasses.fake_tensor import FakeTensorMode

    require_archive(file, f"'{filename}' of '{model}'")
    log = logging.getLogger("torch._subclasses.fake_tensor")
    disabled, log.disabled = log.disabled, True
    try:
        with FakeTensorMode():
            tensors = _load(file, filename, model)
    except CorruptCheckpoint:  # reading whole tensors supports more kinds, and says what is wrong with the others
        return {name: _info(tensor, -1) for name, tensor in read_pickle(file, filename, model).items()}
    finally:
        log.disabled = disabled
    infos = {}
    for name, tensor in tensors.items():
        begin: int | None = getattr(tensor.untyped_storage(), "_checkpoint_offset", None)
        start = -1
        if begin is not None and tensor.is_contiguous():
            start = begin + int(tensor.storage_offset()) * tensor.element_size()
        infos[name] = _info(tensor, start)
    return infos


def read_pickle(file: IO[bytes], filename: str, model: str) -> dict[str, Tensor]:
    """All tensors of an open pickle, in memory, as plain tensors without gradients.

    Raises as `pickle_header` does.
    """
    require_archive(file, f"'{filename}' of '{model}'")
    tensors = _load(file, filename, model)
    return {name: value.detach().as_subclass(Tensor).resolve_conj().resolve_neg() for name, value in tensors.items()}


def _info(tensor: Tensor, start: int) -> TensorInfo:
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
