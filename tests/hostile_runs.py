"""Run check and merge on hostile models, one after the other, in this process: a line of JSON for each on stdout."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import signal
import sys
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), os.environ["ISTHMUS_ROOT"]]

from hostile_models import HOSTILE  # noqa: E402
from memory import peak, reset_peak  # noqa: E402

from isthmus.cli import main  # noqa: E402

LIMIT = 25
TEXT = ("normalizers", "prefix", "template of copies", "padding")


def run(arguments: list[str]) -> tuple[int, str]:
    sys.argv = ["isthmus", *arguments]
    written = io.StringIO()
    with contextlib.redirect_stderr(written), contextlib.redirect_stdout(io.StringIO()):
        try:
            main()
            code = 0
        except SystemExit as ending:
            code = ending.code if isinstance(ending.code, int) else 1
    return code, written.getvalue()


def runs(good: Path, place: Path, names: list[str]) -> None:
    for name in names:
        bad, out = place / "bad", place / "out"
        for leftover in (bad, out):
            shutil.rmtree(leftover, ignore_errors=True)
        shutil.copytree(good, bad)
        HOSTILE[name](bad)
        text = ["--data", "stdlib:docs", "--tokens", "64"] if any(word in name for word in TEXT) else []
        for command in ("check", "merge"):
            models = [str(good), str(bad)]
            options = ["-o", str(out), "--align", "none", "--t", "0.5", *text] if command == "merge" else []
            reset_peak()
            signal.alarm(LIMIT)
            start = time.monotonic()
            code, err = run([command, *models, *options])
            seconds = time.monotonic() - start
            signal.alarm(0)
            line = {"name": name, "command": command, "code": code, "err": err, "seconds": seconds, "bytes": peak()}
            print(json.dumps(line), file=sys.__stdout__, flush=True)
        for leftover in (bad, out):
            shutil.rmtree(leftover, ignore_errors=True)


if __name__ == "__main__":
    runs(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
