"""What people see on stderr, and programs read on stdout: progress, findings, tables, sentences, errors, JSON."""

from __future__ import annotations

import os
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as RichProgress
from rich.table import Table
from rich.text import Text

from .checkpoint.errors import IsthmusError
from .checkpoint.redaction import redact, redacted
from .checkpoint.reference import require_path, shown_name
from .checkpoint.saving import replace_file
from .checkpoint.sizes import shown_size
from .checkpoint.untrusted_text import json_text, plain, plain_lines
from .eval.processes import is_main
from .eval.progress import Progress, Remaining

STDOUT = 1

if TYPE_CHECKING:
    from rich.progress import TaskID

    from .checkpoint.checks.finding import Finding
    from .checkpoint.push import Pushed, PushPlan
    from .lab.fingerprint_study import FingerprintVerdict

LONGEST = 4000  # characters of one line
COLOURS = {"blocks": "red", "degrades": "yellow", "notes": "cyan"}
MOST_FINDINGS = 10
MEASURES = {"peak": "peakedness"} | {name: name for name in ("share", "attention", "kurtosis", "embedding")}


def say(*parts: str | tuple[str, str]) -> None:
    """A line on stderr, from the main process alone; a part is text, or text with a style of rich's.

    No part is read as markup, and what strangers wrote in it is made visible (`cell`).
    """
    if not is_main():
        return
    shown = [cell(part) if isinstance(part, str) else (visible(part[0]), part[1]) for part in parts]
    Console(stderr=True, highlight=False, soft_wrap=True).print(Text.assemble(*shown))


def visible(text: object) -> str:
    """One line of visible characters, without secrets: what may go to a terminal."""
    return plain(redact(str(text)), LONGEST)


def cell(text: object) -> Text:
    """The same for a table or a line of rich's, which then sees no markup in it."""
    return Text(visible(text))


def emit(target: str | None, content: dict[str, Any]) -> None:
    """Write JSON to a file, or to stdout for ``-``.

    Raises IsthmusError when it cannot be written.
    """
    if target is None or not is_main():
        return
    text = json_text(redacted(content), allow_nan=True) + "\n"
    if target == "-":
        if sys.stdout is None:
            raise IsthmusError("cannot write the output: the standard output is closed")
        try:
            sys.stdout.write(text)
            sys.stdout.flush()
        except BrokenPipeError:  # nobody reads it any more
            sys.exit(1)
        except OSError as error:
            raise IsthmusError(f"cannot write the output: {error.strerror}") from None
        return
    require_path(target, "the JSON file")
    try:
        replace_file(target, text)
    except OSError as error:
        raise IsthmusError(f"cannot write the JSON file '{shown_name(Path(target))}': {error.strerror}") from None


@contextmanager
def screen(quiet: bool) -> Iterator[Progress]:
    """A progress bar on stderr, gone when the work is done; silent with --quiet. Also keeps libraries from talking.

    While the work goes on, nothing reaches stdout, which is for what programs read.
    """
    import logging
    import warnings

    warnings.filterwarnings("ignore", module=r"(?!isthmus)")
    for library in ("transformers", "huggingface_hub"):
        logging.getLogger(library).setLevel(logging.ERROR)
    with _silent_stdout():
        if quiet or not is_main():
            yield Progress()
            return
        bar = BarProgress()
        with bar.rich:
            yield bar


@contextmanager
def _silent_stdout() -> Iterator[None]:
    """Drop what is written to stdout meanwhile, also by code that is not Python's: tokenizers prints there."""
    try:
        saved = os.dup(STDOUT)
    except OSError:  # it is closed
        yield
        return
    null = os.open(os.devnull, os.O_WRONLY)
    try:
        with suppress(OSError, ValueError, AttributeError):
            sys.stdout.flush()
        os.dup2(null, STDOUT)
        yield
    finally:
        with suppress(OSError, ValueError, AttributeError):
            sys.stdout.flush()
        os.dup2(saved, STDOUT)
        os.close(saved)
        os.close(null)


class BarProgress(Progress):
    """One line: the stage, how far it is, the time it took, an estimate of the rest. It vanishes at the end."""

    def __init__(self) -> None:
        console = Console(stderr=True)
        self.rich = RichProgress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}", markup=False),
            TextColumn("{task.fields[left]}", markup=False, style="dim"),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task: TaskID | None = None
        self._remaining = Remaining([])
        self.wants_expectations = console.is_terminal

    def expect(self, stages: Sequence[tuple[str, float]]) -> None:
        """Show from now on how long the whole still takes."""
        self._remaining = Remaining(stages)

    def findings(self, findings: Sequence[Finding]) -> None:
        """Print them, above the bar."""
        print_findings(findings)

    def stage(self, name: str, total: int | None = None) -> None:
        """Replace the bar by one for a new stage."""
        if self._task is not None:
            self.rich.remove_task(self._task)
        self._task = self.rich.add_task(visible(name), total=total, note="", left="")
        self._remaining.stage(name, time.monotonic())
        self._show_remaining()

    def advance(self, steps: int = 1) -> None:
        """Move the bar."""
        if self._task is not None:
            self.rich.advance(self._task, steps)
            self._show_remaining()

    def _show_remaining(self) -> None:
        """How long the whole still takes, where that is known."""
        task = next((task for task in self.rich.tasks if task.id == self._task), None)
        if task is None or self._task is None:
            return
        share = task.completed / task.total if task.total else 0.0
        seconds = self._remaining.seconds(min(1.0, share), time.monotonic())
        if seconds is not None:
            self.rich.update(self._task, left=f"about {_duration(seconds)} left in all")

    def note(self, text: str) -> None:
        """Show a number beside the bar."""
        if self._task is not None:
            self.rich.update(self._task, note=visible(text))


def print_findings(findings: Sequence[Finding]) -> None:
    """One line a finding, the gravest first; beyond the first `MOST_FINDINGS` only their count."""
    for finding in findings[:MOST_FINDINGS]:
        say((finding.kind, COLOURS[finding.kind]), "  ", str(finding))
    rest = findings[MOST_FINDINGS:]
    if rest:
        counts = ", ".join(f"{count} {kind}" for kind, count in Counter(finding.kind for finding in rest).items())
        say((f"and {len(rest)} more ({counts}): 'isthmus check --json -' shows them all", "dim"))


def print_merge(report: dict[str, Any]) -> None:
    """The losses of a merge or a path, and what its report says."""
    from .eval.sentences import sentences
    from .eval.summary import loss_table, unit

    columns, rows = loss_table(report)
    if rows:
        table = _table(f"loss, {unit(report)}", *columns)
        for row in rows:
            table.add_row(cell(row.model), *row.cells, style="bold" if row.is_merge else None)
        _print_table(table)
    for sentence in sentences(report):
        say(sentence)


def print_forecast(report: dict[str, Any]) -> None:
    """What a merge would do, stage by stage, and what all of it would take."""
    table = _table("stage", "tokens", "time", "memory")
    opening = {"name": "checking and reading text", "seconds": report["opening_seconds"], "memory": 0}
    for stage in (opening, *report["stages"]):
        tokens = sum(stage.get(key, 0) for key in ("tokens_evaluated", "tokens_trained", "tokens_generated"))
        shown = f"{tokens:,}" if tokens else ""
        memory = f"+ {shown_size(stage['memory'])}" if stage["memory"] else ""
        table.add_row(cell(stage["name"]), shown, _duration(stage["seconds"]), memory)
    _print_table(table)
    steps, tokens = report["training_steps"], report["tokens_trained"]
    read, stored = (shown_size(report[f"bytes_{what}"]) for what in ("read", "stored"))
    training = f", {steps:,} training steps on {tokens:,} tokens" if steps else ""
    say(
        f"{len(report['models'])} models of {report['weights'] / 1e6:,.1f} M weights: {read} to read, {stored} to "
        f"write, {report['tokens_evaluated']:,} tokens through models{training}; {report['operations']:.1e} "
        "floating-point operations"
    )
    threads = f"{report['threads']} thread{'s' * (report['threads'] > 1)}"
    where = f"on {report['device']}" + (f" ({threads})" if report["device"] == "cpu" else "")
    say(
        f"about {_duration(report['seconds'])} {where}, and {shown_size(report['memory'])} of memory, of "
        f"{shown_size(report['machine_memory'])} here"
    )
    if report["memory"] > report["machine_memory"]:
        say(("that is more memory than this machine has", "yellow"))
    if report["seconds_otherwise"] is not None:
        less_or_more = _duration(report["seconds_otherwise"])
        if report["relatives"]:
            say(f"the models look like relatives, which need no alignment; if they do need one, about {less_or_more}")
        else:
            say(f"if no alignment is needed after all, about {less_or_more}")


def _duration(seconds: float) -> str:
    """A time as people say it."""
    if seconds < 90:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 90 else f"{minutes / 60:.1f} h"


def print_alignment(report: dict[str, Any]) -> None:
    """How B was aligned."""
    say(
        f"aligned ({report['method']}) in {report['seconds']:.1f} s, score {report['score']:.3f}, "
        f"log-probabilities within {report['max_log_prob_error']:.1e}"
    )


def print_extraction(report: dict[str, Any]) -> None:
    """What an adapter holds of a model, and what it loses of it."""
    from .eval.summary import unit

    adapter, losses = report["adapter"], report["models"]
    ranks = list(adapter["ranks"].values())
    rank = f"{min(ranks)}" if min(ranks, default=0) == max(ranks, default=0) else f"{min(ranks)} to {max(ranks)}"
    if ranks:
        say(
            f"rank {rank} in {len(ranks)} matrices: {100 * adapter['energy']:.2f} % of the squared norm of what differs"
        )
    if adapter["whole"]:
        shown = ", ".join(adapter["whole"][:3]) + (", ..." if len(adapter["whole"]) > 3 else "")
        say(f"{len(adapter['whole'])} other tensors differ, and go in whole: {shown}")
    say(f"{adapter['numbers']:,} numbers, {100 * adapter['numbers'] / adapter['of']:.1f} % of the model's")
    if losses:
        labels = [part["label"] for part in report["data"]]
        table = _table(f"loss, {unit(report)}", *labels)
        names = {"model": report["endpoints"][0]["ref"], "adapted": "base and adapter", "base": report["base"]["ref"]}
        for name, one in losses.items():
            row = (f"{one['losses'][label]:.3f}" for label in labels)
            table.add_row(cell(names[name]), *row, style="bold" if name == "adapted" else None)
        _print_table(table)
        lost = f"{report['lost'] + 0.0:.4f}".replace("-0.0000", "0.0000")
        say(f"the adapter loses {lost} ± {report['lost_stderr']:.4f} nats per token of the model")


def print_ensemble(report: dict[str, Any]) -> None:
    """Members, soup, merge and ensemble: losses and costs, and scores on tasks."""
    from .eval.summary import unit

    labels = [part["label"] for part in report["data"]]
    mean = ["mean"] if len(labels) > 1 else []
    table = _table(f"loss, {unit(report)}", *labels, *mean, "passes", "weights", "seconds")
    for row in report["models"]:
        losses = [row["losses"][label] for label in labels] + ([row["loss"]] if mean else [])
        costs = (str(row["passes"]), f"{row['weights'] / 1e6:.1f} M", f"{row['seconds']:.1f}")
        style = "bold" if row["kind"] == "ensemble" else None
        table.add_row(cell(row["name"]), *(f"{loss:.3f}" for loss in losses), *costs, style=style)
    _print_table(table)
    _print_scores(report)
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
    ensemble = next(row for row in report["models"] if row["kind"] == "ensemble")
    for task in report["tasks"]:
        own = ensemble["tasks"][task["label"]]
        gain, over = (_points(own, key) for key in ("gain", "over_merge"))
        say(
            f"{task['label']}: the ensemble scores {100 * own['score']:.1f} ± {100 * own['stderr']:.1f} % "
            f"({task['metric']}, {task['report_documents']} documents), {gain} points against the best member, {over} "
            "against the merge"
        )


def _print_scores(report: dict[str, Any]) -> None:
    """What the models of an ensemble score on every task, and how much more than the best member."""
    for task in report["tasks"]:
        table = _table(f"{task['label']}, % ({task['metric']})", "score", "over the best member")
        for row in report["models"]:
            own = row["tasks"][task["label"]]
            score = f"{100 * own['score']:.1f} ± {100 * own['stderr']:.1f}"
            style = "bold" if row["kind"] == "ensemble" else None
            table.add_row(cell(row["name"]), score, _points(own, "gain") if "gain" in own else "", style=style)
        _print_table(table)


def _points(scores: dict[str, float], difference: str) -> str:
    """A paired difference of scores in percentage points, with its standard error."""
    return f"{100 * scores[difference]:+.1f} ± {100 * scores[f'{difference}_stderr']:.1f}"


def print_spectra(report: dict[str, Any]) -> None:
    """Stable ranks of models, their optimizers, and the distances between them."""
    kinds = list(report["models"][0]["stable_rank"])
    table = _table("mean stable rank", *kinds)
    for model in report["models"]:
        table.add_row(cell(model["ref"]), *(f"{model['stable_rank'][kind]:.1f}" for kind in kinds))
    _print_table(table)
    for model in report["models"]:
        optimizer = model["optimizer"]
        say(f"{model['ref']}: trained by {optimizer['optimizer'] or 'an unknown optimizer'}, {optimizer['why']}")
    for pair in report["distances"]:
        say(f"{pair['a']} and {pair['b']}: {pair['distance']:.3f} nats apart")


def print_explanation(report: dict[str, Any]) -> None:
    """What a merge did: sentences, then the figures by layer and kind."""
    from .eval.explanation_tables import tables

    for sentence in report["sentences"]:
        say(sentence)
    for first, columns, rows in tables(report):
        say()
        table = _table(first, *columns)
        for name, cells in rows:
            table.add_row(cell(name), *cells, style="bold" if name == "all" else None)
        _print_table(table)


def print_comparison(report: dict[str, Any]) -> None:
    """The ranking of methods, the models beside it, what it says, and the recipe of the winner."""
    from .eval.summary import unit
    from .merge.comparing.ranking import table

    columns, rows = table(report)
    shown = _table(f"loss, {unit(report)}", *columns)
    beside = {row["name"] for row in report["references"]}
    for name, cells in rows:
        style = "bold" if name == report["winner"] else "dim" if name in beside else None
        shown.add_row(cell(name), *cells, style=style)
    _print_table(shown)
    for sentence in report["sentences"]:
        say(sentence)
    say()
    say((f"recipe.yml, for {report['merge_command']}", "dim"))
    for line in report["recipe"]:
        say(line)


def print_push(plan: PushPlan, pushed: Pushed | None) -> None:
    """What a push sent; or, of one that was not carried out, what it would send."""
    if pushed is not None:
        verb = "proposed" if plan.target.create_pr else "pushed"
        say(f"{verb if plan.changed else 'nothing to push, it is all there'}: {pushed.url}")
        return
    table = _table("file", "bytes")
    table.add_column()
    for file in plan.files:
        table.add_row(cell(file.name), f"{file.size:,}", "" if file in plan.changed else "is there already")
    for name in plan.stale:
        table.add_row(cell(name), "", "would be removed")
    _print_table(table)
    say(f"nothing was sent; a push would {plan}")


def print_fingerprints(verdicts: Sequence[FingerprintVerdict]) -> None:
    """How models of known optimizers were judged."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in ("model", "trained by", *MEASURES, "judged"):
        table.add_column(column, no_wrap=True)
    for verdict in verdicts:
        numbers = [f"{getattr(verdict.numbers, measure):.2f}" for measure in MEASURES.values()]
        judged = verdict.judged or "unknown"
        style = "red" if verdict.outcome == "wrong" else "bold" if verdict.held_out else None
        table.add_row(cell(verdict.name), cell(verdict.trained_by), *numbers, judged, style=style)
    _print_table(table)
    outcomes = [verdict.outcome for verdict in verdicts if verdict.held_out]
    counts = ", ".join(f"{outcomes.count(outcome)} {outcome}" for outcome in ("right", "unknown", "wrong"))
    say(f"held out: {counts}")


def print_symmetries(report: dict[str, Any]) -> None:
    """What each step of alignment buys, by kind of pair."""
    for row in report["table"]:
        height = f"{row['barrier']:.3f} ± {row['std']:.3f} nats ({row['share']:.0%} of no alignment)"
        say(f"{row['kind']:12} {row['step']:18} {height}")


def _table(first: str, *numbers: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column(cell(first))
    for column in numbers:
        table.add_column(cell(column), justify="right")
    return table


def _print_table(table: Table) -> None:
    if is_main():
        Console(stderr=True).print(table)


def fail(message: str, code: int) -> NoReturn:
    """Print an error, with --debug below its traceback, and leave."""
    if "--debug" in sys.argv:
        import traceback

        _print_error(plain_lines(redact(traceback.format_exc())))
    _print_error(f"isthmus: {visible(message)}")
    sys.exit(code)


def _print_error(text: str) -> None:
    if sys.stderr is not None:
        with suppress(OSError, ValueError):  # nobody reads it, or there is no room: the exit code says it still
            print(text, file=sys.stderr, flush=True)
