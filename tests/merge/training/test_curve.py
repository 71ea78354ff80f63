from __future__ import annotations

import pytest
import torch
from conftest import EMBEDDED
from token_blocks import blocks

from isthmus.checkpoint.loading import load
from isthmus.eval.corpora import corpus
from isthmus.eval.progress import Progress
from isthmus.merge.path import WeightPath
from isthmus.merge.plans import CurvePlan, PathTraining
from isthmus.merge.training.fitting import train_curve, training_record


class Notes(Progress):
    def __init__(self) -> None:
        self.told: list[str] = []

    def note(self, text: str) -> None:
        self.told.append(text)


def test_a_path_without_a_barrier_still_gets_lower() -> None:
    """From a model to itself: no barrier from the first step, and bends that training makes better than the ends."""
    model = load(EMBEDDED / "code")  # fine-tuned on code, trained here on docstrings
    state = dict(model.state)
    text = blocks(
        corpus("stdlib:docs"), model.tokenizer(), context=64, fit_tokens=24_576, select_tokens=1024, report_tokens=0
    )
    progress = Notes()
    trained, plan = train_curve(
        WeightPath("linear", state, state),
        model.config,
        {"docs": text.fit},
        {"docs": text.select},
        CurvePlan(training=PathTraining(steps=48, batch=8, lr=3e-4)),
        device="cpu",
        progress=progress,
    )
    history = training_record(plan, trained)["history"]
    assert abs(history[0]["select_excess"]) < 1e-6
    assert history[-1]["select_excess"] < -0.05
    assert trained.best > trained.steps / 2
    assert not torch.equal(trained.path.bends[0]["transformer.wte.weight"], state["transformer.wte.weight"])
    assert progress.told[-1] == "barrier 0.000"


@pytest.mark.parametrize(
    ("optimizers", "expected"),
    [
        (("muon", "muon"), "muon"),
        (("lion", "lion"), "lion"),
        (("adamw", "adamw"), "adamw"),
        (("adamw", "muon"), "adamw"),
        (("sgd", "sgd"), "adamw"),
        ((None, None), "adamw"),
        (("muon", None), "adamw"),
    ],
)
def test_auto_takes_what_trained_both(optimizers: tuple, expected: str) -> None:
    assert CurvePlan().for_endpoints(optimizers).optimizer == expected
    assert CurvePlan(optimizer="lion").for_endpoints(optimizers).optimizer == "lion"
