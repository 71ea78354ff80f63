"""How long a comparison has to go on: from what its parts read, and how long those took that are done."""

from __future__ import annotations

import time
from collections.abc import Sequence

from ...eval.progress import Progress


class Estimating(Progress):
    """Says of every stage which method it is part of, and about how long all of them will take.

    `costs` are what the methods read, in any unit. The first estimate comes after the first method.
    """

    def __init__(self, inner: Progress, names: Sequence[str], costs: Sequence[float]):
        self.inner, self.names, self.costs = inner, tuple(names), tuple(costs)
        self._place, self._measured, self._read, self._began = -1, 0.0, 0.0, time.monotonic()

    def begin(self, place: int) -> None:
        """A method begins."""
        self._place, self._began = place, time.monotonic()

    def end(self) -> None:
        """The method is done."""
        self._measured += time.monotonic() - self._began
        self._read += self.costs[self._place]

    @property
    def left(self) -> float | None:
        """About how many seconds the methods take that are not done; None before one is."""
        if not self._read:
            return None
        rest = sum(self.costs[self._place :]) * self._measured / self._read
        return max(0.0, rest - (time.monotonic() - self._began))

    def stage(self, name: str, total: int | None = None) -> None:
        """Show a stage of the method, and the estimate."""
        self.inner.stage(f"{self._place + 1}/{len(self.names)} {self.names[self._place]}: {name}", total)
        left = self.left
        if left is not None:
            self.inner.note(f"about {_in_words(left)} to go for all")

    def advance(self, steps: int = 1) -> None:
        """Some steps of the stage are done."""
        self.inner.advance(steps)

    def note(self, text: str) -> None:
        """A number beside the stage."""
        self.inner.note(text)


def _in_words(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"
