"""Whether the spectrum is measured, and from when on it is not preserved."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from ..options import SPECTRUM, option
from .refusals import require_number

_spectrum = partial(option, panel=SPECTRUM)


@dataclass(frozen=True)
class SpectrumPlan:
    """Whether the spectrum is measured, or restored; from which excess on, in nats, it is no longer preserved.

    `measure` None measures it unless the merge is a plain average without text. `restore` puts the singular values of
    the merge to the point between its endpoints', where the loss on the select text does not rise by it.
    """

    measure: bool | None = _spectrum(
        None,
        "Measure the spectrum. Default: yes, except for a plain average without --data.",
        name="--spectrum/--no-spectrum",
    )
    restore: bool = _spectrum(
        False,
        "Put the merge's singular values between the endpoints', unless the loss rises by it.",
        name="--restore-spectrum",
    )
    max_excess: float = _spectrum(
        0.1, "Highest spectral excess, in nats, that is preserved; 0.4 of it is a transition."
    )
    same_kind: float = _spectrum(0.2, "Endpoints closer than this, in nats, share a kind of spectrum.")

    def __post_init__(self) -> None:
        require_number("--max-excess", self.max_excess)
        require_number("--same-kind", self.same_kind)
