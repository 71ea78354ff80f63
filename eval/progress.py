"""How a long computation tells how far it is: silent here; the command line draws a bar."""

from __future__ import annotations

from collections.abc import Sequence

from ..checkpoint.checks.finding import Finding

ENOUGH = 5.0  # seconds that were expected, before they are held against those that it took
PACES = (0.3, 5.0)  # times as long as expected, at the least and at the most


class Remaining:
    """How long the rest of some work takes, by how long its stages, (name, seconds) in order, were expected to take.

    What took longer or less so far than it was expected to, the rest is taken to do, too.
    """

    def __init__(self, expected: Sequence[tuple[str, float]]):
        self._expected = list(expected)
        self._place, self._began, self._taken, self._foreseen = -1, 0.0, 0.0, 0.0

    def stage(self, name: str, now: float) -> None:
        """A stage begins: the next one of that name, unless the current one has it, too. Others pass by unexpected."""
        if self._is(self._place, name) and not self._is(self._place + 1, name):
            return
        places = range(self._place + 1, len(self._expected))
        place = next((place for place in places if self._is(place, name)), None)
        if place is None:
            return
        if self._place >= 0:
            self._taken += now - self._began
            self._foreseen += self._expected[self._place][1]
        self._place, self._began = place, now

    def _is(self, place: int, name: str) -> bool:
        return 0 <= place < len(self._expected) and name.startswith(self._expected[place][0])

    def seconds(self, share: float, now: float) -> float | None:
        """How many are left where this `share` of the current stage is done; None before any that was expected."""
        if self._place < 0:
            return None
        (_, current), later = self._expected[self._place], self._expected[self._place + 1 :]
        spent, taken, foreseen = now - self._began, self._taken, self._foreseen
        if share:
            taken, foreseen = taken + spent, foreseen + share * current
        pace = taken / foreseen if foreseen > ENOUGH else 1.0
        pace = min(PACES[1], max(PACES[0], pace))
        rest = current * (1 - share) if share else max(0.0, current - spent)
        return pace * (rest + sum(seconds for _, seconds in later))


class Progress:
    """Receives stages and steps, and says nothing. Subclasses draw."""

    wants_expectations = False  # whether it shows how long the whole takes

    def expect(self, stages: Sequence[tuple[str, float]]) -> None:
        """The stages to come, and how many seconds each will take."""

    def findings(self, findings: Sequence[Finding]) -> None:
        """What `check` says of the models, before the work begins."""

    def stage(self, name: str, total: int | None = None) -> None:
        """A new stage begins, of `total` steps when that is known."""

    def advance(self, steps: int = 1) -> None:
        """Some steps of the current stage are done."""

    def note(self, text: str) -> None:
        """A number worth watching, beside the current stage."""
