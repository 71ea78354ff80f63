from __future__ import annotations

from pathlib import Path

import pytest
import torch
from conftest import EMBEDDED
from merging import merge

from isthmus.align.families import family
from isthmus.align.pipeline import align_states
from isthmus.align.universe import Universe
from isthmus.checkpoint.errors import BadInput, TooLittleText
from isthmus.checkpoint.loading import load
from isthmus.eval.barrier import profile
from isthmus.eval.loss import LossMeter
from isthmus.eval.text import labelled_blocks
from isthmus.merge.fitting import learn, movable
from isthmus.merge.path import WeightPath
from isthmus.merge.plans import CurvePlan, LearnPlan, PathTraining
from isthmus.merge.progress import Progress
from isthmus.merge.training import PathModule
from isthmus.merge.training_state import TrainingState

DATA = ("stdlib:docs", "stdlib:code")
A, B = load(EMBEDDED / "adamw-1"), load(EMBEDDED / "muon-1")
STATE_A, STATE_B = dict(A.state), dict(B.state)
TEXT = labelled_blocks(
    DATA, A.tokenizer(), context=64, vocabulary=1024, fit_tokens=32_768, select_tokens=2048, report_tokens=2048
)
FIT, SELECT, REPORT = ({part.label: getattr(part, name) for part in TEXT} for name in ("fit", "select", "report"))
START = align_states(STATE_A, STATE_B, A.config)
UNIVERSE = Universe.of_pair(START)
PLAN = LearnPlan(steps=48, batch=8)


def learned(plan: LearnPlan = PLAN, kept: TrainingState | None = None, progress: Progress | None = None):
    progress = progress or Progress()
    return learn(UNIVERSE, (STATE_A, STATE_B), FIT, SELECT, plan, device="cpu", progress=progress, run=kept)


@pytest.fixture(scope="module")
def found():
    return learned()


def barrier(path: WeightPath, blocks: dict[str, torch.Tensor]) -> float:
    return profile(path, LossMeter(START.config, blocks), [i / 10 for i in range(11)]).barrier


def test_the_barrier_falls_on_text_that_was_not_trained_on(found) -> None:
    before, after = (barrier(path, REPORT) for path in (WeightPath("linear", START.a, START.b), found.path))
    assert after < 0.7 * before


def test_the_function_is_preserved_and_the_path_ends_in_it(found) -> None:
    aligned = found.alignment.apply(STATE_B, family(B.config))
    assert found.alignment.verify(STATE_B, aligned, B.config) < 1e-4
    assert max((aligned[name] - found.path.b[name]).abs().max().item() for name in aligned) < 1e-4
    assert found.path.a is START.a


def test_it_never_ends_above_its_start(monkeypatch) -> None:
    """Even where every step leads up: the closed form is kept, to the last digit."""
    for name, rate in (("ROTATION_LR", 30.0), ("GAUGE_LR", 3.0), ("HEADS_LR", 3.0)):
        monkeypatch.setattr(f"isthmus.align.learned.{name}", rate)
    found = learned(LearnPlan(steps=12, batch=4))
    heights = [height for _, _, height in found.history]
    assert max(heights) > heights[0]
    assert found.best == 0
    assert all(torch.equal(found.path.b[name], START.b[name]) for name in START.b)
    assert set(torch.cat(list(found.alignment.gauge.values())).tolist()) == {0.0, 1.0}


def test_a_merge_keeps_the_closed_form_that_learning_made_worse(monkeypatch) -> None:
    """Where the few blocks that training looks at mislead it, all of the select text decides."""
    monkeypatch.setattr("isthmus.merge.search.Search.no_higher_than", lambda self, other: False)
    ends = EMBEDDED / "adamw-1", EMBEDDED / "muon-1"
    plan = LearnPlan(steps=12)
    found = merge(*ends, data=DATA, tokens=1024, align="learned", learn=plan, measure_spectrum=False)
    assert found.alignment.method == found.report["alignment"]["learning"]["start"] == "combined"
    assert found.report["alignment"]["tried"].keys() == {"none", "orthogonal", "combined", "learned"}


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_precisions(precision: str) -> None:
    found = learned(LearnPlan(steps=12, precision=precision))  # type: ignore[arg-type]
    assert found.history[-1][2] < found.history[0][2]
    assert found.alignment.verify(STATE_B, found.alignment.apply(STATE_B, family(B.config)), B.config) < 1e-4


class _Stopped(Exception):
    pass


class _StopsLate(Progress):
    def __init__(self, after: int) -> None:
        self.left = after

    def advance(self, steps: int = 1) -> None:
        self.left -= steps
        if self.left < 0:
            raise _Stopped


def test_an_interrupted_run_goes_on_to_the_same_end(found, tmp_path: Path) -> None:
    kept = TrainingState.beside(tmp_path / "out", "this run")
    with pytest.raises(_Stopped):
        learned(kept=kept, progress=_StopsLate(30))
    assert kept.exists()
    again = learned(kept=kept)
    assert again.history == found.history
    assert all(torch.equal(again.path.b[name], found.path.b[name]) for name in found.path.b)
    pairs = zip(again.alignment.elements.values(), found.alignment.elements.values(), strict=True)
    assert all(torch.equal(*pair) for pair in pairs)


def test_the_gradient_is_that_of_finite_differences() -> None:
    line, moving = movable(UNIVERSE, (STATE_A, STATE_B))
    module, ids = PathModule(line, START.config, moving), FIT["docs"][:2]
    module(ids, 0.5).backward()
    for parameter in (moving.gauge[0], list(moving.motions.parameters())[4]):
        index = parameter.grad.abs().flatten().argmax()
        expected, flat, step = parameter.grad.flatten()[index].item(), parameter.data.view(-1), 1e-2
        losses = []
        for change in (step, -2 * step):
            flat[index] += change
            losses.append(module(ids, 0.5).item())
        flat[index] += step
        assert (losses[0] - losses[1]) / (2 * step) == pytest.approx(expected, rel=0.05, abs=1e-4)


def test_bends_and_the_alignment_train_together() -> None:
    plan = CurvePlan(training=PathTraining(steps=12, batch=8))
    ends = EMBEDDED / "adamw-1", EMBEDDED / "muon-1"
    found = merge(*ends, data=DATA, tokens=1024, align="learned", path=plan, measure_spectrum=False)
    assert found.alignment.method == "learned"
    assert found.report["alignment"]["learning"] == {"start": "combined", "with_bends": True}
    assert found.report["alignment"]["max_log_prob_error"] < 1e-4
    assert found.alignment.gauge
    assert len(found.path.bends) == 1
    assert found.report["barrier"] < found.report["line_barrier"]


def test_relatives_are_learned_from_no_alignment_at_all() -> None:
    ends = EMBEDDED / "docs", EMBEDDED / "code"
    plan = LearnPlan(steps=12)
    report = merge(*ends, data=DATA, tokens=1024, align="learned", learn=plan, measure_spectrum=False).report
    assert report["alignment"]["learning"]["start"] == "none"
    assert report["barrier"] < 0.05


def test_the_merge_is_a_plain_model_with_its_gauge_taken_out(tmp_path: Path) -> None:
    from transformers import GPT2LMHeadModel

    ends = EMBEDDED / "adamw-1", EMBEDDED / "muon-1"
    found = merge(*ends, data=DATA, tokens=1024, align="learned", learn=LearnPlan(steps=12))
    found.save(tmp_path / "out")
    model = GPT2LMHeadModel.from_pretrained(tmp_path / "out")
    embedding = 1024 * 128
    assert model.num_parameters() == sum(value.numel() for value in STATE_A.values()) + embedding
    assert all(torch.equal(block.ln_1.weight, torch.ones(128)) for block in model.transformer.h)
    assert found.alignment.gauge["h.0.ln_1"].std() > 0.01
    assert found.report["spectrum"]["verdict"] == "transition"


def test_auto_takes_no_more_steps_than_there_is_text() -> None:
    plan = LearnPlan(steps=1000, batch=8)
    assert plan.within([100, 60]) == LearnPlan(steps=60, batch=8)  # four passes over 60 blocks, twice
    assert plan.within([10_000]) == plan
    with pytest.raises(TooLittleText):
        plan.within([100, 10])
    assert plan.affordable(1_000_000, 128, "cpu")
    assert not plan.affordable(124_000_000, 1024, "cpu")
    assert plan.affordable(100_000_000, 1024, "cuda:0")


def test_text_is_needed_and_enough_of_it(tmp_path: Path) -> None:
    ends = EMBEDDED / "adamw-1", EMBEDDED / "muon-1"
    for align in ("activations", "combined", "learned"):
        with pytest.raises(BadInput, match=f"--align {align} looks at what the models do with text: add --data"):
            merge(*ends, align=align, t=0.5)  # type: ignore[arg-type]
    (tmp_path / "short.txt").write_text("Words, words. " * 30 + "".join(map(str, range(3000))))
    with pytest.raises(TooLittleText, match="or take at most"):
        merge(*ends, data=[str(tmp_path / "short.txt")], align="learned", tokens=256)
    with pytest.raises(BadInput, match="at least 1"):
        LearnPlan(steps=0)
