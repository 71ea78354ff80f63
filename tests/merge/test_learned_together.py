"""Three models whose alignment is learned together, merged by an operator."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest
import torch
from conftest import EMBEDDED
from interrupting import Interrupted
from merging import combine, merge

from isthmus.checkpoint.errors import BadInput
from isthmus.merge.plans import LearnPlan
from isthmus.merge.recipes.recipe import recipe
from isthmus.merge.result import Merge
from isthmus.merge.simplex import Simplex
from isthmus.merge.training.path_training import Batches

MODELS = tuple(EMBEDDED / name for name in ("adamw-1", "adamw-2", "muon-1"))
DATA = ("stdlib:docs",)
QUICK = {"data": DATA, "tokens": 1024, "align": "learned", "measure_spectrum": True}
PLAN = LearnPlan(steps=40, batch=8)


@functools.cache
def merged() -> Merge:
    return merge(*MODELS, learn=PLAN, **QUICK)


def test_the_average_is_lower_than_that_of_the_closed_form() -> None:
    report = merged().report
    alignment = report["alignment"]
    assert alignment["method"] == "learned"
    assert alignment["learning"]["start"] in ("orthogonal", "combined")
    assert alignment["learning"]["fit_on"] == ["docs"]
    assert alignment["tried"]["learned"] < min(alignment["tried"][name] for name in ("orthogonal", "combined")) - 0.1
    assert alignment["max_log_prob_error"] < 1e-4
    # Equal weights: the merge is the average of the aligned models.
    assert report["merge_point"]["loss"] == pytest.approx(report["baselines"]["average"]["loss"], abs=1e-3)


def test_what_is_saved_is_what_was_measured(tmp_path: Path) -> None:
    """`files_loss` holds it against its files; the gauge is taken out again, so that spectra can be compared."""
    merged().save(tmp_path / "out")
    norms = [tensor for name, tensor in merged().state.items() if "ln_1.weight" in name]
    assert all(torch.allclose(norm, torch.ones_like(norm), atol=1e-5) for norm in norms)


def test_an_interrupted_run_goes_on_to_the_same_end(tmp_path: Path) -> None:
    stopped = Interrupted(25, "learning the alignment")
    with pytest.raises(KeyboardInterrupt):
        merge(*MODELS, learn=PLAN, beside=tmp_path / "out", progress=stopped, **QUICK)
    kept = list(tmp_path.glob(".*isthmus-training*"))
    again = merge(*MODELS, learn=PLAN, beside=tmp_path / "out", **QUICK)
    assert kept
    assert again.report["alignment"]["learning"]["history"] == merged().report["alignment"]["learning"]["history"]
    assert all(torch.equal(again.state[name], merged().state[name]) for name in again.state)


def test_weights_are_evenly_spread_and_near_the_centre() -> None:
    blocks = torch.arange(64 * 4).view(64, 4)
    states = tuple({"w": torch.full((2,), float(number))} for number in range(3))
    places = Batches({"x": blocks}, LearnPlan(steps=32, batch=8).training, Simplex(states)).places
    weights = torch.tensor(places)
    assert torch.allclose(weights.sum(1), torch.ones(32))
    assert weights.min() >= 1 / 6
    assert torch.allclose(weights.mean(0), torch.full((3,), 1 / 3), atol=0.05)
    average = Simplex(states)(places[0])["w"]
    assert average[0].item() == pytest.approx(places[0][1] + 2 * places[0][2])


def test_two_models_by_an_operator_learn_alike() -> None:
    report = combine(recipe("linear", list(map(str, MODELS[:2]))), learn=LearnPlan(steps=16, batch=4), **QUICK).report
    assert report["alignment"]["method"] == "learned"
    assert report["merge_point"]["excess"] < 0.5


def test_without_text_it_is_refused() -> None:
    with pytest.raises(BadInput, match="is fitted to text: add --data"):
        merge(*MODELS, align="learned")


def test_a_base_takes_no_part_in_it() -> None:
    plan = recipe("task_arithmetic", list(map(str, MODELS[1:])), base=str(MODELS[0]))
    with pytest.raises(BadInput, match="a base is none of them: take --align combined"):
        combine(plan, data=DATA, align="learned")
