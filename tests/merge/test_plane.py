from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import EMBEDDED

from isthmus.checkpoint.errors import BadInput, IncompatibleModels
from isthmus.merge.plane import loss_plane
from isthmus.merge.plans import PlanePlan

THREE = [EMBEDDED / name for name in ("adamw-1", "docs", "code")]
DATA = ("stdlib:docs:heldout",)


def test_the_plane_through_three_models(isthmus, tmp_path: Path) -> None:
    options = ("--data", DATA[0], "--tokens", 256, "--resolution", 3, "--align", "none", "--json", "-")
    found = isthmus("plane", *THREE, "-o", tmp_path / "out", *options)
    assert found.code == 0
    report = json.loads(found.out)
    assert [model["name"] for model in report["plane"]["models"]] == ["A: adamw-1", "B: docs", "C: code"]
    assert [len(row) for row in report["plane"]["loss"]] == [3, 3, 3]
    assert {file.name for file in (tmp_path / "out").iterdir()} == {"isthmus.json", "report.html", "plane.png"}
    page = (tmp_path / "out" / "report.html").read_text()
    assert "The loss on the plane through A: adamw-1, B: docs, C: code" in page


def test_models_are_aligned_first() -> None:
    """A permuted copy lies on the original once it is aligned, and the two span no plane with a third."""
    three = [EMBEDDED / name for name in ("adamw-1", "muon-1", "muon-2")]
    plans = [PlanePlan(data=DATA, tokens=256, resolution=3, align=align) for align in ("none", "orthogonal")]
    apart, close = (loss_plane(three, plan) for plan in plans)
    assert min(close.plane.loss[1]) < min(apart.plane.loss[1])


def test_what_spans_no_plane(saved) -> None:
    with pytest.raises(BadInput, match="a plane goes through three models; got 2"):
        loss_plane(THREE[:2], PlanePlan(data=DATA))
    with pytest.raises(BadInput, match="a loss needs text: add --data"):
        loss_plane(THREE, PlanePlan(data=()))
    with pytest.raises(BadInput, match="--resolution is at least 2"):
        loss_plane(THREE, PlanePlan(data=DATA, resolution=1))
    with pytest.raises(BadInput, match="the first two models are the same"):
        loss_plane([THREE[0], THREE[0], THREE[1]], PlanePlan(data=DATA, tokens=256, align="none", resolution=2))
    with pytest.raises(IncompatibleModels):
        loss_plane([THREE[0], THREE[1], saved("other")], PlanePlan(data=DATA))
