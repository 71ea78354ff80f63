from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import EMBEDDED, tiny_model
from safetensors.torch import load_file
from sharded_jobs import launched
from torch import Tensor
from transformers import AutoModelForCausalLM

from isthmus.eval.processes import in_turn, is_main, several, shared


def test_alone_everything_is_ones_own() -> None:
    rows = torch.arange(5)
    assert is_main()
    assert not several()
    assert torch.equal(shared(rows, lambda mine: 2 * mine), 2 * rows)
    assert in_turn([1, 2, 3], str) == ["1", "2", "3"]


def path_by(
    processes: int, models: Sequence[Path], output: Path, *, sharing: bool = False
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The report of a path, and its bend; gloo on the CPU. An odd number of blocks, so that shares of them differ."""
    options = ["--data", "stdlib:docs:heldout", "--align", "orthogonal", "--tokens", 352, "--steps", 6, "--batch", 4]
    options += ["--bend-lr", 2e-4]
    done = launched(processes, "-m", "isthmus", "path", *models, "-o", output, *options, sharing=sharing)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("the path is written to") == 1  # by the main process
    assert [entry.name for entry in output.parent.iterdir() if entry.name.startswith(f".{output.name}")] == []
    return json.loads((output / "isthmus.json").read_text()), load_file(output / "bends.safetensors")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("models")
    for seed, name in enumerate("ab"):
        tiny_model(seed, vocab_size=1024).save_pretrained(folder / name)
        for file in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(EMBEDDED / "docs" / file, folder / name / file)
    return [folder / name for name in "ab"]


@pytest.fixture(scope="module")
def alone(models, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], dict[str, Tensor]]:
    return path_by(1, models, tmp_path_factory.mktemp("alone") / "path")


@pytest.mark.parametrize(("processes", "sharing"), [(2, False), (2, True), (4, True)])
def test_processes_train_and_measure_what_one_does(
    alone, models, processes: int, sharing: bool, tmp_path: Path
) -> None:
    """With all weights in each of them, and sharing them: the same profile, and the same bend but for rounding."""
    report, bend = path_by(processes, models, tmp_path / "path", sharing=sharing)
    expected, bend_of_one = alone
    for profile in ("profile", "line_profile", "naive_profile"):
        for mine, theirs in zip(report[profile], expected[profile], strict=True):
            assert abs(mine["loss"] - theirs["loss"]) < 1e-5
    assert expected["data"][0]["report_tokens"] / 32 % 2 == 1
    assert report["path"]["steps"] == 6
    for mine, theirs in zip(report["path"]["history"], expected["path"]["history"], strict=True):
        assert mine == pytest.approx(theirs, abs=1e-5)
    assert report["path"]["best_step"] > 0
    apart = max(float((bend[name] - bend_of_one[name]).abs().max()) for name in bend)
    assert apart < 1e-4
    assert report["spectrum"]["excess"] == pytest.approx(expected["spectrum"]["excess"], abs=1e-5)


def test_processes_that_share_models_learn_their_alignment(models: list[Path], tmp_path: Path) -> None:
    """From models to a merge that is saved; that its losses are those that are shown is verified before that."""
    out = tmp_path / "merged"
    options = ["--data", "stdlib:docs:heldout", "--tokens", 352, "--align-steps", 8, "--align-batch", 4]
    done = launched(2, "-m", "isthmus", "merge", *models, "-o", out, "--align", "learned", *options)
    assert done.returncode == 0, done.stderr
    report = json.loads((out / "isthmus.json").read_text())
    assert report["alignment"]["method"] == "learned"
    assert report["alignment"]["max_log_prob_error"] < 1e-4
    learning = report["alignment"]["learning"]
    assert learning["best_step"] > 0
    heights = [entry["select_excess"] for entry in learning["history"]]
    assert min(heights) < heights[0]
    assert [entry.name for entry in out.parent.iterdir() if entry.name.startswith(f".{out.name}")] == []
    loaded = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32)
    assert all(bool(parameter.isfinite().all()) for parameter in loaded.parameters())
