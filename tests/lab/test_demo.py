"""`isthmus demo`, as a user sees it: the numbers that it promises are held here."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from files_loss import require_loss_of_files
from token_blocks import labelled_blocks

from isthmus.checkpoint.loading import load
from isthmus.lab.demo import CHECKPOINTS, DATA, EXAMPLES


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """What the demo wrote, and its stderr: of the run that `ISTHMUS_DEMO` names, or of one of our own."""
    import os
    import subprocess
    import sys

    if place := os.environ.get("ISTHMUS_DEMO"):
        return Path(place), Path(f"{place}.log").read_text()
    out = tmp_path_factory.mktemp("demo") / "out"
    offline = {"HF_ENDPOINT": "http://127.0.0.1:9", "PATH": "/usr/bin:/bin", "COLUMNS": "120", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "isthmus", "demo", "-o", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, env=offline)
    assert done.returncode == 0, done.stderr
    return out, done.stderr


def test_both_merges_are_written_whole(shown) -> None:
    out, _ = shown
    for example in EXAMPLES:
        assert {path.name for path in (out / example.name).iterdir()} >= {
            "model.safetensors",
            "report.html",
            "README.md",
        }


def test_the_losses_are_those_of_the_files(shown) -> None:
    out, _ = shown
    for example in EXAMPLES:
        tokenizer = load(CHECKPOINTS / example.a).tokenizer()
        text = labelled_blocks(DATA, tokenizer, context=128, vocabulary=1024)
        require_loss_of_files(out / example.name, {part.label: part.report for part in text})


def test_variants_of_one_base_are_better_merged(shown) -> None:
    out, text = shown
    report = json.loads((out / "docs-code" / "isthmus.json").read_text())
    point = report["merge_point"]
    assert report["alignment"]["method"] == "none"
    assert point["gain"] > 2 * point["gain_stderr"] > 0
    assert "the merge is better than the better endpoint by" in text


def test_strangers_need_alignment_and_their_spectra_meet(shown) -> None:
    out, text = shown
    report = json.loads((out / "adamw-muon" / "isthmus.json").read_text())
    assert report["alignment"]["method"] == "learned"
    assert report["barrier"] < report["barrier_before_alignment"] / 5
    assert report["spectrum"]["verdict"] == "transition"
    assert "nats after learned alignment" in text
    assert "spectrum transition" in text


def test_an_output_that_exists_is_refused_before_any_work(shown, isthmus) -> None:
    out, _ = shown
    again = isthmus("demo", "-o", out)
    assert again.code == 2
    assert "the output directory 'docs-code' is not empty: choose another, or add --overwrite" in again.err


def test_the_command_shown_does_the_same(tmp_path: Path) -> None:
    command = EXAMPLES[0].command(tmp_path)
    assert command.startswith("isthmus merge ")
    assert "--data stdlib:docs:heldout --data stdlib:code:heldout" in command
