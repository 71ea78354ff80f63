"""Tensors in a pickled file of weights: where each lies, without executing the pickle or reading the data."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Mapping
from typing import IO, Any

import torch
from torch import Tensor

from isthmus.checkpoint.errors import CorruptCheckpoint
from isthmus.checkpoint.headers import TensorInfo

DTYPE_NAMES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64",
    torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip


def pickle_header(file: IO[bytes], filename: str, model: str) -> dict[str, TensorInfo]:
    """Dtype, shape and first byte of the tensors in an open pickle; the byte is -1 for one that is not in one piece.

    Raises CorruptCheckpoint for a pickle that holds more than weights, or is damaged.
    """
    if not zipfile.is_zipfile(file):
        return {name: _info(tensor, -1) for name, tensor in read_pickle(file, filename, model).items()}
    from torch._subclasses.fake_tensor import FakeTensorMode

    file.seek(0)
    with FakeTensorMode():
        tensors = _load(file, filename, model)
    infos = {}
    for name, tensor in tensors.items():
        start: int | None = getattr(tensor.untyped_storage(), "_checkpoint_offset", None)
        if start is None or not tensor.is_contiguous():
            infos[name] = _info(tensor, -1)
        else:
            infos[name] = _info(tensor, start + int(tensor.storage_offset()) * tensor.element_size())
    return infos


def read_pickle(file: IO[bytes], filename: str, model: str) -> dict[str, Tensor]:
    """All tensors of an open pickle, in memory. Raises as `pickle_header` does."""
    file.seek(0)
    return _load(file, filename, model)


def _info(tensor: Tensor, start: int) -> TensorInfo:
    return TensorInfo(DTYPE_NAMES.get(tensor.dtype, str(tensor.dtype)), tuple(tensor.shape), start)


def _load(file: IO[bytes], filename: str, model: str) -> dict[str, Tensor]:
    try:
        content: Mapping[str, Any] = torch.load(file, weights_only=True, map_location="cpu")
        return {name: value for name, value in content.items() if isinstance(value, Tensor)}
    except pickle.UnpicklingError:
        raise CorruptCheckpoint(
            f"'{filename}' of '{model}' holds more than weights, and was not executed: ask its author for safetensors"
        ) from None
    except Exception as error:
        raise CorruptCheckpoint(
            f"'{filename}' of '{model}' cannot be read ({type(error).__name__}): fetch it again"
        ) from None
