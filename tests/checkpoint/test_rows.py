"""Tensors in blocks of rows: the same numbers, the same refusals, and never a whole tensor."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from isthmus.checkpoint import rows
from isthmus.checkpoint.errors import CorruptCheckpoint
from isthmus.checkpoint.loading import load
from isthmus.checkpoint.rows import in_blocks, row_counts


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "BLOCK", 200)


@pytest.mark.parametrize("shape", [(7,), (1000,), (7, 30), (3, 500), (1, 1)])
def test_counts_are_all_rows_and_no_block_is_larger_than_it_has_to_be(
    shape: tuple[int, ...], small_blocks: None
) -> None:
    counts = row_counts(shape)
    items = shape[1] if len(shape) > 1 else 1
    assert sum(counts) == shape[0]
    assert all(count * items <= 200 or count == 1 for count in counts)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_blocks_from_disk_are_the_tensor(saved, dtype: torch.dtype, small_blocks: None) -> None:
    state = load(saved("model", dtype=dtype)).state
    for name in state:
        blocks = list(in_blocks(state, name))
        assert torch.equal(torch.cat(blocks), state[name])
        assert [len(block) for block in blocks] == row_counts(state[name].shape)
        assert all(block.dtype == torch.float32 for block in blocks)
    assert len(list(in_blocks(state, "transformer.wte.weight"))) > 1


def test_blocks_of_pickled_weights_and_of_states_in_memory(saved, small_blocks: None) -> None:
    directory = saved("model")
    torch.save(load_file(directory / "model.safetensors"), directory / "pytorch_model.bin")
    (directory / "model.safetensors").unlink()
    state = load(directory).state
    memory = {name: state[name] for name in state}
    for name in state:
        found, expected = list(in_blocks(state, name)), list(in_blocks(memory, name))
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize(("value", "said"), [(float("nan"), "NaN or Inf"), (float("inf"), "NaN or Inf")])
def test_what_is_wrong_with_a_tensor_is_found_in_blocks(saved, value: float, said: str, small_blocks: None) -> None:
    directory = saved("model")
    content = load_file(directory / "model.safetensors")
    name = "transformer.h.1.mlp.c_fc.weight"
    content[name][...] = 0.0
    content[name][-1, -1] = value
    save_file(content, directory / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CorruptCheckpoint, match=said):
        list(in_blocks(load(directory).state, name))


def test_a_file_that_is_cut_off_while_it_is_read(saved, small_blocks: None) -> None:
    directory: Path = saved("model")
    state = load(directory).state
    file = directory / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-20_000])
    with pytest.raises(CorruptCheckpoint, match="was changed while it was read"):
        _ = [list(in_blocks(state, name)) for name in state]
