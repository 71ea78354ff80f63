"""Tensors in blocks of rows: the same numbers, the same refusals, and never a whole tensor."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from isthmus.checkpoint import rows
from isthmus.checkpoint.errors import CorruptCheckpoint
from isthmus.checkpoint.loading import load
from isthmus.checkpoint.rows import ComputedState, in_blocks, row_counts, rows_of
from isthmus.checkpoint.stored_state import stored_state


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


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("pickled", [False, True])
def test_some_rows_are_those_of_the_tensor(saved, dtype: torch.dtype, pickled: bool, small_blocks: None) -> None:
    """From the disk, of what is computed in blocks or whole; also none, and more than there are."""
    directory = saved("model", dtype=dtype)
    if pickled:
        torch.save(load_file(directory / "model.safetensors"), directory / "pytorch_model.bin")
        (directory / "model.safetensors").unlink()
    state = load(directory).state
    states = [state, ComputedState(state, state.__getitem__, lambda name: in_blocks(state, name))]
    states += [ComputedState(state, state.__getitem__), dict(state)]
    for name in state:
        length = len(state[name])
        for start, stop in ((0, length), (3, 11), (length - 2, length), (length, length + 5), (2, 2)):
            for one in states:
                assert torch.equal(rows_of(one, name, start, stop), state[name][start:stop])


def test_rows_of_a_file_of_tensors_are_checked(tmp_path: Path) -> None:
    tensors = {"a": torch.arange(12.0).view(4, 3), "b": torch.tensor([1.0, float("nan")])}
    save_file(tensors, tmp_path / "file.safetensors")
    state = stored_state(tmp_path / "file.safetensors", "the file")
    assert torch.equal(state["a"], tensors["a"])
    assert torch.equal(rows_of(state, "a", 1, 3), tensors["a"][1:3])
    assert rows_of(state, "b", 0, 1).tolist() == [1]
    with pytest.raises(CorruptCheckpoint, match="'b' of 'the file' holds NaN or Inf"):
        rows_of(state, "b", 1, 2)
    save_file({"a": tensors["a"] + 1}, tmp_path / "file.safetensors")
    with pytest.raises(CorruptCheckpoint, match="was changed"):
        rows_of(state, "a", 1, 3)
