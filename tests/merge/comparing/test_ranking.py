"""Rankings of made-up results, whose right answers are plain."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from stages import Stages

from isthmus.eval.loss import Losses
from isthmus.eval.tasks.task_set import TaskScores
from isthmus.merge.comparing.comparison_state import MethodResult, Result
from isthmus.merge.comparing.estimate import Estimating
from isthmus.merge.comparing.methods import AVERAGE
from isthmus.merge.comparing.ranking import compared, ranked, table

BLOCKS = 64


def result(select: float, report: float, *, noise: float = 0.0, score: float | None = None) -> Result:
    """Losses around means; what `noise` moves is moved block by block."""
    drawn = torch.Generator().manual_seed(int(1000 * select))
    wave = torch.linspace(-1, 1, BLOCKS, dtype=torch.float64)
    own = noise * torch.randn(BLOCKS, generator=drawn, dtype=torch.float64)
    own -= own.mean()
    losses = {"select": Losses({"law": select + wave + own}), "report": Losses({"law": report + wave + own})}
    right = {} if score is None else {"q": (torch.arange(100) < 100 * score).double()}
    return Result(losses, {part: TaskScores(right) for part in ("select", "report")} if right else {})


def row(name: str, own: Result | None, failed: str | None = None) -> MethodResult:
    record = {"search": None, "seconds": 1.0, "recipe": [f"merge_method: {name}"], "merge_command": "isthmus merge"}
    return MethodResult(name, own, record, failed)


def report_of(done: list[MethodResult], objective: str = "mean") -> dict[str, Any]:
    references = [MethodResult("A: a", Result({"report": Losses({"law": torch.full((4,), 3.5)})}, {}), {})]
    facts = {"objective": objective, "data": [{"label": "law"}], "tasks": []}
    return {**facts, **ranked(done, references, objective)}


def test_the_winner_is_chosen_on_select_and_judged_on_report() -> None:
    done = [
        row(AVERAGE, result(3.0, 3.0)),
        row("first", result(2.9, 3.1)),
        row("second", result(2.95, 2.9)),
        row("broken", None, "it is NaN"),
    ]
    report = report_of(done)
    assert [one["name"] for one in report["methods"]] == ["first", "second", AVERAGE, "broken"]
    assert (report["first"], report["winner"], report["on_par"]) == ("first", AVERAGE, [])
    assert report["recipe"] == [f"merge_method: {AVERAGE}"]
    lines = compared(report)
    assert lines[0] == "the best on the text that chooses: first"
    assert lines[1] == "on text that chose nothing, it is worse than the plain average by 0.1000 ± 0.0000 nats"
    assert lines[2].startswith("so what was chosen does not hold on what chose nothing: take the plain average")
    assert lines[3] == "the loss of the plain average is 0.500 nats below that of the best model (A: a)"
    assert lines[-1] == "broken failed: it is NaN"


def test_what_holds_on_report_is_the_winner() -> None:
    report = report_of([row(AVERAGE, result(3.0, 3.0)), row("first", result(2.9, 2.95))])
    assert report["winner"] == "first"
    assert "its loss is 0.550 nats below that of the best model (A: a)" in compared(report)


def test_within_the_noise_the_plain_average_is_taken() -> None:
    done = [row(AVERAGE, result(3.0, 3.0)), row("lucky", result(2.99, 2.99, noise=0.5))]
    report = report_of(done)
    assert (report["winner"], report["on_par"]) == (AVERAGE, ["lucky"])
    assert compared(report)[0].startswith("no method is better than the plain average by more than the noise")


def test_by_tasks_scores_choose() -> None:
    done = [row(AVERAGE, result(3.0, 3.0, score=0.4)), row("clever", result(3.2, 3.2, score=0.9))]
    report = {**report_of(done, "task"), "tasks": [{"label": "q"}]}
    assert report["winner"] == "clever"
    clever = report["methods"][0]
    assert clever["select_score"] == pytest.approx(0.9)
    assert clever["tasks"]["q"]["over_average"] == pytest.approx(0.5)
    columns, rows = table({**report, "references": []})
    assert columns == ("law", "against average", "q", "select", "seconds")
    assert rows[0] == ("clever", ["3.200", "+0.2000 ± 0.0000", "90.0 %", "90.0 %", "1"])


def test_the_errors_are_those_of_paired_differences() -> None:
    one, other = result(3.0, 3.0, noise=0.1), result(2.5, 2.5, noise=0.2)
    report = report_of([row(AVERAGE, one), row("other", other)])
    first = report["methods"][0]
    difference = (one.losses["report"].per_block["law"] - other.losses["report"].per_block["law"]).tolist()
    mean = sum(difference) / BLOCKS
    variance = sum((value - mean) ** 2 for value in difference) / (BLOCKS - 1)
    assert first["gain"] == pytest.approx(mean)
    assert first["gain_stderr"] == pytest.approx((variance / BLOCKS) ** 0.5)


def test_the_estimate_is_what_is_left_at_the_pace_so_far(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("isthmus.merge.comparing.estimate.time.monotonic", lambda: now[0])
    shown = Stages()
    estimating = Estimating(shown, ["a", "b", "c"], [100, 200, 300])
    estimating.begin(0)
    estimating.stage("merging")
    assert estimating.left is None
    now[0] = 50.0
    estimating.end()
    estimating.begin(1)
    now[0] = 60.0
    estimating.stage("merging")
    assert estimating.left == pytest.approx(240)  # 500 at 2 a second, 10 seconds of which are over
    assert shown.names == ["1/3 a: merging", "2/3 b: merging"]
    assert shown.notes == ["about 4 min to go for all"]
