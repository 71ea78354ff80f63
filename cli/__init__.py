"""The command line: parse, call, print. People read stderr, programs read stdout or --json."""

from __future__ import annotations

import gc
import os
import signal
import sys
from contextlib import redirect_stderr, suppress
from pathlib import Path
from typing import NoReturn, TextIO, cast

from ..checkpoint.errors import IsthmusError
from ..checkpoint.redaction import Redacting, redact
from ..checkpoint.reference import shown_name
from ..checkpoint.untrusted_text import plain_lines
from ..checkpoint.working_folders import release_all
from ..eval.processes import finish
from .commands import app
from .lab import lab
from .terminal import visible

INTERRUPTED = 130
COLLECT_EVERY = 10_000  # objects: torch makes a million while it is imported, and they all stay

app.add_typer(lab, name="lab")


def main() -> None:
    """Run the command line; errors become one sentence and an exit code. Nothing secret is written to stderr."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    gc.set_threshold(COLLECT_EVERY)
    with redirect_stderr(cast("TextIO", Redacting(sys.stderr))):
        _run()


def _run() -> None:
    try:
        code = app(standalone_mode=False)  # typer gives the code of an Exit, and 130 for Ctrl-C
        finish()
        if code == INTERRUPTED:
            raise KeyboardInterrupt
        if code:
            sys.exit(code)
    except IsthmusError as error:
        _fail(str(error), error.exit_code)
    except KeyboardInterrupt:
        _fail("interrupted; nothing half-written was left", INTERRUPTED)
    except MemoryError:
        _fail("out of memory; nothing half-written was left", 1)
    except BrokenPipeError:  # nobody reads it any more
        sys.exit(1)
    except SystemExit:
        raise
    except BaseException as error:
        usage = getattr(error, "exit_code", None)
        if isinstance(usage, int) and hasattr(error, "format_message"):
            _fail(error.format_message() or f"see 'isthmus {' '.join(sys.argv[1:2])} --help'", 2)
        if isinstance(error, OSError) and error.filename is not None and error.strerror:
            place = os.fsdecode(error.filename) if isinstance(error.filename, bytes) else str(error.filename)
            _fail(f"cannot use '{shown_name(Path(place))[:100]}': {error.strerror}", 2)
        advice = "the traceback is above" if "--debug" in sys.argv else "run again with --debug to see where"
        _fail(f"something unforeseen happened ({type(error).__name__}: {error}); {advice}", 1)


def script() -> NoReturn:
    """`main` as a process of its own, which ends without taking torch apart: that takes as long as a small merge."""
    code = 0
    for number, stream in enumerate((sys.stdin, sys.stdout, sys.stderr)):
        if stream is None:  # closed by who started this: the next file must not be opened in its place
            os.dup2(os.open(os.devnull, os.O_RDWR), number)
    if sys.stderr is None:
        sys.stderr = Path(os.devnull).open("w")  # noqa: SIM115 - for as long as the process runs
    try:
        main()
    except SystemExit as leaving:
        code = leaving.code if isinstance(leaving.code, int) else 1
    release_all()  # what is still referred to may own a temporary folder
    try:
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
    except OSError:  # nobody reads it any more, or there is no room; what matters was flushed when it was written
        code = code or 1
    os._exit(code)


def _fail(message: str, code: int) -> NoReturn:
    if "--debug" in sys.argv:
        import traceback

        _print(plain_lines(redact(traceback.format_exc())))
    _print(f"isthmus: {visible(message)}")
    sys.exit(code)


def _print(text: str) -> None:
    if sys.stderr is not None:
        with suppress(OSError, ValueError):  # nobody reads it, or there is no room: the exit code says it still
            print(text, file=sys.stderr, flush=True)
