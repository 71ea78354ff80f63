"""What people see on stderr and programs read on stdout: sentences, progress, JSON."""

from __future__ import annotations

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
from rich.text import Text

from ..checkpoint.errors import IsthmusError
from ..checkpoint.redaction import redact, redacted
from ..checkpoint.reference import require_path, shown_name
from ..checkpoint.saving import replace_file
from ..checkpoint.untrusted_text import json_text, plain
from ..eval.processes import is_main
from ..merge.progress import Progress

if TYPE_CHECKING:
    from rich.progress import TaskID

    from ..checkpoint.checks.finding import Finding

LONGEST = 4000  # characters of one line


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
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}", markup=False),
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
        from .findings import print_findings

        print_findings(findings)

    def stage(self, name: str, total: int | None = None) -> None:
        """Replace the bar by one for a new stage."""
        if self._task is not None:
            self._rich.remove_task(self._task)
        self._task = self._rich.add_task(visible(name), total=total, note="")

    def advance(self, steps: int = 1) -> None:
        """Move the bar."""
        if self._task is not None:
            self._rich.advance(self._task, steps)

    def note(self, text: str) -> None:
        """Show a number beside the bar."""
        if self._task is not None:
            self._rich.update(self._task, note=visible(text))
