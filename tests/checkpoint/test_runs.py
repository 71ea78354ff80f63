from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from conftest import EMBEDDED
from safetensors.torch import load_file

from isthmus.checkpoint.errors import BadInput
from isthmus.checkpoint.runs import by_number, expanded, is_pattern, last


@pytest.fixture
def run(saved, tmp_path: Path) -> Path:
    """Three checkpoints as a Trainer leaves them."""
    (tmp_path / "run").mkdir()
    for seed, step in enumerate((500, 1000, 1500)):
        saved(f"run/checkpoint-{step}", seed, vocab_size=1024)
        for file in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(EMBEDDED / "docs" / file, tmp_path / "run" / f"checkpoint-{step}" / file)
        torch.save({"param_groups": [{}], "state": {}}, tmp_path / "run" / f"checkpoint-{step}" / "scheduler.pt")
    return tmp_path / "run"


def test_checkpoints_are_in_the_order_of_their_steps(run: Path) -> None:
    assert [Path(name).name for name in expanded([f"{run}/checkpoint-*"])] == [
        "checkpoint-500",
        "checkpoint-1000",
        "checkpoint-1500",
    ]
    assert [Path(name).name for name in last(sorted(expanded([f"{run}/*"])), 2)] == [
        "checkpoint-1000",
        "checkpoint-1500",
    ]
    assert sorted(["b-2", "a-10", "b-10", "a-9"], key=by_number) == ["a-9", "a-10", "b-2", "b-10"]


def test_a_model_that_is_named_is_not_matched_again(run: Path) -> None:
    first = str(run / "checkpoint-1000")
    names = [Path(name).name for name in expanded([first, f"{run}/checkpoint-*"])]
    assert names == ["checkpoint-1000", "checkpoint-500", "checkpoint-1500"]


def test_adapters_of_a_run_go_with_their_base(run: Path) -> None:
    assert expanded([f"user/base+{run}/checkpoint-1*"]) == [
        f"user/base+{run}/checkpoint-1000",
        f"user/base+{run}/checkpoint-1500",
    ]


def test_what_exists_is_no_pattern(tmp_path: Path) -> None:
    (tmp_path / "a[1]").mkdir()
    assert not is_pattern(str(tmp_path / "a[1]"))
    assert not is_pattern("user/model")
    assert is_pattern("run/checkpoint-*")


def test_a_pattern_is_a_soup(run: Path, tmp_path: Path, isthmus) -> None:
    assert isthmus("merge", f"{run}/checkpoint-*", "--last", "2", "-o", tmp_path / "out", "--align", "none").code == 0
    states = [load_file(run / f"checkpoint-{step}" / "model.safetensors") for step in (1000, 1500)]
    merged = load_file(tmp_path / "out" / "model.safetensors")
    for name, value in merged.items():
        torch.testing.assert_close(value, (states[0][name] + states[1][name]) / 2, atol=1e-6, rtol=0)
    report = json.loads((tmp_path / "out" / "isthmus.json").read_text())
    assert "./checkpoint-1000 ./checkpoint-1500" in report["reproduce"]


def test_a_greedy_soup_takes_what_helps(run: Path, tmp_path: Path, isthmus) -> None:
    options = ("--data", "stdlib:docs", "--tokens", "512", "--soup", "greedy", "--align", "none")
    assert isthmus("merge", f"{run}/checkpoint-*", "-o", tmp_path / "out", *options).code == 0
    report = json.loads((tmp_path / "out" / "isthmus.json").read_text())
    assert len(report["soup"]["weights"]) == 3
    assert report["soup"]["select_loss"] <= report["soup"]["select_loss_uniform"]


@pytest.mark.parametrize(
    ("models", "options", "sentence"),
    [
        (["{run}/step-*"], (), "no directory matches"),
        (["{run}/***", "{run}/checkpoint-500"], (), "no directory matches"),
        (["~no-such-user/*", "{run}/checkpoint-500"], (), "begins with the home of an unknown user"),
        (["{run}/checkpoint-*"], ("--last", "4"), "--last 4 of 3 models: there are fewer"),
        (["{run}/checkpoint-500"], ("--last", "1"), "give two models or more"),
    ],
)
def test_a_bad_pattern_is_said(models, options, sentence, run: Path, tmp_path: Path, isthmus) -> None:
    names = [model.format(run=run) for model in models]
    outcome = isthmus("merge", *names, *options, "-o", tmp_path / "out", "--align", "none")
    assert outcome.code == 2
    assert sentence in outcome.err
    with pytest.raises(BadInput):
        last([], 1)
