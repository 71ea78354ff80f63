from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from isthmus.eval.text_hashes import WINDOW, TextHashes

TEXT = torch.arange(10_000, 10_000 + 6 * 160)
TRAINED = TEXT[160:480].view(2, 160)


def shares(block: torch.Tensor) -> int:
    """The length of the longest run of a block (of TEXT) that was trained on."""
    return int(torch.isin(block, TRAINED).sum())


def test_a_block_that_shares_a_window_with_what_was_trained_on_is_found() -> None:
    seen = TextHashes.of([TRAINED])
    for start in range(len(TEXT) - 160):
        block = TEXT[start : start + 160]
        if shares(block) == 0:
            assert not seen.within(block[None]).any()
        elif shares(block) >= WINDOW:
            assert seen.within(block[None]).all(), start


def test_every_window_is_found_where_all_are_hashed() -> None:
    seen = TextHashes.of([TRAINED], every=1)
    middle = torch.cat([torch.arange(50), TRAINED[0, 30 : 30 + WINDOW], torch.arange(46)])
    assert seen.within(middle[None]).all()
    assert not TextHashes.of([TRAINED]).within(middle[None]).any()
    assert not seen.within(torch.cat([torch.arange(50), TRAINED[0, 30 : 29 + WINDOW], torch.arange(47)])[None]).any()


def test_blocks_shorter_than_a_window_are_hashed_whole() -> None:
    blocks = torch.arange(40).view(4, 10)
    assert TextHashes.of([blocks[1:3]]).within(blocks).tolist() == [False, True, True, False]
    assert TextHashes().within(blocks).tolist() == [False] * 4


def test_hashes_come_back_and_hold_no_text(tmp_path: Path) -> None:
    seen = TextHashes.of([TRAINED, TRAINED + 5])
    seen.save(tmp_path / "seen.safetensors")
    assert TextHashes.load(tmp_path / "seen.safetensors") == seen
    stored = load_file(tmp_path / "seen.safetensors")
    assert [(name, value.shape[1], value.dtype) for name, value in stored.items()] == [("windows", 8, torch.uint8)]
    TextHashes().save(tmp_path / "empty.safetensors")
    assert TextHashes.load(tmp_path / "empty.safetensors") == TextHashes()
    (tmp_path / "other.safetensors").write_bytes(b"no")
    with pytest.raises(SafetensorError):
        TextHashes.load(tmp_path / "other.safetensors")
