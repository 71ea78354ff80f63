"""Three models with arms to one trained centre, which is the merge."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import EMBEDDED
from interrupting import Interrupted
from merging import combine, merge

from isthmus.checkpoint.errors import BadInput
from isthmus.eval.sentences import sentences
from isthmus.merge.path import WeightPath
from isthmus.merge.plans import CurvePlan, PathTraining
from isthmus.merge.recipes.recipe import recipe
from isthmus.merge.result import Merge
from isthmus.merge.simplex import Star

MODELS = tuple(EMBEDDED / name for name in ("adamw-1", "adamw-2", "muon-1"))
PLAN = CurvePlan(training=PathTraining(steps=30, batch=8))
QUICK = {"data": ("stdlib:docs",), "tokens": 1024, "align": "orthogonal", "path": PLAN}
GENERATOR = torch.Generator().manual_seed(0)


@functools.cache
def merged() -> Merge:
    return merge(*MODELS, **QUICK)


def test_the_centre_is_far_lower_than_the_average() -> None:
    report = merged().report
    star, point = report["star"], report["merge_point"]
    assert star["select_loss"] < star["select_loss_average"] - 0.2
    assert point["excess"] < report["baselines"]["average"]["excess"] - 0.2
    assert [arm["points"][-1]["loss"] for arm in star["arms"]] == pytest.approx([point["loss"]] * 3, abs=1e-3)
    assert "3 models merged by the trained centre of their average" in sentences(report)[0]


def test_arms_begin_at_the_models_and_rise_to_the_centre() -> None:
    report = merged().report
    for end, arm in zip(report["endpoints"], report["star"]["arms"], strict=True):
        assert arm["points"][0]["loss"] == pytest.approx(end["loss"]["docs"], abs=1e-3)
        assert arm["points"][0]["excess"] == pytest.approx(0, abs=1e-6)
        assert arm["points"][-1]["excess"] == pytest.approx(report["merge_point"]["excess"], abs=1e-3)
        assert arm["barrier"] == max(point["excess"] for point in arm["points"])


def test_it_is_learned_together_with_the_alignment(tmp_path: Path) -> None:
    report = merge(*MODELS, **{**QUICK, "align": "learned"}).report
    assert report["alignment"]["method"] == "learned"
    assert report["alignment"]["max_log_prob_error"] < 1e-4
    assert report["star"]["select_loss"] < report["star"]["select_loss_average"]


def test_an_interrupted_run_goes_on_to_the_same_end(tmp_path: Path) -> None:
    stopped = Interrupted(20, "training the centre of 3 models (adamw)")
    with pytest.raises(KeyboardInterrupt):
        merge(*MODELS, beside=tmp_path / "out", progress=stopped, **QUICK)
    assert list(tmp_path.glob(".*isthmus-training*"))
    again = merge(*MODELS, beside=tmp_path / "out", **QUICK)
    assert again.report["star"]["history"] == merged().report["star"]["history"]
    assert all(torch.equal(again.state[name], merged().state[name]) for name in again.state)


def test_of_two_models_it_is_their_polychain() -> None:
    a, b, centre = ({"w": torch.randn(3)} for _ in range(3))
    star, chain = Star((a, b), (centre,), (0.5, 0.5)), WeightPath("polychain", a, b, (centre,))
    for arm, t, along in ((0, 0.5, 0.25), (0, 1.0, 0.5), (1, 1.0, 0.5), (1, 0.5, 0.75), (1, 0.0, 1.0)):
        assert torch.allclose(star((arm, t))["w"], chain(along)["w"])
        assert star.shares((arm, t)) == pytest.approx(chain.shares(along))


def test_all_arms_are_trained_alike_and_only_near_the_centre() -> None:
    star = Star(({}, {}, {}), ({},), (0.2, 0.3, 0.5))
    places = star.places(240, (0.4, 1.0), GENERATOR)
    assert [sum(arm == number for arm, _ in places) for number in range(3)] == [80, 80, 80]
    assert all(0.4 <= t <= 1 for _, t in places)
    assert sum(t for _, t in places) / 240 == pytest.approx(0.7, abs=0.01)
    assert star.shares((2, 1.0)) == (0.2, 0.3, 0.5)
    assert star.shares((2, 0.0)) == (0.0, 0.0, 1.0)
    assert sum(star.shares((1, 0.3))) == pytest.approx(1)


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"path": CurvePlan("bezier")}, "arms from the models to their centre are straight: take --path polychain"),
        ({"path": CurvePlan(bends=2)}, "one centre in common; got --bends 2"),
        ({"data": ()}, "a centre is trained on text: add --data"),
        ({"soup": "greedy"}, "--path trains the centre, and a greedy soup chooses weights"),
        ({"refit": True}, "--refit is for averages, and points of a curve are none"),
    ],
)
def test_what_a_star_cannot_be(fields: dict[str, Any], why: str) -> None:
    with pytest.raises(BadInput, match=why):
        merge(*MODELS, **{**QUICK, **fields})


def test_other_operators_and_two_models_have_no_star() -> None:
    plan = recipe("ties", list(map(str, MODELS[1:])), base=str(MODELS[0]))
    with pytest.raises(BadInput, match="trains one centre for plain averages of three models or more"):
        combine(plan, **QUICK)
    with pytest.raises(BadInput, match="--path of two models is a path between them: leave --method out"):
        combine(recipe("linear", list(map(str, MODELS[:2]))), **QUICK)
