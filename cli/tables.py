"""What was found, as tables and sentences on stderr."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.console import Console

from ..eval.processes import is_main
from .terminal import cell, say

if TYPE_CHECKING:
    from ..checkpoint.push import PushPlan
    from ..lab.fingerprint_study import FingerprintVerdict as Verdict


def print_merge(report: dict[str, Any]) -> None:
    """The losses of a merge and what its report says."""
    from rich.table import Table

    from ..eval.summary import loss_table, sentences

    if not is_main():
        return
    columns, rows = loss_table(report)
    if rows:
        table = Table(box=None, pad_edge=False, header_style="dim")
        table.add_column("loss, nats per token")
        for column in columns:
            table.add_column(cell(column), justify="right")
        for row in rows:
            losses = (f"{loss:.3f}" for loss in row.losses)
            table.add_row(cell(row.model), *losses, style="bold" if row.is_merge else None)
        Console(stderr=True).print(table)
    for sentence in sentences(report):
        say(sentence)


def print_plan(plan: PushPlan) -> None:
    """What a push would send."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("file")
    table.add_column("bytes", justify="right")
    table.add_column()
    for file in plan.files:
        table.add_row(cell(file.name), f"{file.size:,}", "" if file in plan.changed else "is there already")
    for name in plan.stale:
        table.add_row(cell(name), "", "would be removed")
    Console(stderr=True).print(table)
    say(f"nothing was sent; a push would {plan}")


def print_ensemble(report: dict[str, Any]) -> None:
    """Members, soup, merge and ensemble: losses and costs."""
    from rich.table import Table

    if not is_main():
        return
    labels = [part["label"] for part in report["data"]]
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("loss, nats per token")
    for column in (*labels, *(["mean"] if len(labels) > 1 else []), "passes", "weights", "seconds"):
        table.add_column(cell(column), justify="right")
    for row in report["models"]:
        losses = [row["losses"][label] for label in labels] + ([row["loss"]] if len(labels) > 1 else [])
        costs = (str(row["passes"]), f"{row['weights'] / 1e6:.1f} M", f"{row['seconds']:.1f}")
        style = "bold" if row["kind"] == "ensemble" else None
        table.add_row(cell(row["name"]), *(f"{loss:.3f}" for loss in losses), *costs, style=style)
    Console(stderr=True).print(table)
    merge = next(row for row in report["models"] if row["kind"] == "merge")
    weights = ", ".join(f"{weight:.3g}" for weight in merge["merge_weights"])
    method = merge["alignment"]
    how = "without alignment" if method == "none" else f"after {method} alignment"
    say(f"soup: the plain average {how}; merge: that with the weights {weights}")
    gain, error = report["gain"], report["gain_stderr"]
    say(
        f"the ensemble's {report['average']} are averaged: "
        f"{'better' if gain > 0 else 'worse'} than the best member by {abs(gain):.3f} ± {error:.3f} nats"
    )


def print_fingerprints(verdicts: list[Verdict]) -> None:
    """How models of known optimizers were judged."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in ("model", "trained by", "peak", "share", "attention", "kurtosis", "embedding", "judged"):
        table.add_column(column, no_wrap=True)
    for verdict in verdicts:
        found = verdict.numbers
        numbers = (found.peakedness, found.share, found.attention, found.kurtosis, found.embedding)
        judged = verdict.judged or "unknown"
        style = "red" if verdict.outcome == "wrong" else "bold" if verdict.held_out else None
        table.add_row(cell(verdict.name), cell(verdict.trained_by), *(f"{n:.2f}" for n in numbers), judged, style=style)
    Console(stderr=True).print(table)
    outcomes = [verdict.outcome for verdict in verdicts if verdict.held_out]
    counts = ", ".join(f"{outcomes.count(outcome)} {outcome}" for outcome in ("right", "unknown", "wrong"))
    say(f"held out: {counts}")


def print_spectra(report: dict[str, Any]) -> None:
    """Stable ranks of models, their optimizers, and the distances between them."""
    from rich.table import Table

    console = Console(stderr=True)
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("mean stable rank")
    kinds = list(report["models"][0]["stable_rank"])
    for kind in kinds:
        table.add_column(cell(kind), justify="right")
    for model in report["models"]:
        table.add_row(cell(model["ref"]), *(f"{model['stable_rank'][kind]:.1f}" for kind in kinds))
    console.print(table)
    for model in report["models"]:
        found = model["optimizer"]
        say(f"{model['ref']}: trained by {found['optimizer'] or 'an unknown optimizer'}, {found['why']}")
    for pair in report["distances"]:
        say(f"{pair['a']} and {pair['b']}: {pair['distance']:.3f} nats apart")
