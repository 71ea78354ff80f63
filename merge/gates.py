"""Gates: conditions that a merge must meet to be saved."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..checkpoint.errors import GateRefused, NotFinite
from ..checkpoint.finite import place_of_nan, require_number
from ..eval.spectrum import SpectrumReport


@dataclass(frozen=True)
class Gates:
    """Conditions that a merge must meet to be saved; None and False set none."""

    max_barrier: float | None = None
    require_spectrum: bool = False
    require_gain: bool = False

    def __post_init__(self) -> None:
        require_number("--max-barrier", self.max_barrier)

    @property
    def need_loss(self) -> bool:
        """Whether any of them needs a loss, and so text."""
        return self.max_barrier is not None or self.require_gain

    def pass_loss(self, numbers: Mapping[str, Any]) -> None:
        """Judge `barrier` and `merge_point` of a report: neither the path nor the merge may be above the limit.

        Raises NotFinite, whatever the gates, where a loss is NaN or Inf; GateRefused.
        """
        place = place_of_nan(numbers)
        if place is not None:
            raise NotFinite(
                f"'{place}' is NaN or Inf on the report text, so nothing is saved: check the models, or take other "
                "parameters"
            )
        point = numbers["merge_point"]
        for what, height in (("barrier", numbers["barrier"]), ("excess loss of the merge", point["excess"])):
            if self.max_barrier is not None and not height <= self.max_barrier:
                raise GateRefused(
                    f"refused: the {what} is {height:.3f} nats, above --max-barrier {self.max_barrier:g}; "
                    "nothing was saved"
                )
        if self.require_gain and not point["gain"] > 0:
            raise GateRefused(
                f"refused: the merge is worse than the better endpoint by {-point['gain']:.3f} ± "
                f"{point['gain_stderr']:.3f} nats (--require-gain); nothing was saved"
            )

    def pass_spectrum(self, spectrum: SpectrumReport) -> None:
        """Judge a spectrum. Raises GateRefused when it is contracted or inflated."""
        if self.require_spectrum and spectrum.verdict in ("contracted", "inflated"):
            raise GateRefused(
                f"refused: the spectrum is {spectrum.verdict} (excess {spectrum.excess:.3f} nats, at most "
                f"{spectrum.limit:g}; --require-spectrum); nothing was saved"
            )
