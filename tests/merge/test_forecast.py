"""What a merge will do, foreseen: the stages, tokens and steps that the merge then has."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import EMBEDDED
from merging import merge, plan_of
from stages import Stages
from tiny_models import tiny_bert, tiny_neox, tiny_rotary
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from transformers import BertForMaskedLM, Gemma3ForCausalLM, LlamaForCausalLM, MixtralForCausalLM

from isthmus.align.canonical import canonical
from isthmus.align.families import family
from isthmus.checkpoint.errors import BadInput, IncompatibleModels
from isthmus.eval import memorization, samples
from isthmus.eval.loss import LossMeter
from isthmus.merge.forecast import Forecast, alignments, forecast, stages
from isthmus.merge.forecast.speed import shallow
from isthmus.merge.forecast.work import Work
from isthmus.merge.plans import CurvePlan, LearnPlan, MergePlan, PathTraining
from isthmus.merge.spectra import spectrum
from isthmus.merge.training import path_loss

DOCS = ("stdlib:docs:heldout",)
STRANGERS, RELATIVES = ("adamw-1", "muon-1"), ("docs", "code")
THREE = ("adamw-1", "adamw-2", "muon-1")
QUICK = {"data": DOCS, "tokens": 2048}
PLANS: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {
    "relatives": (RELATIVES, QUICK),
    "learned": (STRANGERS, {**QUICK, "align": "learned", "learn": LearnPlan(steps=12)}),
    "a curve": (
        STRANGERS,
        {**QUICK, "align": "orthogonal", "path": CurvePlan(training=PathTraining(steps=6, batch=8))},
    ),
    "a closed form at a point": (STRANGERS, {**QUICK, "align": "orthogonal", "t": 0.5}),
    "three": (THREE, {**QUICK, "align": "orthogonal"}),
    "a star": (
        THREE,
        {**QUICK, "align": "orthogonal", "path": CurvePlan(training=PathTraining(steps=6, batch=8))},
    ),
}


class Counted:
    """Tokens that go through models while something is done."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        self.evaluated = self.written = self.trained = self.steps = 0
        measured, written, step = LossMeter.token_losses, samples.written_blocks, path_loss.PathModule.forward

        def token_losses(
            meter: LossMeter, state: Mapping[str, Tensor], blocks: Mapping[str, Tensor] | None = None
        ) -> dict[str, Tensor]:
            own = meter.blocks if blocks is None else blocks
            self.evaluated += sum(rows.numel() for rows in own.values())
            return measured(meter, state, blocks)

        def blocks(state: Any, config: Any, first: Tensor, length: int, **keywords: Any) -> Tensor:
            rows = written(state, config, first, length, **keywords)
            self.written += rows.numel() - first.numel()
            return rows

        def forward(module: Any, ids: Tensor, *others: Any) -> Tensor:
            self.trained += ids.numel()
            self.steps += 1
            return step(module, ids, *others)

        monkeypatch.setattr(LossMeter, "token_losses", token_losses)
        for module in (samples, memorization):
            monkeypatch.setattr(module, "written_blocks", blocks)
        monkeypatch.setattr(path_loss.PathModule, "forward", forward)


def of(names: tuple[str, ...], plan: dict[str, Any]) -> Forecast:
    return forecast([EMBEDDED / name for name in names], plan_of(**plan))


@pytest.mark.parametrize("case", PLANS)
def test_a_merge_does_what_was_foreseen(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    names, plan = PLANS[case]
    monkeypatch.setattr(stages, "RESOLUTION", 3)  # as planes are drawn in tests
    work = (foreseen := of(names, plan)).work
    counted, shown = Counted(monkeypatch), Stages()
    merge(*(EMBEDDED / name for name in names), progress=shown, **plan)
    assert (counted.steps, counted.trained) == (work.steps, work.trained)
    assert counted.evaluated == pytest.approx(work.evaluated - 2048, rel=0.2)  # saving measures once more
    assert counted.written == pytest.approx(work.written, rel=0.15)
    foreseen_names = [stage.name.partition(" (")[0] for stage in foreseen.stages]
    heavy = ("aligning", "learning", "training", "measuring", "looking for", "writing samples")
    for name in dict.fromkeys(name.partition(" (")[0] for name in shown.names if name.startswith(heavy)):
        assert name in foreseen_names, f"{name!r} was not foreseen"


class Watched(Stages):
    """A progress bar that wants to know how long all takes."""

    wants_expectations = True
    expected: Sequence[tuple[str, float]] = ()

    def expect(self, stages: Sequence[tuple[str, float]]) -> None:
        self.expected = stages


def test_a_progress_bar_of_a_long_merge_knows_how_long_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    names, plan = PLANS["a closed form at a point"]
    quick, long = Watched(), Watched()
    unseen = merge(*(EMBEDDED / name for name in names), progress=quick, **plan).report
    assert quick.expected == []
    monkeypatch.setattr(sys.modules[forecast.__module__], "LONG", 1.0)
    seen = merge(*(EMBEDDED / name for name in names), progress=long, **plan).report
    assert [name for name, _ in long.expected] == [stage.name for stage in of(names, plan).stages]
    assert seen["profile"] == unseen["profile"]  # finding out how fast the machine is draws no random numbers of others


def test_strangers_are_told_from_relatives() -> None:
    plan = {**QUICK, "learn": LearnPlan(steps=50)}
    strangers, relatives = of(STRANGERS, plan), of(RELATIVES, plan)
    assert relatives.relatives
    assert not strangers.relatives
    assert relatives.work.steps == 0 < strangers.work.steps == 50
    assert relatives.otherwise is not None
    assert strangers.otherwise is not None
    assert relatives.otherwise > relatives.total
    assert strangers.otherwise < strangers.total


def test_text_that_leaves_nothing_to_learn_on_is_not_learned_on(tmp_path: Path) -> None:
    (tmp_path / "again.txt").write_text("again " * 30_000)
    foreseen = of(STRANGERS, {"data": (str(tmp_path / "again.txt"),), "tokens": 1024})
    assert foreseen.work.steps == 0


def test_weights_that_only_pass_through_take_no_model() -> None:
    foreseen = of(STRANGERS, {"align": "none", "t": 0.5})
    assert foreseen.work.evaluated == 0
    assert [stage.name for stage in foreseen.stages] == ["merging", "saving"]
    states = 4 * foreseen.weights
    assert max(stage.holds for stage in foreseen.stages) < states


def test_what_is_wrong_is_found(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no text at"):
        of(STRANGERS, {"data": (str(tmp_path / "missing.txt"),)})
    tiny_neox().save_pretrained(tmp_path / "other")
    with pytest.raises(IncompatibleModels):
        forecast([EMBEDDED / "adamw-1", tmp_path / "other"], MergePlan(data=DOCS))


MODELS = {
    "gpt_neox": tiny_neox,
    "llama": lambda **size: tiny_rotary(LlamaForCausalLM, **size),
    "gemma3": lambda **size: tiny_rotary(Gemma3ForCausalLM, head_dim=8, **size),
    "mixtral": lambda **size: tiny_rotary(MixtralForCausalLM, num_local_experts=3, **size),
    "bert": lambda **size: tiny_bert(BertForMaskedLM, **size),
}


@pytest.mark.parametrize("name", MODELS)
def test_a_shallow_model_has_the_shapes_of_its_layers(name: str) -> None:
    deep = MODELS[name](num_hidden_layers=4)
    config = shallow(deep.config, 1)
    made = type(deep)(config)
    ids = torch.randint(128, (1, 8))
    assert made(ids).logits.shape == deep(ids).logits.shape
    shapes = {key: value.shape for key, value in deep.state_dict().items()}
    assert all(value.shape == shapes[key] for key, value in made.state_dict().items())
    assert sum(value.numel() for value in made.state_dict().values()) < sum(map(torch.Size.numel, shapes.values()))


@pytest.mark.parametrize("name", MODELS)
def test_the_matrices_of_a_spectrum_are_those_that_are_measured(name: str) -> None:
    model = MODELS[name]()
    table = family(model.config)
    state = {key: value for key, value in model.state_dict().items() if key in table.schema().shapes}
    matrices = table.untied().measured(table.untied().split(canonical(state, table))).values()
    sizes = sorted((min(matrix.shape), max(matrix.shape)) for matrix in matrices)
    assert sorted(alignments._matrices(table)) == sizes
    with FlopCounterMode(display=False) as counter:
        spectrum(state, model.config)
    grams = sum(2 * rows * rows * columns for rows, columns in sizes)
    assert counter.get_total_flops() >= grams
    assert alignments.spectrum(table).products == pytest.approx(alignments.FLOAT64 * grams)


def test_amounts_add_up_to_seconds() -> None:
    work = Work(evaluated=10, steps=2) + 3 * Work(evaluated=1)
    assert work == Work(evaluated=13, steps=2)
    assert work.seconds(Work(evaluated=0.5, steps=2.0, trained=9.0)) == pytest.approx(13 * 0.5 + 4)


def test_the_command_line_says_it_and_merges_nothing(tmp_path: Path) -> None:
    models = [str(EMBEDDED / name) for name in RELATIVES]
    output, data = tmp_path / "merged", ["--data", DOCS[0], "--tokens", "2048"]
    command = [sys.executable, "-m", "isthmus", "merge", *models, "-o", str(output), *data, "--plan", "--json", "-"]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    report = json.loads(run.stdout)
    assert report["relatives"]
    assert report["text"] == {"docs": {"select": 2048, "report": 2048}}
    assert report["seconds"] == pytest.approx(
        report["opening_seconds"] + sum(stage["seconds"] for stage in report["stages"]), abs=0.5
    )
    assert "nothing was merged" in run.stderr
    assert "of memory, of" in run.stderr
    assert not output.exists()
