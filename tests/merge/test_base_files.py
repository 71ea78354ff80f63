from __future__ import annotations

from pathlib import Path

import pytest


@pytest.mark.parametrize("method", ["ties", "task_arithmetic", "model_stock"])
def test_the_files_of_a_base_are_there_until_the_merge_is_saved(saved, isthmus, tmp_path: Path, method: str) -> None:
    """Nothing but the result refers to the base any more when it is saved, and its tokenizer goes along."""
    a, b = (saved(name, seed, tokenizer=True, vocab_size=1024) for seed, name in enumerate("ab"))
    found = isthmus("merge", a, b, "-o", tmp_path / "out", "--method", method, "--base", a)
    assert found.code in (0, 2), found.err
    if found.code == 2:  # some methods need more models
        found = isthmus("merge", a, b, saved("c", 2, tokenizer=True, vocab_size=1024), "-o", tmp_path / "out",
                        "--method", method, "--base", a)  # fmt: skip
    assert found.code == 0, found.err
    assert (tmp_path / "out" / "tokenizer.json").read_bytes() == (a / "tokenizer.json").read_bytes()
