from __future__ import annotations

import pytest

from isthmus.eval.sentences import sentences
from isthmus.eval.summary import loss_table


def report(**changes: object) -> dict:
    facts = {
        "optimizers": {"relation": "unknown"},
        "endpoints": [{"ref": "a", "loss": {"x": 3.0, "y": 2.0}}, {"ref": "b", "loss": {"x": 2.0, "y": 3.0}}],
        "data": [{"label": "x"}, {"label": "y"}],
        "alignment": {"method": "orthogonal", "asked": "auto"},
        "barrier": 0.5,
        "barrier_before_alignment": 2.0,
        "merge_point": {"t": 0.5, "losses": {"x": 2.5, "y": 2.7}, "gain": -0.1, "gain_stderr": 0.01},
        "baselines": {"naive_average": {"losses": {"x": 5, "y": 5}}, "ensemble": {"losses": {"x": 2, "y": 2}}},
        "spectrum": None,
        "path": {"kind": "linear", "bends": 0, "steps": 0},
        "line_barrier": 0.5,
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
    columns, rows = loss_table(report(data=[{"label": "x"}]))
    assert columns == ("x",)
    assert rows[3].losses == (2.5,)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, "barrier 0.500 nats after orthogonal alignment, 2.000 before (25% of it)"),
        ({"barrier": 2.5}, "barrier 2.500 nats: orthogonal alignment did not help, it was 2.000 before"),
        (
            {"alignment": {"method": "none", "asked": "auto", "tried": {"none": 0.5, "orthogonal": 0.6}}},
            "alignment did not lower it, so none was used",
        ),
        (
            {"alignment": {"method": "none", "asked": "auto", "tried": {"none": 0.0}}},
            "nats (within the noise without alignment)",
        ),
        (
            {"alignment": {"method": "learned", "asked": "auto", "learning": {"diverged_at": 7, "best_step": 3}}},
            "learning the alignment diverged at step 7 (the loss was NaN or Inf): that of step 3 was kept",
        ),
        ({"alignment": {"method": "none", "asked": "none"}}, "barrier 0.500 nats (no alignment)"),
        ({"barrier": 0.0, "barrier_before_alignment": 0.0}, "did not help, it was 0.000 before"),
        ({}, "the merge is worse than the better endpoint by 0.100 ± 0.010 nats"),
        ({"merge_point": gain(0.1, 0.01)}, "the merge is better than the better endpoint by 0.100 ± 0.010 nats"),
        ({"merge_point": gain(-0.01, 0.01)}, "equally good within the noise (-0.010 ± 0.010 nats)"),
    ],
)
def test_plain_words(changes: dict, expected: str) -> None:
    assert any(expected in sentence for sentence in sentences(report(**changes)))


BENT = {"kind": "bezier", "bends": 2, "steps": 300, "optimizer": "muon", "diverged_at": None, "best_step": 9}


def test_a_curve_is_compared_with_the_line() -> None:
    lines = sentences(report(path=BENT, barrier=0.02, line_barrier=0.5))
    assert lines[0] == (
        "barrier 0.020 nats on a bezier of 2 bends (muon, 300 steps) after orthogonal alignment; 0.500 on the straight "
        "line, 2.000 before alignment (1.0% of it)"
    )
    flat = report(path=BENT, barrier=0.0, line_barrier=0.0, barrier_before_alignment=0.0)
    assert sentences(flat)[0].endswith("0.000 on the straight line, 0.000 before alignment"), "no share of nothing"
    assert any("diverged at step 10 " in sentence for sentence in sentences(report(path=BENT | {"diverged_at": 10})))


def test_the_spectrum_along_the_path_and_whether_it_was_restored() -> None:
    points = [{"t": 0.0, "excess": 0.0}, {"t": 0.5, "excess": 0.2}]
    for verdict, expected in (
        ("preserved", "preserved all along"),
        ("transition", "a smooth transition"),
        ("broken", "broken at t = 0.5 (highest excess 0.200 nats)"),
    ):
        along = {"verdict": verdict, "broken_at": [0.5], "points": points}
        assert any(expected in sentence for sentence in sentences(report(path_spectrum=along)))
    restored = {"kept": True, "select_loss": 2.0, "select_loss_without": 2.1}
    assert "spectrum restored: " in sentences(report(restored_spectrum=restored))[-1]
    assert "not restored, the loss would rise" in sentences(report(restored_spectrum=restored | {"kept": False}))[-1]


@pytest.mark.parametrize("verdict", ["preserved", "transition", "contracted", "inflated"])
def test_every_verdict_is_explained(verdict: str) -> None:
    spectrum = {"verdict": verdict, "excess": 0.02, "position": 0.5, "distance": 0.6}
    assert sentences(report(spectrum=spectrum))[-1].startswith(f"spectrum {verdict}: ")


OPERATOR = {
    "method": {"name": "ties"},
    "base": {"ref": "c"},
    "soup": {
        "kind": "search",
        "weights": [0.5, 1.25],
        "select_loss": 2.5,
        "select_loss_uniform": 2.6,
        "evaluations": 9,
    },
    "merge_point": gain(-0.1, 0.01) | {"excess": -0.05},
    "baselines": {
        "naive_average": {"losses": {"x": 5, "y": 5}, "excess": 2.5},
        "average": {"losses": {"x": 4, "y": 4}, "excess": 1.5},
        "base": {"losses": {"x": 3, "y": 4}},
        "ensemble": {"losses": {"x": 2, "y": 2}},
    },
}


def test_what_an_operator_made() -> None:
    lines = sentences(report(**OPERATOR))
    assert lines[:3] == (
        "2 models merged by ties, on top of c: -0.050 nats against their mean loss (+2.500 for the plain average, "
        "+1.500 for that after orthogonal alignment)",
        "weights of the search soup: A 0.5, B 1.25 (select loss 2.500, 2.600 with equal ones; 9 tried)",
        "the merge is worse than the better endpoint by 0.100 ± 0.010 nats",
    )
    _, rows = loss_table(report(**OPERATOR))
    assert [row.model for row in rows] == [
        "A: a",
        "B: b",
        "base: c",
        "naive average",
        "average, aligned",
        "merge by ties",
        "ensemble of A and B",
    ]
    assert [row.model for row in rows if row.is_merge] == ["merge by ties"]


def test_an_operator_without_text() -> None:
    lines = sentences(report(**OPERATOR | {"data": [], "base": None, "soup": None}))
    assert lines == ("2 models merged by ties; without text, no loss was measured",)


def test_three_endpoints_have_no_position() -> None:
    spectrum = {"verdict": "transition", "excess": 0.05, "position": None, "distance": 0.8}
    ends = [{"ref": name, "loss": {"x": 3.0, "y": 2.0}} for name in "abc"]
    lines = sentences(report(**OPERATOR | {"endpoints": ends, "spectrum": spectrum}))
    assert "worse than the best model" in lines[2]
    assert lines[-1].endswith("(excess 0.050 nats, endpoints at most 0.800 nats apart)")


@pytest.mark.parametrize(
    ("gain", "error", "sentence"),
    [
        (0.012, 0.003, "choosing weights gained 0.0120 ± 0.0030 nats against equal ones"),
        (-0.012, 0.003, "choosing weights lost 0.0120 ± 0.0030 nats against equal ones"),
        (0.005, 0.003, "choosing weights bought nothing: +0.0050 ± 0.0030 nats against equal ones"),
        (0.0, 0.0, "choosing weights bought nothing: +0.0000 ± 0.0000 nats against equal ones"),
    ],
)
def test_what_a_search_bought_is_said(gain: float, error: float, sentence: str) -> None:
    groups = [{"filter": "h.0.", "weights": [0.4, 0.6]}, {"filter": None, "weights": [0.6, 0.4]}]
    searched = {"search": "gradient", "granularity": "layer", "groups": groups, "gain": gain, "gain_stderr": error}
    lines = sentences(report(**OPERATOR | {"soup": OPERATOR["soup"] | searched}))
    assert sentence in lines
    assert any("the search (gradient), means over 2 groups of tensors by layer: A 0.5" in line for line in lines)
