"""What a merge must satisfy to be saved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from ...checkpoint.errors import GateRefused, NotFinite
from ..options import GATES, option
from .refusals import require_number

if TYPE_CHECKING:
    from ...eval.spectrum import SpectrumReport


_gate = partial(option, panel=GATES, recorded=False)


@dataclass(frozen=True)
class Gates:
    """What a merge must satisfy to be saved. `None` and False ask for nothing."""

    max_barrier: float | None = _gate(None, "Refuse a higher barrier, in nats, on any text.")
    require_spectrum: bool = _gate(False, "Refuse a contracted or inflated spectrum.")
    require_gain: bool = _gate(False, "Refuse a merge worse than the better endpoint.")
    require_task: Sequence[str] = _gate((), "Refuse a lower score on a task: NAME>=0.6, or NAME>=60%. Repeatable.")

    def __post_init__(self) -> None:
        require_number("--max-barrier", self.max_barrier)

    @property
    def need_loss(self) -> bool:
        """Whether any of them can only be judged on text."""
        return self.max_barrier is not None or self.require_gain

    def pass_loss(self, losses: Mapping[str, Any]) -> None:
        """Judge `barrier` and `merge_point` of a report: neither the path nor the merge itself may lie higher.

        Raises NotFinite, whatever the gates, where a loss is NaN or Inf; GateRefused.
        """
        from ...checkpoint.finite import place_of_nan

        place = place_of_nan(losses)
        if place is not None:
            raise NotFinite(
                f"'{place}' is NaN or Inf on the report text, so nothing is saved: check the models, or take other "
                "parameters"
            )
        point = losses["merge_point"]
        heights = [("barrier", losses["barrier"]), ("excess loss of the merge", point["excess"])]
        heights += [(f"barrier on the text '{label}'", height) for label, height in losses.get("barriers", {}).items()]
        heights += [(f"barrier on other text, '{row['label']}',", row["barrier"]) for row in losses["probe"]]
        for what, height in heights:
            if self.max_barrier is not None and not height <= self.max_barrier:
                raise GateRefused(
                    f"refused: the {what} is {height:.3f} nats, above --max-barrier {self.max_barrier:g}; "
                    "nothing was saved"
                )
        gains = [("", point["gain"], point["gain_stderr"], point["gain"] > 0)]
        for row in losses["probe"]:
            gain, error = row["gain"], row["gain_stderr"]
            fitted = row["barrier_without_fitting"] is not None
            gains.append((f" on other text, '{row['label']}',", gain, error, not fitted or gain > -2 * error))
        for where, gain, error, passes in gains:
            if self.require_gain and not passes:
                raise GateRefused(
                    f"refused: the merge is worse than the better endpoint{where} by {-gain:.3f} ± {error:.3f} nats "
                    "(--require-gain); nothing was saved"
                )

    def pass_spectrum(self, verdict: SpectrumReport) -> None:
        """Judge a spectrum. Raises GateRefused when it is contracted or inflated."""
        if self.require_spectrum and verdict.verdict in ("contracted", "inflated"):
            raise GateRefused(
                f"refused: the spectrum is {verdict.verdict} (excess {verdict.excess:.3f} nats, at most "
                f"{verdict.limit:g}; --require-spectrum); nothing was saved"
            )
