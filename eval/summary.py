"""A merge report as a table: losses of all models, for the terminal, the page and the card alike; and its profiles."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..checkpoint.card import letter
from ..checkpoint.task import CLASSIFIERS, MASKED, TEXTS


@dataclass(frozen=True)
class LossRow:
    """One model of the loss table: its losses by label, then their mean where there are several, in nats per token; of
    classifiers the accuracy, the mean over labels; its scores on tasks.
    """

    model: str
    losses: tuple[float, ...]
    is_merge: bool = False
    accuracy: float | None = None
    scores: tuple[float, ...] = ()

    @property
    def cells(self) -> tuple[str, ...]:
        """What the table shows of it."""
        accuracy = () if self.accuracy is None else (f"{100 * self.accuracy:.1f} %",)
        scores = ("" if math.isnan(score) else f"{100 * score:.1f} %" for score in self.scores)
        return (*(f"{loss:.3f}" for loss in self.losses), *accuracy, *scores)


def loss_table(report: Mapping[str, Any]) -> tuple[tuple[str, ...], tuple[LossRow, ...]]:
    """Column names, and the endpoints, the naive average, the merge and the ensemble; no rows without text."""
    labels = tuple(part["label"] for part in report["data"])
    if not labels:
        return (), ()
    ends, point, baselines = report["endpoints"], report["merge_point"], report["baselines"]
    models = [(f"{letter(place)}: {end['ref']}{_head(report, place)}", _of_end(end)) for place, end in enumerate(ends)]
    if report.get("base"):
        models.append((f"base: {report['base']['ref']}", baselines["base"]))
    if "naive_average" in baselines:
        models.append(("naive average", baselines["naive_average"]))
    if "method" in report:
        if report["alignment"]["method"] != "none":
            models.append(("average, aligned", baselines["average"]))
        merged = f"merge by {report['method']['name']}" if not report.get("star") else "merge, trained centre"
    else:
        merged = f"merge at t = {point['t']:g}"
    models.append((merged, point))
    whose = "of A and B" if len(ends) == 2 else f"of all {len(ends)}"
    if "ensemble" in baselines:
        models.append((f"ensemble {whose}", baselines["ensemble"]))
    several, rows = len(labels) > 1, []
    tasks = tuple(task["label"] for task in report.get("tasks", ()))
    for model, record in models:
        values = [record["losses"][label] for label in labels]
        if several:
            values.append(sum(values) / len(values))
        own = record.get("tasks") or {}
        scores = tuple(own[label]["score"] if label in own else math.nan for label in tasks)
        accuracy = record.get("accuracy")
        rows.append(LossRow(model, tuple(values), is_merge=model == merged, accuracy=accuracy, scores=scores))
    columns = (*labels, "mean") if several else labels
    columns = (*columns, "accuracy") if rows[0].accuracy is not None else columns
    return (*columns, *tasks), tuple(rows)


def _head(report: Mapping[str, Any], place: int) -> str:
    """What a model is measured with where it is not its own head."""
    owner = report.get("head")
    return "" if owner in (None, letter(place)) else f", with the head of {owner}"


def _of_end(end: Mapping[str, Any]) -> dict[str, Any]:
    """The losses of a model, the accuracy of a classifier, the mean over the texts, and scores on tasks."""
    accuracies = list(end.get("accuracies", {}).values())
    accuracy = {"accuracy": sum(accuracies) / len(accuracies)} if accuracies else {}
    return {"losses": end["loss"], **accuracy, "tasks": end.get("tasks", {})}


def unit(report: Mapping[str, Any]) -> str:
    """What losses of a report are in."""
    task = report.get("task")
    if task in CLASSIFIERS:
        return "nats per text" if task == TEXTS else "nats per labelled token"
    return "nats per hidden token" if task == MASKED else "nats per token"


def profiles(report: Mapping[str, Any]) -> list[tuple[str, str, list[dict[str, Any]]]]:
    """The profiles of a report that differ, as (kind, name, rows): the lines before and after alignment, the curve."""
    if not report["profile"]:
        return []
    if report["alignment"]["method"] == "none":
        differing = [("line", "straight line", report["line_profile"])]
    else:
        differing = [
            ("naive", "without alignment", report["naive_profile"]),
            ("line", "straight line, aligned", report["line_profile"]),
        ]
    if report["path"]["bends"]:
        differing.append(("bent", report["path"]["kind"], report["profile"]))
    return differing
