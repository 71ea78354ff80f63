"""Methods side by side: the ranking, its errors, the recipes it gives, and what is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import EMBEDDED
from merging import combine
from safetensors.torch import load_file
from searching import models_around_a_base
from stages import Stages
from tasks import contrary_model, python_file, questions_file
from torch import Tensor

from isthmus.checkpoint.errors import BadInput
from isthmus.checkpoint.serialization import digest
from isthmus.eval.progress import Progress
from isthmus.merge.comparing.comparison import compare
from isthmus.merge.comparing.plan import ComparePlan
from isthmus.merge.operators.custom import merge_method
from isthmus.merge.recipes.mergekit import read_recipe

QUICK: dict[str, Any] = {"data": ("stdlib:docs",), "tokens": 512, "context": 64, "evaluations": 6}
TEXT = {"data": ("stdlib:docs",), "tokens": 512, "context": 64, "measure_spectrum": False}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return models_around_a_base(tmp_path_factory.mktemp("compared"), "abc")


@pytest.fixture(autouse=True)
def _here(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(world)
    monkeypatch.setattr("isthmus.merge.comparing.contestants.STEPS", 4)
    monkeypatch.setattr("isthmus.merge.reading.ACTIVATION_TOKENS", 1024)


@pytest.fixture(scope="module")
def usual(world: Path) -> Iterator[dict[str, Any]]:
    """The report on the usual methods for two models and their base."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(world)
        patch.setattr("isthmus.merge.comparing.contestants.STEPS", 4)
        patch.setattr("isthmus.merge.reading.ACTIVATION_TOKENS", 1024)
        yield compare(["./a", "./b"], ComparePlan(**QUICK), base="./base").report


METHODS = (
    "plain average",
    "linear",
    "slerp",
    "fisher",
    "regmean",
    "task_arithmetic",
    "ties:density=0.5",
    "dare_ties:density=0.5",
    "breadcrumbs:density=0.9",
    "sce:select_topk=0.5",
    "model_stock",
)


def test_the_usual_methods_are_ranked_by_what_chose(usual: dict[str, Any]) -> None:
    rows = usual["methods"]
    assert sorted(row["name"] for row in rows) == sorted(METHODS)
    chosen = [row["select_loss"] for row in rows]
    assert chosen == sorted(chosen)
    searched = {row["name"] for row in rows if row["search"] is not None}
    assert searched == set(METHODS) - {"plain average", "sce:select_topk=0.5", "model_stock"}
    assert [row["name"] for row in usual["references"]] == ["A: a", "B: b", "ensemble", "base: base"]
    assert usual["winner"] in ("plain average", rows[0]["name"])
    assert not {usual["winner"]} & set(usual["on_par"])


@pytest.mark.parametrize("name", METHODS)
def test_the_recipe_of_a_row_makes_its_merge_again(name: str, usual: dict[str, Any], tmp_path: Path) -> None:
    """Bit for bit; and what the row says of its loss is what a merge by the recipe says."""
    row = next(row for row in usual["methods"] if row["name"] == name)
    (tmp_path / "recipe.yml").write_text("\n".join(row["recipe"]))
    again = combine(read_recipe(tmp_path / "recipe.yml"), align="none", **TEXT)
    assert digest({key: again.state[key].to(again.dtype) for key in again.state}) == row["digest"]
    assert again.report["merge_point"]["loss"] == pytest.approx(row["loss"], abs=1e-9)
    assert again.report["merge_point"]["stderr"] == pytest.approx(row["stderr"], abs=1e-9)
    average = again.report["baselines"]["naive_average"]["loss"]
    assert average - row["loss"] == pytest.approx(row["gain"], abs=1e-6)


def test_three_models_go_around_an_arc_in_one(tmp_path: Path) -> None:
    plan = ComparePlan(**QUICK, methods=("karcher", "linear"), granularity="model")
    report = compare(["./a", "./b", "./c"], plan).report
    assert {row["name"] for row in report["methods"]} == {"plain average", "linear", "karcher"}
    assert "base_model" not in "\n".join(report["recipe"])


class Interrupted(Progress):
    """Ctrl-C when a method begins."""

    def __init__(self, at: str):
        self.at = at

    def stage(self, name: str, total: int | None = None) -> None:
        if self.at in name:
            raise KeyboardInterrupt


def without_times(report: dict[str, Any]) -> dict[str, Any]:
    rows = [{key: value for key, value in row.items() if key != "seconds"} for row in report["methods"]]
    return {**report, "methods": rows, "seconds": 0}


def test_a_comparison_that_was_interrupted_goes_on_to_the_same_table(tmp_path: Path) -> None:
    plan = ComparePlan(**QUICK, methods=("linear", "slerp", "ties", "model_stock"))
    whole = compare(["./a", "./b"], plan, base="./base", beside=tmp_path / "whole")
    beside = tmp_path / "stopped"
    for at in ("slerp", "model_stock"):
        with pytest.raises(KeyboardInterrupt):
            compare(["./a", "./b"], plan, base="./base", beside=beside, progress=Interrupted(at))
    with pytest.raises(BadInput, match="--restart"):
        compare(["./b", "./a"], plan, base="./base", beside=beside)
    stages = Stages()
    resumed = compare(["./a", "./b"], plan, base="./base", beside=beside, progress=stages)
    assert without_times(resumed.report) == without_times(whole.report)
    merged = [name for name in stages.names if "/5 " in name]
    assert merged, "the last method is still to be done"
    assert all(name.startswith("5/5 model_stock") for name in merged), merged
    whole.save(tmp_path / "whole")
    resumed.save(beside)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["stopped", "whole"]
    assert sorted(path.name for path in beside.iterdir()) == ["isthmus.json", "recipe.yml"]


def test_on_another_base_all_is_done_again(world: Path, tmp_path: Path) -> None:
    """Its name is the same, and its weights are others."""
    plan = ComparePlan(**QUICK, methods=("task_arithmetic", "model_stock"))
    base, beside = shutil.copytree(world / "base", tmp_path / "base"), tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        compare(["./a", "./b"], plan, base=base, beside=beside, progress=Interrupted("model_stock"))
    shutil.copy(world / "c" / "model.safetensors", base)
    stages = Stages()
    compare(["./a", "./b"], plan, base=base, beside=beside, progress=stages)
    assert any("task_arithmetic" in name for name in stages.names)
    assert not any("plain average" in name for name in stages.names)


def test_the_command_line_and_its_recipe(tmp_path: Path, isthmus: Any) -> None:
    out, words = tmp_path / "out", ("--data", "stdlib:docs", "--tokens", 512, "--context", 64, "--evaluations", 6)
    done = isthmus(
        "compare", "./a", "./b", "--base", "./base", *words, "--method", "linear", "--method", "ties", "-o", out
    )
    assert done.code == 0, done.err
    report = json.loads((out / "isthmus.json").read_text())
    assert "against average" in done.err
    assert "\n".join(report["recipe"]) == (out / "recipe.yml").read_text().strip()
    assert all(line in done.err for line in report["recipe"])
    assert str(tmp_path) not in (out / "isthmus.json").read_text()
    assert f"the winner is made by: isthmus merge {out / 'recipe.yml'} -o merged" in done.err
    again = isthmus("merge", out / "recipe.yml", "-o", tmp_path / "merged")
    assert again.code == 0, again.err
    winner = next(row for row in report["methods"] if row["name"] == report["winner"])
    state: dict[str, Tensor] = load_file(tmp_path / "merged" / "model.safetensors")
    assert digest(state) == winner["digest"]


def test_a_merge_that_is_not_finite_is_listed_and_the_others_go_on() -> None:
    @merge_method("divide_by_nothing")
    def divided(tensors: list[Tensor], base: Tensor | None, **parameters: Any) -> Tensor:
        return tensors[0] / 0

    report = compare(["./a", "./b"], ComparePlan(**QUICK, methods=("divide_by_nothing", "karcher"))).report
    assert [row["name"] for row in report["methods"]][-1] == "divide_by_nothing"
    assert len(report["methods"]) == 3
    assert any(line.startswith("divide_by_nothing failed: ") for line in report["sentences"])


@pytest.fixture(scope="module")
def contrary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return contrary_model(tmp_path_factory.mktemp("contrary") / "contrary")


def test_tasks_choose_weights_and_the_winner_on_half_of_their_documents(contrary: Path, tmp_path: Path) -> None:
    file = python_file(tmp_path / "python.jsonl")
    asked: dict[str, Any] = {**QUICK, "tokens": 128, "tasks": (str(file),), "methods": ("linear",)}
    report = compare([str(EMBEDDED / "code"), str(contrary)], ComparePlan(**asked, objective="task")).report
    (task,) = report["tasks"]
    assert (task["select_documents"], task["report_documents"]) == (50, 50)
    assert report["winner"] == "linear"
    rows = {row["name"]: row for row in report["methods"]}
    own, average = (rows[name]["tasks"]["python"] for name in ("linear", "plain average"))
    assert own["over_average"] == pytest.approx(own["score"] - average["score"])
    assert own["over_average"] > 2 * own["over_average_stderr"]
    assert rows["linear"]["search"] == "coordinate"
    assert rows["linear"]["select_score"] > rows["plain average"]["select_score"]
    assert {row["name"] for row in report["references"]} == {"A: code", "B: contrary", "ensemble"}
    assert all("python" in row["tasks"] for row in report["references"])
    assert any("on documents of 'python' that chose nothing, it is better" in line for line in report["sentences"])


GONE = ("./gone-a", "./gone-b", "--data", "stdlib:docs")
REFUSED: dict[str, tuple[tuple[Any, ...], str]] = {
    "one model": (("./gone-a", "--data", "stdlib:docs"), "methods are compared on two models or more"),
    "no text": (("./gone-a", "./gone-b"), "methods are compared on text: add --data"),
    "an unknown method": ((*GONE, "--method", "tiss"), "tiss"),
    "a method without its base": ((*GONE, "--method", "ties"), "give --base"),
    "a method twice": (
        (*GONE, "--method", "linear", "--method", "linear"),
        "--method linear is given twice",
    ),
    "a parameter of another": (
        (*GONE, "--method", "linear:density=0.5"),
        "linear takes no --parameter density",
    ),
    "half a parameter": (
        (*GONE, "--method", "linear:"),
        "--method takes NAME, or NAME:parameter=value",
    ),
    "no number": (
        (*GONE, "--base", "./gone", "--method", "ties:density=much"),
        "--method takes NAME, or NAME:parameter=value",
    ),
    "weights": (
        (*GONE, "--method", "linear:weight=0.5"),
        "weights are searched for here",
    ),
    "a point of an arc": (
        (*GONE, "--method", "slerp:t=0.3"),
        "weights are searched for here: leave t out",
    ),
    "a method for one": (
        (*GONE, "--base", "./gone", "--method", "arcee_fusion"),
        "arcee_fusion merges 1 model beside the base; got 2",
    ),
    "by no task": ((*GONE, "--objective", "task"), "add --task"),
    "a path of no task": ((*GONE, "--task-path", "."), "is for --task"),
    "nothing to write over": ((*GONE, "--overwrite"), "is for an output"),
    "nothing to restart": ((*GONE, "--restart"), "is for an output"),
    "slopes of scores": (
        (
            "./gone-a",
            "./gone-b",
            "--data",
            "stdlib:docs",
            "--task",
            "Q",
            "--objective",
            "task",
            "--granularity",
            "layer",
        ),
        "--granularity is for weights that are learned by their slopes",
    ),
    "a model that is not there": (("./a", "./gone", "--data", "stdlib:docs"), "gone"),
    "a base that is not there": (("./a", "./b", "--data", "stdlib:docs", "--base", "./gone"), "gone"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_makes_no_sense_is_refused_in_a_sentence(case: str, tmp_path: Path, isthmus: Any) -> None:
    words, message = REFUSED[case]
    file = questions_file(tmp_path / "q.jsonl", rows=100)
    outcome = isthmus("compare", *(str(file) if word == "Q" else word for word in words))
    assert outcome.code == 2, outcome.err
    assert message in outcome.error
    assert outcome.error.count("\n") == 1
