from __future__ import annotations

import pytest

from isthmus.checkpoint.errors import GateRefused
from isthmus.eval.spectrum import SpectrumReport
from isthmus.merge.plans import Gates

NUMBERS = {"barrier": 0.4, "merge_point": {"excess": 0.1, "gain": -0.3, "gain_stderr": 0.01}, "probe": []}


def spectrum_report(verdict: str) -> SpectrumReport:
    return SpectrumReport(verdict, 0.2, 0.5, 0.8, -0.2, 0.04, ())  # type: ignore[arg-type]


def test_no_gate_asks_for_nothing() -> None:
    Gates().pass_loss(NUMBERS)
    Gates().pass_spectrum(spectrum_report("contracted"))
    assert not Gates(require_spectrum=True).need_loss


def test_max_barrier() -> None:
    Gates(max_barrier=0.4).pass_loss(NUMBERS)
    with pytest.raises(GateRefused, match=r"the barrier is 0\.400 nats, above --max-barrier 0\.39; nothing was saved"):
        Gates(max_barrier=0.39).pass_loss(NUMBERS)


def test_require_gain() -> None:
    Gates(require_gain=True).pass_loss(NUMBERS | {"merge_point": {"excess": 0.1, "gain": 0.01, "gain_stderr": 0.01}})
    with pytest.raises(GateRefused, match=r"worse than the better endpoint by 0\.300 ± 0\.010 nats"):
        Gates(require_gain=True).pass_loss(NUMBERS)


@pytest.mark.parametrize("verdict", ["preserved", "transition", "contracted", "inflated"])
def test_require_spectrum(verdict: str) -> None:
    gates = Gates(require_spectrum=True)
    if verdict in ("preserved", "transition"):
        gates.pass_spectrum(spectrum_report(verdict))
    else:
        with pytest.raises(GateRefused, match=rf"the spectrum is {verdict} \(excess 0\.200 nats, at most 0\.04;"):
            gates.pass_spectrum(spectrum_report(verdict))
