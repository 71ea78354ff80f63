"""How a long computation tells how far it is: silent here; the command line draws a bar."""

from __future__ import annotations

from collections.abc import Sequence

from ..checkpoint.checks.finding import Finding


class Progress:
    """Receives stages and steps, and says nothing. Subclasses draw."""

    def findings(self, findings: Sequence[Finding]) -> None:
        """What `check` says of the models, before the work begins."""

    def stage(self, name: str, total: int | None = None) -> None:
        """A new stage begins, of `total` steps when that is known."""

    def advance(self, steps: int = 1) -> None:
        """Some steps of the current stage are done."""

    def note(self, text: str) -> None:
        """A number worth watching, beside the current stage."""
