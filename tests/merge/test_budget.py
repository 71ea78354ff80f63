"""Merges that are wider than their models, `--budget`."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import pytest
from conftest import EMBEDDED
from interrupting import Interrupted
from merging import merge
from transformers import AutoModelForCausalLM

from isthmus.checkpoint.errors import BadInput
from isthmus.eval.sentences import sentences
from isthmus.merge.plans import Gates, LearnPlan

PAIR = EMBEDDED / "adamw-1", EMBEDDED / "muon-1"
QUICK = {"data": ("stdlib:docs",), "tokens": 512, "t": 0.5}


def test_a_wider_merge_is_lower_and_a_plain_model(tmp_path: Path) -> None:
    barriers = []
    for budget in (1.0, 1.5, 2.0):
        merged = merge(*PAIR, align="orthogonal", budget=budget, **QUICK)
        barriers.append(merged.report["barrier"])
    assert barriers[0] > barriers[1] + 0.1 > barriers[2] + 0.1
    report = merged.save(tmp_path / "out")
    assert report["alignment"]["widened"] == {"key": "n_inner", "from": 512, "to": 1024, "more_parameters": 0.491}
    assert "the MLPs of the merge have 1024 neurons (n_inner), those of the models 512" in "\n".join(sentences(report))
    assert report["spectrum"] is None
    assert "--budget 2" in report["reproduce"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model, loading = AutoModelForCausalLM.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert model.config.n_inner == 1024
    assert not any(loading.values())
    assert json.loads((tmp_path / "out" / "config.json").read_text())["n_inner"] == 1024


def test_an_alignment_is_learned_with_the_room(tmp_path: Path) -> None:
    """It begins with the wider line, and ends below it."""
    options = {"align": "learned", "learn": LearnPlan(steps=24), **QUICK}
    merged = merge(*PAIR, budget=1.25, **options)
    learning = merged.report["alignment"]["learning"]
    assert merged.report["alignment"]["method"] == "learned"
    assert learning["history"][-1]["select_excess"] < learning["history"][0]["select_excess"] - 0.05
    assert merged.report["alignment"]["max_log_prob_error"] < 1e-4
    assert merged.save(tmp_path / "out")["alignment"]["widened"]["to"] == 640
    plain = merge(*PAIR, **options)
    assert plain.report["alignment"]["learning"]["history"][0] != learning["history"][0]


def test_a_run_goes_on_with_its_own_budget_alone(tmp_path: Path) -> None:
    options = {"align": "learned", "learn": LearnPlan(steps=24), "beside": tmp_path / "out", **QUICK}
    with pytest.raises(KeyboardInterrupt):
        merge(*PAIR, budget=1.25, progress=Interrupted(16, "learning the alignment"), **options)
    with pytest.raises(BadInput, match="an unfinished run with other models, text or settings"):
        merge(*PAIR, budget=1.5, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"budget": 0.5}, "from 1 to 2; got 0.5"),
        ({"budget": 2.5}, "from 1 to 2; got 2.5"),
        ({"budget": float("nan")}, "from 1 to 2; got nan"),
        ({"budget": 1.5, "measure_spectrum": True}, "leave --spectrum and --require-spectrum out"),
        ({"budget": 1.5, "gates": Gates(require_spectrum=True)}, "leave --spectrum and --require-spectrum out"),
        ({"budget": 1.5, "restore": True}, "--restore-spectrum puts back"),
        ({"budget": 1.5, "as_lora": 4}, "an adapter cannot"),
    ],
    ids=str,
)
def test_what_no_wider_merge_can_be(options: dict[str, object], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        merge(*PAIR, data=("stdlib:docs",), align="orthogonal", **options)


def test_an_operator_takes_no_budget(isthmus, tmp_path: Path) -> None:
    words = ("merge", *PAIR, "-o", tmp_path / "out", "--method", "linear", "--budget", 1.5)
    outcome = isthmus(*words)
    assert outcome.code == 2
    assert "--budget is for two models and the path between them" in outcome.err


def test_why_a_wider_merge_is_what_it_is_cannot_be_told_by_its_weights(isthmus, tmp_path: Path) -> None:
    merge(*PAIR, align="orthogonal", budget=1.5, t=0.5).save(tmp_path / "out")
    outcome = isthmus("explain", tmp_path / "out", *PAIR)
    assert outcome.code in (2, 3)
    assert "the number of neurons differs: 768" in outcome.err
    assert "Traceback" not in outcome.err
