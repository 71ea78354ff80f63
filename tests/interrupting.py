"""Ctrl-C in the middle of a search."""

from __future__ import annotations

from isthmus.eval.progress import Progress


class Interrupted(Progress):
    """Raises KeyboardInterrupt after so many evaluations of a search by evolution."""

    def __init__(self, after: int):
        self.left, self.searches = after, False

    def stage(self, name: str, total: int | None = None) -> None:
        self.searches = name.startswith("choosing weights (cma")

    def advance(self, steps: int = 1) -> None:
        self.left -= steps * self.searches
        if self.left < 0:
            raise KeyboardInterrupt
