"""Weights that are chosen by tasks: on half of their documents, and judged on the other half."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import EMBEDDED
from interrupting import Interrupted
from tasks import contrary_model, python_file, questions_file

from isthmus.checkpoint.errors import BadInput
from isthmus.merge.pipeline import merge_models
from isthmus.merge.plans import MergePlan, SearchPlan, SpectrumPlan
from isthmus.merge.recipes.recipe import recipe

SHORT: dict[str, Any] = {"data": ("stdlib:docs:heldout",), "tokens": 128, "context": 64, "align": "none"}
QUIET = SpectrumPlan(measure=False)


@pytest.fixture(scope="module")
def contrary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return contrary_model(tmp_path_factory.mktemp("contrary") / "contrary")


def plan_of(file: Path, search: SearchPlan) -> MergePlan:
    return MergePlan(tasks=(str(file),), objective="task", search=search, spectrum=QUIET, **SHORT)


@pytest.mark.parametrize("method", ["cma", "coordinate"])
def test_weights_are_better_on_documents_that_did_not_choose(method: Any, contrary: Path, tmp_path: Path) -> None:
    file = python_file(tmp_path / "python.jsonl")
    plan = plan_of(file, SearchPlan(method, evaluations=20))
    report = merge_models(recipe("linear", [str(EMBEDDED / "code"), str(contrary)]), plan).report
    (task,), soup, own = report["tasks"], report["soup"], report["merge_point"]["tasks"]["python"]
    assert (task["select_documents"], task["report_documents"]) == (50, 50)
    assert soup["weights"][0] > 0.5
    assert soup["objective"] == "task"
    assert soup["select_loss"] < soup["select_loss_uniform"]
    average = report["baselines"]["naive_average"]["tasks"]["python"]
    assert own["over_equal"] == pytest.approx(own["score"] - average["score"]), "equal weights are the plain average"
    assert own["over_equal"] > 2 * own["over_equal_stderr"]


def test_a_search_that_finds_nothing_says_so(tmp_path: Path, isthmus: Any) -> None:
    """The answers were drawn by lot."""
    file = questions_file(tmp_path / "lot.jsonl", rows=100)
    words = ("--task", file, "--objective", "task", "--search", "cma", "--evaluations", 6, "--method", "linear")
    text = ("--data", "stdlib:docs:heldout", "--tokens", 256, "--context", 64, "--align", "none", "--no-spectrum")
    models = (EMBEDDED / "docs", EMBEDDED / "code")
    outcome = isthmus("merge", *models, "-o", tmp_path / "out", *words, *text)
    assert outcome.code == 0, outcome.err
    assert "choosing weights by tasks bought nothing on documents of 'lot' that it did not see: +0.0" in outcome.err
    soup = json.loads((tmp_path / "out" / "isthmus.json").read_text())["soup"]
    assert soup["weights"] == [0.5, 0.5]
    assert "--objective" not in soup["command"]


def test_an_interrupted_search_goes_on_to_the_same_merge(contrary: Path, tmp_path: Path) -> None:
    plan = plan_of(python_file(tmp_path / "python.jsonl"), SearchPlan("cma", evaluations=6))
    models = recipe("linear", [str(EMBEDDED / "code"), str(contrary)])
    whole = merge_models(models, plan, beside=tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        merge_models(models, plan, beside=tmp_path / "stopped", progress=Interrupted(3))
    resumed = merge_models(models, plan, beside=tmp_path / "stopped")
    assert all(torch.equal(whole.state[name], resumed.state[name]) for name in whole.state)
    for report in (whole.report, resumed.report):
        report["soup"].pop("seconds")
    assert whole.report["soup"] == resumed.report["soup"]


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"search": SearchPlan("gradient")}, "scores on tasks have no slopes to follow"),
        ({"search": None}, "--objective task chooses weights: add --search cma"),
        ({"objective": "worst"}, "leave out --objective worst"),
    ],
)
def test_what_tasks_cannot_choose_is_refused(fields: dict[str, Any], sentence: str, tmp_path: Path) -> None:
    asked = {"search": SearchPlan("cma"), "objective": "task", **fields}
    plan = MergePlan(tasks=(str(questions_file(tmp_path / "q.jsonl")),), **asked, **SHORT)
    with pytest.raises(BadInput, match=sentence):
        merge_models(recipe("linear", ["./gone-a", "./gone-b"]), plan)
