from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from isthmus.checkpoint.errors import CorruptCheckpoint
from isthmus.checkpoint.headers import ITEM_BITS, TensorInfo, read_header


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    save_file({"a": torch.zeros(3, 4), "b": torch.zeros(5, dtype=torch.bfloat16)}, path, metadata={"format": "pt"})
    return path


def test_reads_names_shapes_and_dtypes(file: Path) -> None:
    assert read_header(file, "m") == {"a": TensorInfo("F32", (3, 4)), "b": TensorInfo("BF16", (5,))}


@pytest.mark.parametrize("dtype", ITEM_BITS)
def test_every_dtype_of_the_format_is_read(tmp_path: Path, dtype: str) -> None:
    header = {"a": {"dtype": dtype, "shape": [4, 2], "data_offsets": [0, ITEM_BITS[dtype]]}}
    raw = json.dumps(header).encode()
    raw += b" " * (-len(raw) % 8)
    path = tmp_path / "model.safetensors"
    path.write_bytes(struct.pack("<Q", len(raw)) + raw + bytes(ITEM_BITS[dtype]))
    assert read_header(path, "m") == {"a": TensorInfo(dtype, (4, 2))}
    with safe_open(path, "pt") as library:
        assert list(library.keys()) == ["a"]


def rewrite(file: Path, change: Callable[[dict], None]) -> None:
    """Change the header and keep the data."""
    raw = file.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + length])
    change(header)
    new = json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(new)) + new + raw[8 + length :])


DAMAGE = {
    "empty": lambda f: f.write_bytes(b""),
    "half the length": lambda f: f.write_bytes(f.read_bytes()[:4]),
    "half the header": lambda f: f.write_bytes(f.read_bytes()[:40]),
    "half the data": lambda f: f.write_bytes(f.read_bytes()[:-20]),
    "more data": lambda f: f.write_bytes(f.read_bytes() + b"123"),
    "a huge length": lambda f: f.write_bytes(b"\xff" * 8 + f.read_bytes()[8:]),
    "no JSON": lambda f: f.write_bytes(struct.pack("<Q", 4) + b"{{{{"),
    "a list": lambda f: f.write_bytes(struct.pack("<Q", 2) + b"[]"),
    "an unknown dtype": lambda f: rewrite(f, lambda h: h["a"].update(dtype="X7")),
    "a wrong shape": lambda f: rewrite(f, lambda h: h["a"].update(shape=[3, 5])),
    "no offsets": lambda f: rewrite(f, lambda h: h["a"].pop("data_offsets")),
    "three offsets": lambda f: rewrite(f, lambda h: h["a"]["data_offsets"].append(0)),
    "overlapping offsets": lambda f: rewrite(f, lambda h: h["a"].update(data_offsets=h["b"]["data_offsets"])),
    "a pointer file": lambda f: f.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 12\n"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_one_clear_sentence(file: Path, damage: str) -> None:
    DAMAGE[damage](file)
    with pytest.raises(CorruptCheckpoint, match=r"'model\.safetensors' of 'm' .*: fetch"):
        read_header(file, "m")
