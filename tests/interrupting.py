"""Ctrl-C in the middle of a search, or of a training."""

from __future__ import annotations

from isthmus.eval.progress import Progress


class Interrupted(Progress):
    """Raises KeyboardInterrupt after so many steps of a stage: by default, evaluations of a search by evolution."""

    def __init__(self, after: int, stage: str = "choosing weights (cma"):
        self.left, self.named, self.inside = after, stage, False

    def stage(self, name: str, total: int | None = None) -> None:
        self.inside = name.startswith(self.named)

    def advance(self, steps: int = 1) -> None:
        self.left -= steps * self.inside
        if self.left < 0:
            raise KeyboardInterrupt
