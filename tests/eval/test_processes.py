from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import torch

from isthmus.eval.processes import is_main, several, shared


def test_alone_everything_is_ones_own() -> None:
    rows = torch.arange(5)
    assert is_main()
    assert not several()
    assert torch.equal(shared(rows, lambda mine: 2 * mine), 2 * rows)


def test_two_processes_train_and_measure_what_one_does(isthmus, saved, afresh, tmp_path: Path, monkeypatch) -> None:
    """gloo on the CPU; an odd number of blocks, so that the shares differ; rank 0 alone writes and speaks."""
    monkeypatch.setattr("isthmus.merge.training.text.SELECT_BLOCKS", 32)  # as in those processes
    models = [saved(name, seed, vocab_size=1024, tokenizer=True) for seed, name in enumerate("ab")]
    options = ["--data", "stdlib:docs:heldout", "--align", "orthogonal", "--tokens", 352, "--steps", 6, "--batch", 4]
    alone = isthmus("path", *models, "-o", tmp_path / "1", *options)
    assert alone.code == 0, alone.err
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", 2, "-m", "isthmus"]
    command = [*launch, "path", *models, "-o", tmp_path / "2", *options]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    one, two = (json.loads((tmp_path / str(count) / "isthmus.json").read_text()) for count in (1, 2))
    for profile in ("profile", "line_profile", "naive_profile"):
        for mine, theirs in zip(one[profile], two[profile], strict=True):
            assert abs(mine["loss"] - theirs["loss"]) < 1e-5
    assert one["data"][0]["report_tokens"] / 32 % 2 == 1
    assert one["path"]["steps"] == two["path"]["steps"] == 6
    assert done.stderr.count("the path is written to") == 1
