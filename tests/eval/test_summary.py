from __future__ import annotations

import pytest

from isthmus.eval.summary import loss_table, sentences


def report(**changes: object) -> dict:
    facts = {
        "endpoints": [{"ref": "a", "loss": {"x": 3.0, "y": 2.0}}, {"ref": "b", "loss": {"x": 2.0, "y": 3.0}}],
        "data": [{"label": "x"}, {"label": "y"}],
        "alignment": {"method": "orthogonal", "asked": "auto"},
        "barrier": 0.5,
        "barrier_before_alignment": 2.0,
        "merge_point": {"t": 0.5, "losses": {"x": 2.5, "y": 2.7}, "gain": -0.1, "gain_stderr": 0.01},
        "baselines": {"naive_average": {"losses": {"x": 5, "y": 5}}, "ensemble": {"losses": {"x": 2, "y": 2}}},
        "spectrum": None,
    }
    return facts | changes


def gain(value: float, error: float) -> dict:
    return {"t": 0.5, "losses": {"x": 2.5, "y": 2.7}, "gain": value, "gain_stderr": error}


def test_the_table_has_all_models_and_the_mean() -> None:
    columns, rows = loss_table(report())
    assert columns == ("x", "y", "mean")
    assert [row.model for row in rows] == ["A: a", "B: b", "naive average", "merge at t = 0.5", "ensemble of A and B"]
    assert rows[3].losses == pytest.approx((2.5, 2.7, 2.6))
    assert [row.is_merge for row in rows] == [False, False, False, True, False]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, "barrier 0.500 nats after orthogonal alignment, 2.000 before (25% of it)"),
        ({"barrier": 2.5}, "barrier 2.500 nats: orthogonal alignment did not help, it was 2.000 before"),
        ({"alignment": {"method": "none", "asked": "auto"}}, "alignment did not lower it, so none was used"),
        ({"alignment": {"method": "none", "asked": "none"}}, "barrier 0.500 nats (no alignment)"),
        ({}, "the merge is worse than the better endpoint by 0.100 ± 0.010 nats"),
        ({"merge_point": gain(0.1, 0.01)}, "the merge is better than the better endpoint by 0.100 ± 0.010 nats"),
        ({"merge_point": gain(-0.01, 0.01)}, "equally good within the noise (-0.010 ± 0.010 nats)"),
    ],
)
def test_plain_words(changes: dict, expected: str) -> None:
    assert any(expected in sentence for sentence in sentences(report(**changes)))


@pytest.mark.parametrize("verdict", ["preserved", "transition", "contracted", "inflated"])
def test_every_verdict_is_explained(verdict: str) -> None:
    spectrum = {"verdict": verdict, "excess": 0.02, "position": 0.5, "distance": 0.6}
    assert sentences(report(spectrum=spectrum))[-1].startswith(f"spectrum {verdict}: ")
