"""The ranking of methods by what chose, with what they do on the rest beside it, in figures and in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ...eval.loss import SURE, Losses
from ..measured import losses_json
from ..task_scores import scores_json
from .comparison_state import MethodResult, Result
from .methods import AVERAGE

ENSEMBLE = "ensemble"
Facts = Mapping[str, Any]


def ranked(done: Sequence[MethodResult], references: Sequence[MethodResult], objective: str) -> dict[str, Any]:
    """The methods from the best on, by what chose: those that failed last; the models beside them; the winner.

    The winner is the first, where it is better than the plain average by more than the noise on what chose, and not
    worse by more than the noise on what reports; else it is the plain average. `on_par` are those that the noise does
    not tell from the first on what chose.
    """
    average = next(one.result for one in done if one.name == AVERAGE)
    assert average is not None, "the average of finite weights is finite"
    able = {one.name: one.result for one in done if one.result is not None}
    order = sorted(able, key=lambda name: _judged_by(able[name], "select", objective).mean)
    first = order[0] if _surely_better(able[order[0]], average, "select", objective) else AVERAGE
    on_par = [
        name for name in order if name != first and not _surely_better(able[first], able[name], "select", objective)
    ]
    winner = AVERAGE if _surely_better(average, able[first], "report", objective) else first
    by_name = {one.name: one for one in done}
    record = by_name[winner].record
    return {
        "methods": [
            *(_row(by_name[name], average) for name in order),
            *(
                {"name": one.name, "failed": one.failed, "seconds": one.record["seconds"]}
                for one in done
                if one.result is None
            ),
        ],
        "references": [_row(one, average) for one in references],
        "first": first,
        "winner": winner,
        "on_par": on_par,
        "recipe": record["recipe"],
        "merge_command": record["merge_command"],
    }


def _judged_by(result: Result, part: str, objective: str) -> Losses:
    """What is lower for a better method on a part: losses, or shares of wrong answers."""
    if objective == "mean":
        return result.losses[part]
    return Losses({label: 1 - values for label, values in result.tasks[part].per_block.items()})


def _surely_better(one: Result, other: Result, part: str, objective: str) -> bool:
    return (_judged_by(other, part, objective) - _judged_by(one, part, objective)).is_surely_positive


def _row(one: MethodResult, average: Result) -> dict[str, Any]:
    """A method, or a model beside them, in the report: on what reports, and against the plain average there."""
    assert one.result is not None
    own = one.result.losses["report"]
    gain = average.losses["report"] - own
    row: dict[str, Any] = {
        "name": one.name,
        **losses_json(own),
        "gain": gain.mean,
        "gain_stderr": gain.stderr,
        **{key: value for key, value in one.record.items() if key != "base"},
    }
    if "select" in one.result.losses:
        row["select_loss"] = one.result.losses["select"].mean
    if "report" in one.result.tasks:
        scores = one.result.tasks["report"]
        over = scores - average.tasks["report"]
        tasks = scores_json(scores)
        for label, values in over.per_block.items():
            difference = Losses({label: values})
            tasks[label] |= {"over_average": difference.mean, "over_average_stderr": difference.stderr}
        row["tasks"] = tasks
    if "select" in one.result.tasks:
        row["select_score"] = one.result.tasks["select"].mean
    return row


def compared(report: Facts) -> list[str]:
    """Which method is the best, by how much, and which others are as good: sentences without full stops."""
    rows = {row["name"]: row for row in report["methods"] if "failed" not in row}
    first, winner, by_tasks = rows[report["first"]], rows[report["winner"]], report["objective"] == "task"
    what = "the documents that choose" if by_tasks else "the text that chooses"
    if first["name"] == AVERAGE:
        others = "no method" if len(rows) > 1 else "nothing else was asked for, so that no method"
        lines = [f"{others} is better than the plain average by more than the noise, on {what}: take that"]
    else:
        lines = [f"the best on {what}: {_named(first)}", *_against_average(first, by_tasks=by_tasks)]
    if report["on_par"]:
        lines.append(f"within the noise of it there: {', '.join(report['on_par'])}")
    if first["name"] != winner["name"]:
        lines.append("so what was chosen does not hold on what chose nothing: take the plain average, or more text")
    best = min((row for row in report["references"] if row["name"] != ENSEMBLE), key=lambda row: row["loss"])
    gain = best["loss"] - winner["loss"]
    verb = "below" if gain >= 0 else "above"
    whose = "its loss" if first["name"] == winner["name"] else "the loss of the plain average"
    lines.append(f"{whose} is {abs(gain):.3f} nats {verb} that of the best model ({best['name']})")
    lines += [f"{row['name']} failed: {row['failed']}" for row in report["methods"] if "failed" in row]
    return lines


def _named(row: Facts) -> str:
    if row.get("search") is None:
        return str(row["name"])
    of = "" if row["granularity"] == "model" else f" by {row['granularity']}"
    return f"{row['name']}, with weights{of} that {row['search']} found"


def _against_average(row: Facts, *, by_tasks: bool) -> list[str]:
    lines = []
    for label, own in row.get("tasks", {}).items() if by_tasks else ():
        difference = _difference(100 * own["over_average"], 100 * own["over_average_stderr"], "points", 1)
        lines.append(f"on documents of '{label}' that chose nothing, {difference}")
    lines.append(f"on text that chose nothing, {_difference(row['gain'], row['gain_stderr'], 'nats', 4)}")
    return lines


def _difference(gain: float, error: float, unit: str, digits: int) -> str:
    """A gain over the plain average, in words."""
    if abs(gain) <= SURE * error:
        noise = f"{gain:+.{digits}f} ± {error:.{digits}f} {unit}"
        return f"it and the plain average are equally good within the noise ({noise})"
    verb = "better" if gain > 0 else "worse"
    return f"it is {verb} than the plain average by {abs(gain):.{digits}f} ± {error:.{digits}f} {unit}"


def table(report: Facts) -> tuple[tuple[str, ...], list[tuple[str, list[str]]]]:
    """The columns of the ranking and its rows, by name."""
    labels, tasks = [part["label"] for part in report["data"]], [task["label"] for task in report["tasks"]]
    columns = [*labels, *(["mean"] if len(labels) > 1 else []), "against average", *tasks, "select", "seconds"]
    rows = []
    for row in [*report["methods"], *report["references"]]:
        if "failed" in row:
            rows.append((row["name"], ["failed", *[""] * (len(columns) - 2), f"{row['seconds']:.0f}"]))
            continue
        cells = [f"{row['losses'][label]:.3f}" for label in labels]
        cells += [f"{row['loss']:.3f}"] if len(labels) > 1 else []
        cells.append("" if row["name"] == AVERAGE else f"{0.0 - row['gain']:+.4f} ± {row['gain_stderr']:.4f}")
        cells += [f"{100 * row['tasks'][label]['score']:.1f} %" for label in tasks]
        chosen = row.get("select_score", row.get("select_loss"))
        cells.append("" if chosen is None else f"{100 * chosen:.1f} %" if "select_score" in row else f"{chosen:.3f}")
        cells.append(f"{row['seconds']:.0f}" if "seconds" in row else "")
        rows.append((row["name"], cells))
    return tuple(columns), rows
