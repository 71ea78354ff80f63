"""The files of a model in its directory: config.json, tokenizer files, and weights as safetensors.

Weights go into one file, or into several with an index, block by block; they are hashed on the way.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import struct
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

from .finite import written_blocks
from .pickles import DTYPE_NAMES
from .rows import in_blocks
from .saving import write_json
from .small_files import TOKENIZER_SETTINGS
from .strict_json import parse_object

LOCAL_PATHS = frozenset({"name_or_path", "special_tokens_map_file", "tokenizer_file", "vocab_file", "merges_file"})
SHARD_BYTES = 5 * 10**9
FLUSH_BYTES = 2**26
AHEAD = 8  # blocks that may wait to be written


def save_weights(
    directory: Path,
    names: Mapping[str, tuple[int, ...]],
    state: Mapping[str, Tensor],
    dtype: torch.dtype,
    *,
    maker: str = "the model",
) -> dict[str, str]:
    """Write weights as safetensors, tensor by tensor, or block by block if the state yields blocks of rows.

    `names` are the names and shapes of the tensors. Above `SHARD_BYTES` the weights go into several files with an
    index, as transformers writes them. Returns the SHA-256 of every file of weights, 64 hex digits.

    `maker` says in errors whose tensors they are. Raises NotFinite for values that are not finite in `dtype`
    (`isthmus.checkpoint.finite.written_blocks`).
    """
    sizes = _sizes(names, dtype)
    shards: list[list[str]] = [[]]
    filled = 0  # bytes of the last shard
    for name in names:
        if shards[-1] and filled + sizes[name] > SHARD_BYTES:
            shards.append([])
            filled = 0
        shards[-1].append(name)
        filled += sizes[name]
    files = ["model.safetensors"]
    if len(shards) > 1:
        files = [f"model-{i:05d}-of-{len(shards):05d}.safetensors" for i in range(1, len(shards) + 1)]
        index = {
            "metadata": {"total_size": sum(sizes.values())},
            "weight_map": {name: file for file, shard in zip(files, shards, strict=True) for name in shard},
        }
        write_json(directory / "model.safetensors.index.json", index)
    return {
        file: save_tensors(directory / file, {name: names[name] for name in shard}, state, dtype, maker=maker)
        for file, shard in zip(files, shards, strict=True)
    }


def save_tensors(
    file: Path,
    names: Mapping[str, tuple[int, ...]],
    state: Mapping[str, Tensor],
    dtype: torch.dtype,
    *,
    maker: str = "the model",
) -> str:
    """Write tensors into one safetensors file, as `save_weights` does; returns its SHA-256, 64 hex digits."""
    sizes = _sizes(names, dtype)
    with _one_thread(), _Writer(file) as out:
        out.write(_header({name: (shape, sizes[name]) for name, shape in names.items()}, dtype))
        for name in names:
            for block in written_blocks(in_blocks(state, name), dtype, name, maker):
                content = block.contiguous()
                out.write(content.flatten().view(torch.uint8).numpy().data)
    return out.digest


def save_small_files(directory: Path, facts: Mapping[str, Any], files: Mapping[str, Path], dtype: torch.dtype) -> None:
    """Write config.json with these `facts`, and copy tokenizer and generation files.

    The copies are unchanged, except that local paths are removed from the tokenizer's settings.
    """
    content = {key: value for key, value in facts.items() if key not in ("_name_or_path", "torch_dtype")}
    content["dtype"] = str(dtype).removeprefix("torch.")
    if not content.get("architectures"):
        from .config import build_config
        from .model import empty_model

        content["architectures"] = [type(empty_model(build_config(facts, directory.name))).__name__]
    write_json(directory / "config.json", content)
    copy_small_files(directory, {name: path for name, path in files.items() if name != "config.json"})


def copy_small_files(directory: Path, files: Mapping[str, Path]) -> None:
    """Copy small files unchanged, except that local paths are removed from the tokenizer's settings."""
    for name, path in files.items():
        (directory / name).parent.mkdir(exist_ok=True)  # additional chat templates are in a subfolder
        if name == TOKENIZER_SETTINGS:
            settings = parse_object(path.read_bytes(), f"'{name}'")
            write_json(directory / name, {key: value for key, value in settings.items() if key not in LOCAL_PATHS})
        else:
            shutil.copyfile(path, directory / name)


def digest(state: Mapping[str, Tensor]) -> str:
    """SHA-256 over the names, shapes and values (as float32) of all tensors, sorted by name; 64 hex digits."""
    sha256 = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].to("cpu", torch.float32).contiguous()
        sha256.update(f"{name}{list(tensor.shape)}".encode())
        sha256.update(tensor.flatten().view(torch.uint8).numpy().data)
    return sha256.hexdigest()


def _sizes(shapes: Mapping[str, tuple[int, ...]], dtype: torch.dtype) -> dict[str, int]:
    """The bytes of tensors of these shapes."""
    return {name: torch.Size(shape).numel() * dtype.itemsize for name, shape in shapes.items()}


def _header(tensors: Mapping[str, tuple[tuple[int, ...], int]], dtype: torch.dtype) -> bytes:
    """The first bytes of a safetensors file with tensors of these shapes and sizes in bytes."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, (shape, size) in tensors.items():
        header[name] = {
            "dtype": DTYPE_NAMES[dtype],
            "shape": list(shape),
            "data_offsets": [offset, offset + size],
        }
        offset += size
    raw = json.dumps(header, separators=(",", ":")).encode()
    raw += b" " * (-len(raw) % 8)
    return struct.pack("<Q", len(raw)) + raw


class _Writer:
    """A file that one thread writes and hashes and another flushes to disk, while blocks are computed."""

    def __init__(self, path: Path):
        self._file = path.open("wb", buffering=0)
        self._hash, self._unflushed = hashlib.sha256(), 0
        self._writer, self._flusher = ThreadPoolExecutor(1), ThreadPoolExecutor(1)
        self._waiting: deque[Future[None]] = deque()
        self._flushing: Future[None] = self._flusher.submit(lambda: None)
        self.digest = ""

    def write(self, content: bytes | memoryview) -> None:
        """Add a block. Raises OSError if an earlier one could not be written."""
        while len(self._waiting) >= AHEAD:
            self._waiting.popleft().result()
        self._waiting.append(self._writer.submit(self._write, memoryview(content)))

    def _write(self, content: memoryview) -> None:
        self._hash.update(content)
        self._unflushed += len(content)
        while len(content):
            content = content[self._file.write(content) :]
        if self._unflushed > FLUSH_BYTES and self._flushing.done():
            self._flushing.result()
            self._unflushed, self._flushing = 0, self._flusher.submit(os.fdatasync, self._file.fileno())

    def __enter__(self) -> _Writer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                for future in self._waiting:
                    future.result()
                self._flushing.result()
                self.digest = self._hash.hexdigest()
        finally:
            self._writer.shutdown(cancel_futures=True)
            self._flusher.shutdown()
            self._file.close()


@contextmanager
def _one_thread() -> Iterator[None]:
    """Run torch in one thread: blocks are too small to share, and the other cores read and write."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
