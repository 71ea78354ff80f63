"""Merges judged by tasks: the table, the report, the card and the gates; t chosen by documents that do not report."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from classifiers import labelled, saved_classifier
from conftest import EMBEDDED, Outcome
from tasks import by_the_harness, questions_file, task_directory

CLI = Callable[..., Outcome]
PAIR = (EMBEDDED / "docs", EMBEDDED / "code")
SHORT = ("--data", "stdlib:docs:heldout", "--tokens", "256", "--align", "none", "--no-spectrum", "--context", "64")


def test_scores_are_those_of_the_files_and_shown(tmp_path: Path, isthmus: CLI) -> None:
    tasks = task_directory(tmp_path / "tasks")
    file = questions_file(tmp_path / "q.jsonl", rows=20)
    words = ("--t", "0.5", "--task", f"own={file}", "--task", "local_choice", "--task-path", tasks)
    directory = tmp_path / "out"
    outcome = isthmus("merge", *PAIR, "-o", directory, *SHORT, *words, "--dtype", "float32")
    assert outcome.code == 0, outcome.err
    report: dict[str, Any] = json.loads((directory / "isthmus.json").read_text())
    for model, shown in zip((directory, *PAIR), (report["merge_point"], *report["endpoints"]), strict=True):
        expected = by_the_harness(model, ["local_choice"], 64, [str(tasks)])["local_choice"]
        assert shown["tasks"]["local_choice"]["score"] == pytest.approx(expected["acc_norm,none"])
        assert shown["tasks"]["local_choice"]["stderr"] == pytest.approx(expected["acc_norm_stderr,none"])
    assert [task["label"] for task in report["tasks"]] == ["own", "local_choice"]
    assert report["tasks"][0] == {"label": "own", "metric": "acc_norm", "report_documents": 20, "select_documents": 0}
    own, baselines = report["merge_point"]["tasks"]["own"], report["baselines"]
    best = max(end["tasks"]["own"]["score"] for end in report["endpoints"])
    assert own["gain"] == pytest.approx(own["score"] - best)
    assert own["over_average"] == pytest.approx(own["score"] - baselines["naive_average"]["tasks"]["own"]["score"])
    assert 0 <= baselines["ensemble"]["tasks"]["own"]["score"] <= 1
    assert "lm_eval" in report["versions"]
    card = (directory / "README.md").read_text()
    assert f"own: {100 * own['score']:.1f} ± {100 * own['stderr']:.1f} % (acc_norm, 20 documents)" in outcome.err
    assert f"own: {100 * own['score']:.1f}" in card
    assert "- type: acc_norm" in card
    assert "--task own=q.jsonl --task local_choice --task-path ./tasks" in report["reproduce"]
    assert str(tmp_path) not in (directory / "isthmus.json").read_text()


def test_a_gate_refuses_and_saves_nothing(tmp_path: Path, isthmus: CLI) -> None:
    file = questions_file(tmp_path / "q.jsonl", rows=12)
    words = ("--t", "0.5", "--task", file, "--require-task", "q>=99.9%")
    outcome = isthmus("merge", *PAIR, "-o", tmp_path / "out", *SHORT, *words)
    assert outcome.code == 3
    assert "% on 'q', below --require-task q>=99.9%; nothing was saved" in outcome.error
    assert not (tmp_path / "out").exists()


def test_t_is_chosen_on_documents_that_do_not_report(tmp_path: Path, isthmus: CLI) -> None:
    file = questions_file(tmp_path / "q.jsonl", rows=100)
    words = ("--task", file, "--objective", "task", "--interior", "0.4")
    outcome = isthmus("merge", *PAIR, "-o", tmp_path / "out", *SHORT, *words)
    assert outcome.code == 0, outcome.err
    report = json.loads((tmp_path / "out" / "isthmus.json").read_text())
    assert report["merge_point"]["t"] in (0.4, 0.5, 0.6)
    (task,) = report["tasks"]
    assert (task["select_documents"], task["report_documents"]) == (50, 50)


REFUSED: dict[str, tuple[tuple[str, ...], str]] = {
    "without text": (("--task", "Q", "--t", "0.5", "--align", "none"), "beside the loss on text: add --data"),
    "a path and no task": (("--task-path", "D", *SHORT), "--task-path is for --task"),
    "an objective and no task": (("--objective", "task", *SHORT), "--objective task chooses by tasks: add --task"),
    "too few to choose by": (("--task", "Q", "--objective", "task", *SHORT), "too few to choose by"),
    "a gate of another task": (("--task", "Q", "--require-task", "z>=0.5", *SHORT), "the tasks are q"),
    "more than memory": (
        ("--task", "Q", "--method", "linear", "--max-memory", "1GB", *SHORT[:4]),
        "needs the models in memory",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_makes_no_sense_is_refused(case: str, tmp_path: Path, isthmus: CLI) -> None:
    words, message = REFUSED[case]
    file, folder = questions_file(tmp_path / "q.jsonl", rows=8), tmp_path
    given = [{"Q": str(file), "D": str(folder)}.get(word, word) for word in words]
    outcome = isthmus("merge", *PAIR, "-o", tmp_path / "out", *given)
    assert outcome.code == 2, outcome.err
    assert message in outcome.error
    assert outcome.error.count("\n") == 1


def test_classifiers_have_no_tasks(tmp_path: Path, isthmus: CLI) -> None:
    models = [saved_classifier(tmp_path / name, seed=seed) for seed, name in enumerate("ab")]
    data = labelled(tmp_path / "x.jsonl")
    words = ("--data", data, "--tokens", "400", "--t", "0.5", "--align", "none")
    file = questions_file(tmp_path / "q.jsonl", rows=8)
    outcome = isthmus("merge", *models, "-o", tmp_path / "out", *words, "--task", file)
    assert outcome.code == 2
    assert "--task asks language models, and 'a' writes no text" in outcome.error
