from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import EMBEDDED
from merging import merge
from token_blocks import labelled_blocks

from isthmus.align.families import family
from isthmus.align.pipeline import align_states
from isthmus.align.universe import Universe
from isthmus.checkpoint.errors import BadInput
from isthmus.checkpoint.loading import load
from isthmus.eval.barrier import profile
from isthmus.eval.loss import LossMeter
from isthmus.eval.progress import Progress
from isthmus.merge.path import WeightPath
from isthmus.merge.plans import CurvePlan, LearnPlan, PathTraining
from isthmus.merge.training.fitting import Fitter, movable
from isthmus.merge.training.path_loss import PathModule
from isthmus.merge.training.path_training import Trained
from isthmus.merge.training.training_state import TrainingState

DATA = ("stdlib:docs", "stdlib:code")
PLAN, BRIEF = LearnPlan(steps=48), LearnPlan(steps=12)


@dataclass(frozen=True)
class World:
    """Two models, aligned in closed form, and text."""

    config: Any
    a: dict[str, torch.Tensor]
    b: dict[str, torch.Tensor]
    start: Universe
    fit: dict[str, torch.Tensor]
    select: dict[str, torch.Tensor]
    report: dict[str, torch.Tensor]

    def learned(self, plan: LearnPlan, kept: TrainingState | None = None, progress: Progress | None = None) -> Trained:
        fitter = Fitter(self.fit, self.select, progress=progress or Progress(), run=kept)
        return fitter.learn(self.start, (self.a, self.b), plan)


@pytest.fixture(scope="module")
def world() -> World:
    first, second = load(EMBEDDED / "adamw-1"), load(EMBEDDED / "muon-1")
    a, b = dict(first.state), dict(second.state)
    text = labelled_blocks(
        DATA, first.tokenizer(), context=64, vocabulary=1024, fit_tokens=32_768, select_tokens=512, report_tokens=2048
    )
    parts = ({part.label: getattr(part, name) for part in text} for name in ("fit", "select", "report"))
    return World(first.config, a, b, Universe.of_pair(align_states(a, b, first.config)), *parts)


@pytest.fixture(scope="module")
def long(world: World) -> Trained:
    return world.learned(PLAN)


@pytest.fixture(scope="module")
def brief(world: World) -> Trained:
    return world.learned(BRIEF)


def barrier(path: WeightPath, world: World) -> float:
    return profile(path, LossMeter(world.start.config, world.report), [i / 10 for i in range(11)]).barrier


def test_the_barrier_falls_on_text_that_was_not_trained_on(world: World, long: Trained) -> None:
    straight = WeightPath("linear", world.start.states[0], world.start.states[1])
    assert barrier(long.path, world) < 0.7 * barrier(straight, world)


def test_the_function_is_preserved_and_the_path_ends_in_it(world: World, long: Trained) -> None:
    aligned = long.alignment.apply(world.b, family(world.config))
    assert long.alignment.verify(world.b, aligned, world.config) < 1e-4
    assert max((aligned[name] - long.path.b[name]).abs().max().item() for name in aligned) < 1e-4
    reference = long.alignment.reference(world.a, family(world.config))
    assert max((reference[name] - long.path.a[name]).abs().max().item() for name in reference) < 1e-4


def test_it_never_ends_above_its_start(world: World, monkeypatch) -> None:
    """Even where every step leads up: the closed form is kept, to the last digit."""
    for name, rate in (("ROTATION_LR", 30.0), ("GAUGE_LR", 3.0), ("HEADS_LR", 3.0)):
        monkeypatch.setattr(f"isthmus.align.learned.{name}", rate)
    monkeypatch.setattr("isthmus.merge.training.path_training.SPACING", 1)
    trained = world.learned(LearnPlan(steps=12, batch=4))
    heights = [height for _, _, height in trained.history]
    assert max(heights) > heights[0]
    assert trained.best == 0
    begun, _ = movable(world.start, (world.a, world.b), world.fit)
    assert all(torch.equal(trained.path.b[name], begun[1][name]) for name in begun[1])
    assert set(torch.cat(list(trained.alignment.gauge.values())).tolist()) == {0.0, 1.0}


def test_a_merge_keeps_the_closed_form_that_learning_made_worse(monkeypatch) -> None:
    """Where the few blocks that training looks at mislead it, all of the select text decides."""
    monkeypatch.setattr("isthmus.merge.search.Search.no_higher_than", lambda self, other: False)
    ends = EMBEDDED / "adamw-1", EMBEDDED / "muon-1"
    plan = LearnPlan(steps=12)
    found = merge(*ends, data=DATA, tokens=256, align="learned", learn=plan, measure_spectrum=False)
    assert found.alignment.method == found.report["alignment"]["learning"]["start"] != "none"
    assert found.report["alignment"]["tried"].keys() == {"none", "orthogonal", "combined", "learned"}


def test_precisions(world: World, brief: Trained) -> None:
    rough = world.learned(LearnPlan(steps=12, precision="bf16"))
    assert rough.history != brief.history
    for trained in (brief, rough):
        assert trained.history[-1][2] < trained.history[0][2]
        moved = trained.alignment.apply(world.b, family(world.config))
        assert trained.alignment.verify(world.b, moved, world.config) < 1e-4


class _Stopped(Exception):
    pass


class _StopsLate(Progress):
    def __init__(self, after: int) -> None:
        self.left = after

    def advance(self, steps: int = 1) -> None:
        self.left -= steps
        if self.left < 0:
            raise _Stopped


class _Counting(Progress):
    steps = 0

    def advance(self, steps: int = 1) -> None:  # once for all steps that are done already
        self.steps += 1


def test_an_interrupted_run_goes_on_to_the_same_end(world: World, brief: Trained, tmp_path: Path) -> None:
    state = TrainingState.beside(tmp_path / "out", "this run")
    with pytest.raises(_Stopped):
        world.learned(BRIEF, kept=state, progress=_StopsLate(7))
    assert state.exists()
    progress = _Counting()
    again = world.learned(BRIEF, kept=state, progress=progress)
    assert 0 < progress.steps < BRIEF.steps
    assert again.history == brief.history
    assert all(torch.equal(again.path.b[name], brief.path.b[name]) for name in brief.path.b)
    pairs = zip(again.alignment.elements.values(), brief.alignment.elements.values(), strict=True)
    assert all(torch.equal(*pair) for pair in pairs)


def test_the_gradient_is_that_of_finite_differences(world: World) -> None:
    ends, moving = movable(world.start, (world.a, world.b), world.fit)
    line = WeightPath.line(ends)
    module, ids, given = (
        PathModule(line, world.start.config, moving),
        world.fit["docs"][:2],
        torch.tensor([True, False]),
    )
    module(ids, given, 0.5).backward()
    (b,) = moving.others
    for parameter in (b.values[0], list(b.motions.parameters())[4], *moving.turn.parameters()):
        index = parameter.grad.abs().flatten().argmax()
        expected, flat, step = parameter.grad.flatten()[index].item(), parameter.data.view(-1), 1e-2
        losses = []
        for change in (step, -2 * step):
            flat[index] += change
            losses.append(module(ids, given, 0.5).item())
        flat[index] += step
        assert (losses[0] - losses[1]) / (2 * step) == pytest.approx(expected, rel=0.05, abs=1e-4)


def test_bends_and_the_alignment_train_together() -> None:
    plan = CurvePlan(training=PathTraining(steps=12, batch=8))
    ends = EMBEDDED / "adamw-1", EMBEDDED / "muon-1"
    found = merge(*ends, data=DATA, tokens=256, align="learned", path=plan, measure_spectrum=False)
    assert found.alignment.method == "learned"
    learning = found.report["alignment"]["learning"]
    assert learning["with_bends"]
    assert learning["start"] in ("orthogonal", "combined")
    assert found.report["alignment"]["max_log_prob_error"] < 1e-4
    assert found.alignment.gauge
    assert len(found.path.bends) == 1
    assert found.report["barrier"] < found.report["line_barrier"]


def test_relatives_are_learned_from_no_alignment_at_all() -> None:
    ends = EMBEDDED / "docs", EMBEDDED / "code"
    plan = LearnPlan(steps=12)
    report = merge(*ends, data=DATA, tokens=512, align="learned", learn=plan, measure_spectrum=False).report
    assert report["alignment"]["learning"]["start"] == "none"
    assert report["barrier"] < 0.05


def test_the_merge_is_a_plain_model_with_its_gauge_taken_out(world: World, tmp_path: Path) -> None:
    from transformers import GPT2LMHeadModel

    ends = EMBEDDED / "adamw-1", EMBEDDED / "muon-1"
    found = merge(*ends, data=DATA, tokens=256, align="learned", learn=LearnPlan(steps=12))
    found.save(tmp_path / "out")
    model = GPT2LMHeadModel.from_pretrained(tmp_path / "out")
    embedding = 1024 * 128
    assert model.num_parameters() == sum(value.numel() for value in world.a.values()) + embedding
    assert all(torch.equal(block.ln_1.weight, torch.ones(128)) for block in model.transformer.h)
    assert found.alignment.gauge["h.0.ln_1"].std() > 0.01
    assert found.report["spectrum"]["verdict"] == "transition"


def test_auto_does_not_learn_where_that_takes_too_long() -> None:
    plan = LearnPlan(steps=1000, batch=8)
    assert plan.affordable(1_000_000, 128, "cpu")
    assert not plan.affordable(124_000_000, 1024, "cpu")
    assert plan.affordable(100_000_000, 1024, "cuda:0")


def test_of_a_short_text_the_models_write_the_rest(tmp_path: Path) -> None:
    ends = EMBEDDED / "adamw-1", EMBEDDED / "muon-1"
    (tmp_path / "short.txt").write_text("Words, words. " * 30 + "".join(map(str, range(3000))))
    settings = {"align": "learned", "learn": LearnPlan(steps=24), "tokens": 512, "measure_spectrum": False}
    found = merge(*ends, data=[str(tmp_path / "short.txt")], **settings)
    assert found.report["alignment"]["learning"]["steps"] == 24
    assert found.report["data"][0]["fit_tokens"] < 24 * 8 * 128 / 2


def test_text_is_needed() -> None:
    ends = EMBEDDED / "adamw-1", EMBEDDED / "muon-1"
    for align in ("activations", "combined"):
        with pytest.raises(BadInput, match=f"--align {align} looks at what the models do with text: add --data"):
            merge(*ends, align=align, t=0.5)  # type: ignore[arg-type]
    with pytest.raises(BadInput, match="at least 1"):
        LearnPlan(steps=0)
