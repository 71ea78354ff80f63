"""What people see on stderr and programs read on stdout: sentences, progress, JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

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

from isthmus.checkpoint.errors import IsthmusError
from isthmus.eval.processes import is_main
from isthmus.merge.progress import Progress

if TYPE_CHECKING:
    from rich.progress import TaskID

    from isthmus.checkpoint.checks.finding import Finding


def say(message: str) -> None:
    """A sentence on stderr, with rich's markup, from the main process alone."""
    if not is_main():
        return
    Console(stderr=True, highlight=False, soft_wrap=True).print(message)


def emit(target: str | None, content: dict[str, Any]) -> None:
    """Write JSON to a file, or to stdout for ``-``.

    Raises IsthmusError when it cannot be written.
    """
    if target is None or not is_main():
        return
    text = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
    if target == "-":
        try:
            sys.stdout.write(text)
            sys.stdout.flush()
        except BrokenPipeError:  # nobody reads it any more
            sys.exit(1)
        except OSError as error:
            raise IsthmusError(f"cannot write the output: {error.strerror}") from None
        return
    try:
        Path(target).write_text(text, encoding="utf-8")
    except OSError as error:
        raise IsthmusError(f"cannot write the JSON file '{Path(target).name}': {error.strerror}") from None


@contextmanager
def screen(quiet: bool) -> Iterator[Progress]:
    """A progress bar on stderr, gone when the work is done; silent with --quiet. Also keeps libraries from talking."""
    import logging
    import warnings

    warnings.filterwarnings("ignore", module=r"(?!isthmus)")
    for library in ("transformers", "huggingface_hub"):
        logging.getLogger(library).setLevel(logging.ERROR)
    if quiet or not is_main():
        yield Progress()
        return
    with BarProgress() as bar:
        yield bar


class BarProgress(Progress):
    """One line: the stage, how far it is, the time it took, an estimate of the rest. It vanishes at the end."""

    def __init__(self) -> None:
        console = Console(stderr=True)
        self._rich = RichProgress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task: TaskID | None = None

    def __enter__(self) -> BarProgress:
        self._rich.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._rich.stop()

    def findings(self, findings: Sequence[Finding]) -> None:
        """Print them, above the bar."""
        from isthmus.cli.findings import FIRST, print_findings

        print_findings(findings, FIRST)

    def stage(self, name: str, total: int | None = None) -> None:
        """Replace the bar by one for a new stage."""
        if self._task is not None:
            self._rich.remove_task(self._task)
        self._task = self._rich.add_task(name, total=total, note="")

    def advance(self, steps: int = 1) -> None:
        """Move the bar."""
        if self._task is not None:
            self._rich.advance(self._task, steps)

    def note(self, text: str) -> None:
        """Show a number beside the bar."""
        if self._task is not None:
            self._rich.update(self._task, note=text)
