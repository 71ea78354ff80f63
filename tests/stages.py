"""What a progress bar would show."""

from __future__ import annotations

from isthmus.eval.progress import Progress


class Stages(Progress):
    """The stages and notes of a comparison."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.notes: list[str] = []

    def stage(self, name: str, total: int | None = None) -> None:
        self.names.append(name)

    def note(self, text: str) -> None:
        self.notes.append(text)
