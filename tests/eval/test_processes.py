from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import torch
from conftest import EMBEDDED

from isthmus.eval.processes import is_main, several, shared


def test_alone_everything_is_ones_own() -> None:
    rows = torch.arange(5)
    assert is_main()
    assert not several()
    assert torch.equal(shared(rows, lambda mine: 2 * mine), 2 * rows)


def test_two_processes_train_and_measure_what_one_does(tmp_path: Path) -> None:
    """gloo on the CPU; an odd number of blocks, so that the shares differ; rank 0 alone writes and speaks."""
    models = [EMBEDDED / "adamw-1", EMBEDDED / "muon-1"]
    options = ["--data", "stdlib:docs:heldout", "--align", "orthogonal", "--tokens", 1100, "--steps", 6, "--batch", 4]
    launch = ["accelerate.commands.launch", "--cpu", "--num_processes"]
    done = {}
    for count in (1, 2):
        command = [sys.executable, "-m", *launch, count, "-m", "isthmus", "path", *models, "-o", tmp_path / str(count)]
        done[count] = subprocess.run([*map(str, command), *map(str, options)], capture_output=True, text=True)
        assert done[count].returncode == 0, done[count].stderr
    one, two = (json.loads((tmp_path / str(count) / "isthmus.json").read_text()) for count in (1, 2))
    for profile in ("profile", "line_profile", "naive_profile"):
        for mine, theirs in zip(one[profile], two[profile], strict=True):
            assert abs(mine["loss"] - theirs["loss"]) < 1e-5
    assert one["path"]["steps"] == two["path"]["steps"] == 6
    assert done[2].stderr.count("the path is written to") == 1
