from __future__ import annotations

import pytest
from conftest import EMBEDDED
from token_blocks import blocks

from isthmus.checkpoint.loading import load
from isthmus.eval.corpora import WRITTEN, corpus
from isthmus.eval.progress import Progress
from isthmus.merge.path import WeightPath
from isthmus.merge.plans import CurvePlan, PathTraining
from isthmus.merge.training.fitting import Fitter, training_record


class Notes(Progress):
    def __init__(self) -> None:
        self.told: list[str] = []

    def note(self, text: str) -> None:
        self.told.append(text)


@pytest.mark.parametrize("label", [WRITTEN, "docs"])
def test_from_a_model_to_itself_there_is_nothing_to_learn_but_from_true_text(label: str) -> None:
    """Where a text is written, the models are the truth: training that only departs from them is not kept."""
    model = load(EMBEDDED / "code")  # fine-tuned on code; this text is docstrings, which it knows less well
    state = dict(model.state)
    text = blocks(
        corpus("stdlib:docs"), model.tokenizer(), context=64, fit_tokens=24_576, select_tokens=1024, report_tokens=0
    )
    progress = Notes()
    trained, plan = Fitter({label: text.fit}, {label: text.select}, progress=progress).curve(
        WeightPath("linear", state, state),
        model.config,
        CurvePlan(training=PathTraining(steps=24, batch=8, lr=3e-4)),
    )
    excesses = [entry["select_excess"] for entry in training_record(plan, trained)["history"]]
    assert abs(excesses[0]) < 1e-6
    assert (min(excesses) > -0.01) == (label == WRITTEN)
    assert progress.told[-1].startswith("barrier 0.0")


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
