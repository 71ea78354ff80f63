"""The weights of a model on disk as a state: each tensor is read when it is looked up, checked, and float32."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

import torch
from torch import Tensor

from .errors import CorruptCheckpoint
from .file_version import FileVersion, opened, read_into, require_version
from .headers import TensorInfo
from .naming import Conversion
from .pickles import read_pickle
from .rows import ComputedState, in_blocks, row_counts

DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


@dataclass(frozen=True)
class StoredTensor:
    """Where a tensor is: its file and the version of it, its name there, and what the header says of it."""

    path: Path
    version: FileVersion
    name: str
    info: TensorInfo


class LazyState(Mapping[str, Tensor]):
    """A state on disk. Every look-up reads one tensor of the model into memory, and checks it.

    `conversions` say from which stored tensors each tensor of the model is made. The `owner` of the files lives as long
    as the state: they may be temporary. Every read also checks that no file
    has changed since the model was opened, so a state never mixes two versions. Raises CorruptCheckpoint if one has
    changed, and for NaN and Inf.
    """

    def __init__(
        self,
        conversions: Mapping[str, Conversion],
        stored: Mapping[str, StoredTensor],
        model: str,
        owner: object = None,
    ):
        self._conversions, self._stored, self._model = conversions, stored, model
        self._owner = owner
        self._versions = {tensor.path: tensor.version for tensor in stored.values()}
        self._pickles: dict[Path, dict[str, Tensor]] = {}

    def __getitem__(self, name: str) -> Tensor:
        conversion = self._conversions[name]
        tensors = {stored: self._read(self._stored[stored]) for stored in conversion.stored}
        self._require_unchanged()
        tensor = conversion.loaded(tensors)[name]
        self._require_finite(name, tensor)
        return tensor.float()

    def blocks(self, name: str) -> Iterator[Tensor]:
        """One tensor in blocks of rows (`isthmus.checkpoint.rows`), read and checked one by one."""
        conversion = self._conversions[name]
        stored = self._stored[conversion.stored[0]]
        if conversion.rule is not None or stored.info.start < 0 or not stored.info.shape:
            yield from in_blocks({name: self[name]}, name)
            return
        for block in _read_blocks(stored, row_counts(stored.info.shape), self._model):
            self._require_finite(name, block)
            yield block.float()
        self._require_unchanged()

    def first_rows(self, name: str, count: int) -> Tensor:
        """At most the first `count` rows of a tensor, float32."""
        return self._rows(name, 0, count)

    def rows(self, name: str, start: int, stop: int) -> Tensor:
        """The rows `start:stop` of a tensor, float32, checked; fewer where it has no more."""
        rows = self._rows(name, start, stop)
        self._require_finite(name, rows)
        return rows

    def _rows(self, name: str, start: int, stop: int) -> Tensor:
        conversion = self._conversions[name]
        stored = self._stored[conversion.stored[0]]
        if conversion.rule is not None or stored.info.start < 0 or not stored.info.shape:
            return self[name][start:stop]
        start, stop = (min(row, stored.info.shape[0]) for row in (start, stop))
        rows = next(iter(_read_blocks(stored, [stop - start], self._model, start)))
        self._require_unchanged()
        return rows.float()

    def _read(self, stored: StoredTensor) -> Tensor:
        if stored.info.start >= 0:
            whole = [stored.info.shape[0]] if stored.info.shape else [1]
            return next(iter(_read_blocks(stored, whole, self._model))).reshape(stored.info.shape)
        if stored.path not in self._pickles:
            with opened(stored.path, stored.version, self._model) as file:
                self._pickles[stored.path] = read_pickle(file, stored.path.name, self._model)
        return self._pickles[stored.path][stored.name].contiguous()

    def _require_unchanged(self) -> None:
        for path, version in self._versions.items():
            require_version(path, version, self._model)

    def _require_finite(self, name: str, tensor: Tensor) -> None:
        # A sum is finite only if the tensor is, and needs no second tensor of that size.
        if not torch.isfinite(tensor.sum(dtype=torch.float32)) and not torch.isfinite(tensor).all():
            raise CorruptCheckpoint(f"'{name}' of '{self._model}' holds NaN or Inf: the model cannot be merged")

    def __iter__(self) -> Iterator[str]:
        return iter(self._conversions)

    def __len__(self) -> int:
        return len(self._conversions)


def _read_blocks(stored: StoredTensor, rows: Sequence[int], model: str, first: int = 0) -> Iterator[Tensor]:
    """Blocks of a stored tensor in its own dtype; `rows` says how many rows each has, from row number `first` on."""
    dtype = DTYPES[stored.info.dtype]
    with opened(stored.path, stored.version, model) as file:
        file.seek(stored.info.start + first * prod(stored.info.shape[1:]) * dtype.itemsize)
        for count in rows:
            block = torch.empty((count, *stored.info.shape[1:]), dtype=dtype)
            read_into(file, block.view(-1).view(torch.uint8).numpy().data, stored.path.name, model)
            yield block


def with_copies(state: Mapping[str, Tensor], copies: Mapping[str, str]) -> ComputedState:
    """A state that has some tensors under a second name, too: `copies` are {second name: first name}."""
    return ComputedState(
        [*state, *copies],
        lambda name: state[copies[name]].clone() if name in copies else state[name],
        lambda name: in_blocks(state, copies.get(name, name)),
    )
