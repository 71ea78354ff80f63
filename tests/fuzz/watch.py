"""Running many cases in a worker that is watched: a hang or a death is a defect like any other,
and the next goes on."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

TESTS = Path(__file__).parents[1]
LONGEST = 20.0
START = 300.0


class Watched:
    """A worker and its scratch folder."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="isthmus-fuzz-", ignore_cleanup_errors=True)
        self._worker: subprocess.Popen[bytes] | None = None
        self._unread, self._alive = b"", True
        self.deaths = 0

    def __enter__(self) -> Watched:
        return self

    def __exit__(self, *exc: object) -> None:
        self._end()
        self._folder.cleanup()

    def run(self, seeds: Iterable[int]) -> Iterator[dict[str, Any]]:
        """How the case of every seed ended, as `fuzz.worker.run` says it."""
        for seed in seeds:
            worker = self._started()
            assert worker.stdin is not None
            worker.stdin.write(f"{seed}\n".encode())
            worker.stdin.flush()
            case = json.loads(self._line(START) or b"{}")
            line = self._line(LONGEST) if case else None
            if line is None:
                what = f"over {LONGEST:.0f} s" if self._alive else f"the process ended ({worker.wait()})"
                err = (Path(self._folder.name) / "worker").read_text(errors="replace")[-2000:]
                self._end()
                self.deaths += 1
                yield {"seed": seed, "command": "?", "damage": "?", **case, "code": what, "err": err, "defects": [what]}
            else:
                yield json.loads(line)

    def _started(self) -> subprocess.Popen[bytes]:
        if self._worker is None:
            scratch = Path(self._folder.name)
            for name in ("hf", "home"):
                (scratch / name).mkdir(exist_ok=True)
            # The package is found as the tests find it; HOME is set only once everything is imported.
            paths = [str(TESTS), *(place for place in sys.path if place)]
            environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
            for name in ("HF_TOKEN", "HF_HUB_OFFLINE", "COV_CORE_SOURCE"):
                environment.pop(name, None)
            command = [sys.executable, "-m", "fuzz.worker", str(scratch / "pristine"), str(scratch)]
            self._unread, self._alive = b"", True
            self._worker = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=(scratch / "worker").open("wb"),
                env=environment,
            )
            if self._line(START) != b"ready":
                raise RuntimeError(f"the fuzzer's worker did not start: {(scratch / 'worker').read_text()[-2000:]}")
        return self._worker

    def _line(self, seconds: float) -> bytes | None:
        """The next line of the worker; None when it takes longer, or has ended."""
        assert self._worker is not None
        assert self._worker.stdout is not None
        deadline = time.monotonic() + seconds
        while b"\n" not in self._unread:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self._worker.stdout], [], [], left)[0]:
                return None
            part = os.read(self._worker.stdout.fileno(), 2**16)
            if not part:
                self._alive = False
                return None
            self._unread += part
        line, _, self._unread = self._unread.partition(b"\n")
        return line

    def _end(self) -> None:
        if self._worker is not None:
            self._worker.kill()
            self._worker.wait()
            self._worker = None
