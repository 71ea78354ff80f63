from __future__ import annotations

import functools
import math
from pathlib import Path

import pytest
import torch
from conftest import EMBEDDED
from token_blocks import blocks
from torch.func import functional_call

from isthmus.align.families import family
from isthmus.checkpoint.errors import BadInput
from isthmus.checkpoint.loading import load
from isthmus.checkpoint.model import empty_model
from isthmus.eval.barrier import profile
from isthmus.eval.corpora import corpus
from isthmus.eval.loss import LossMeter
from isthmus.eval.progress import Progress
from isthmus.merge.path import WeightPath, coefficients
from isthmus.merge.plans import PathTraining
from isthmus.merge.training.path_loss import PathModule
from isthmus.merge.training.path_training import WRITTEN, Batches, Trained, train_path
from isthmus.merge.training.training_state import TrainingState

ADAMW, MUON = load(EMBEDDED / "adamw-1"), load(EMBEDDED / "muon-1")
CONFIG = ADAMW.config
A, B = dict(ADAMW.state), dict(MUON.state)
MIDDLE = {name: (A[name] + B[name]) / 2 for name in A}
START = WeightPath("polychain", A, B, (MIDDLE,))
TEXT = blocks(
    corpus("stdlib:docs:heldout"), ADAMW.tokenizer(), context=32, fit_tokens=768, select_tokens=512, report_tokens=0
)
FIT = {"x": TEXT.fit}
LINE = WeightPath("linear", {}, {})


@pytest.fixture(autouse=True)
def _often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Paths are looked at after every step."""
    monkeypatch.setattr("isthmus.merge.training.path_training.SPACING", 1)


METER = LossMeter(CONFIG, {"x": TEXT.select})


def barrier(path: WeightPath) -> float:
    return profile(path, METER, (0.0, 0.25, 0.5, 0.75, 1.0)).barrier


def train(
    training: PathTraining, start: WeightPath = START, kept: TrainingState | None = None, **more: object
) -> Trained:
    return train_path(start, CONFIG, FIT, barrier, training, run=kept, **more)  # type: ignore[arg-type]


def same(a: Trained, b: Trained) -> bool:
    pairs = zip(a.path.bends, b.path.bends, strict=True)
    return a.history == b.history and all(torch.equal(x[name], y[name]) for x, y in pairs for name in x)


@functools.cache
def trained(optimizer: str, kind: str = "polychain") -> Trained:
    """Twelve steps of two micro-batches, shared by all tests that look at such a run."""
    training = PathTraining(steps=12, batch=8, accumulate=2, optimizer=optimizer)  # type: ignore[arg-type]
    return train(training, WeightPath(kind, A, B, (MIDDLE,)))  # type: ignore[arg-type]


@pytest.mark.parametrize("optimizer", ["adamw", "muon", "lion"])
@pytest.mark.parametrize("kind", ["polychain", "bezier"])
def test_training_lowers_the_barrier_and_leaves_the_endpoints(optimizer: str, kind: str) -> None:
    run = trained(optimizer, kind)
    assert run.history[0][2] == pytest.approx(barrier(WeightPath(kind, A, B, (MIDDLE,))))  # type: ignore[arg-type]
    assert run.history[-1][2] < run.history[0][2]
    assert run.path.a is A
    assert run.path.b is B
    assert (run.steps, run.diverged) == (12, None)


def test_two_bends_and_several_micro_batches() -> None:
    start = WeightPath("polychain", A, B, (MIDDLE, MIDDLE))
    found = train(PathTraining(steps=12, batch=8, accumulate=4, optimizer="muon"), start)
    assert found.history[-1][2] < found.history[0][2]
    first, second = found.path.bends
    assert not torch.equal(first["transformer.wte.weight"], second["transformer.wte.weight"])


@pytest.mark.parametrize("kind", ["polychain", "bezier"])
@pytest.mark.parametrize("t", [0.2, 0.6])
def test_a_bends_gradient_is_the_states_gradient_times_its_coefficient(kind: str, t: float) -> None:
    """d L(Σ c_i θ_i) / d θ_i = c_i L'(θ(t)), with L' taken at the state itself."""
    path = WeightPath(kind, A, B, (MIDDLE, A))  # type: ignore[arg-type]
    module, ids = PathModule(path, CONFIG), FIT["x"][:4]
    loss = module(ids, torch.tensor([True, False, False, True]), t)
    loss.backward()
    model = empty_model(CONFIG)
    here = {name: path(t)[name].clone().requires_grad_() for name in A}
    rows, taught = [], round(4 * (1 - t))
    for number, (row, teacher) in enumerate(zip(ids, [A] * taught + [B] * (4 - taught), strict=True)):
        q, p = (
            functional_call(model, {**state, "lm_head.weight": state["transformer.wte.weight"]}, (row[None],))
            .logits[0, :-1]
            .log_softmax(-1)
            for state in (here, teacher)
        )
        from_teacher, from_text = -(p.exp() * q).sum(-1).mean(), -q.gather(-1, row[1:, None]).mean()
        rows.append((from_teacher + from_text) / 2 if number in (0, 3) else from_teacher)
    expected = torch.stack(rows).mean()
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), abs=1e-6)
    weights = coefficients(path.kind, t, 4)[1:3]
    table = family(CONFIG)
    for leaves, weight in zip(module.leaves(), weights, strict=True):
        for name, leaf in leaves.items():
            gradient = table.piece({n: v.grad for n, v in here.items() if v.grad is not None}, name)
            mine = torch.zeros_like(gradient) if leaf.grad is None else leaf.grad
            assert torch.allclose(mine, weight * gradient, atol=1e-5)


def test_every_eight_micro_batches_cover_the_eighths_of_the_path() -> None:
    batches = Batches(FIT, PathTraining(steps=5, batch=8, accumulate=8), LINE)
    for start in range(0, 40, 8):
        assert sorted(int(8 * t) for t in batches.places[start : start + 8]) == list(range(8))


def test_batches_have_equal_shares_of_all_labels_and_read_every_block_before_any_twice() -> None:
    fit = {"x": torch.arange(10)[:, None], "y": torch.arange(100, 120)[:, None]}
    batches = Batches(fit, PathTraining(steps=10, batch=4), LINE)
    rows = torch.cat([batches[step][0]["ids"] for step in range(10)]).flatten().tolist()
    xs, ys = [r for r in rows if r < 100], [r for r in rows if r >= 100]
    assert (len(xs), len(ys)) == (20, 20)
    assert sorted(xs[:10]) == sorted(xs[10:]) == list(range(10))
    assert sorted(ys) == list(range(100, 120))


def test_text_that_is_too_short_is_read_four_times_and_the_models_add_the_rest() -> None:
    fit = {"x": torch.arange(3)[:, None], WRITTEN: torch.arange(100, 105)[:, None]}
    batches = Batches(fit, PathTraining(steps=10, batch=4), LINE)
    drawn = [batches[step][0] for step in range(10)]
    rows = [one["ids"].flatten().tolist() for one in drawn]
    assert sorted(row for batch in rows for row in batch if row < 100) == sorted([0, 1, 2] * 4)
    assert all(any(row >= 100 for row in batch) and any(row < 100 for row in batch) for batch in rows)
    assert all(len(batch) == 4 for batch in rows)
    assert all(torch.equal(one["given"], one["ids"][:, 0] < 100) for one in drawn)


def test_too_little_text_says_what_would_do() -> None:
    message = r"the text 'x' has 768 tokens to train on, too few for 13 steps, .* take at most 12 steps"
    with pytest.raises(BadInput, match=message):
        train(PathTraining(steps=13, batch=8))
    Batches(FIT, PathTraining(steps=12, batch=8), LINE)
    with pytest.raises(BadInput, match=r"which would read them 96 times: give more text$"):
        Batches({"x": FIT["x"][:1]}, PathTraining(steps=12, batch=8), LINE)


def test_a_batch_that_cannot_be_shared() -> None:
    with pytest.raises(BadInput, match="a batch of 8 blocks cannot be shared by 1 processes with --accumulate 3"):
        train(PathTraining(steps=2, batch=8, accumulate=3))


def test_training_that_diverges_keeps_the_best_bends_and_names_the_step() -> None:
    found = train(PathTraining(steps=12, batch=8, optimizer="adamw", lr=1e30))
    assert found.diverged is not None
    assert 1 <= found.diverged <= 12
    assert found.best < found.diverged
    assert math.isfinite(barrier(found.path))
    assert barrier(found.path) <= found.history[0][2]


def test_between_two_looks_at_a_path_it_is_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("isthmus.merge.training.path_training.SPACING", 40)
    found = train(PathTraining(steps=12, batch=8))
    assert [step for step, _, _ in found.history] == [0, 5, 10, 12]


def test_training_stops_when_the_barrier_falls_no_more() -> None:
    found = train(PathTraining(steps=12, batch=8, optimizer="lion", lr=0.5, patience=3))
    assert found.steps < 12
    assert found.best == 0


@pytest.mark.parametrize(
    ("heights", "steps", "best"),
    [
        ((0.10, 0.50, 0.45, 0.40, 0.35, 0.30, 0.25, 0.05), 7, 7),  # up first, and then below the start
        ((0.10, 0.30, 0.40, 0.50, 0.45, 0.20, 0.10, 0.05), 4, 0),  # no lower three times
        ((0.10, 0.08, 0.09, 0.09, 0.09, 0.05, 0.05, 0.05), 4, 1),
    ],
)
def test_how_long_a_training_may_lead_nowhere(heights: tuple[float, ...], steps: int, best: int) -> None:
    measured = iter(heights)
    training = PathTraining(steps=7, batch=8, patience=3)
    found = train_path(START, CONFIG, FIT, lambda path: next(measured), training)
    assert (found.steps, found.best) == (steps, best)


@pytest.mark.parametrize("optimizer", ["adamw", "muon", "lion"])
def test_interrupted_and_resumed_is_uninterrupted(optimizer: str, tmp_path: Path) -> None:
    training = PathTraining(steps=12, batch=8, accumulate=2, optimizer=optimizer)  # type: ignore[arg-type]

    class Interrupted(Exception):
        pass

    class Stopping(Progress):
        done = 0

        def advance(self, steps: int = 1) -> None:
            self.done += steps
            if self.done == 7:
                raise Interrupted

    advances: list[int] = []

    class Counting(Progress):
        def advance(self, steps: int = 1) -> None:
            advances.append(steps)

    kept = TrainingState(tmp_path / "kept", {"run": 1})
    with pytest.raises(Interrupted):
        train(training, kept=kept, progress=Stopping())
    resumed = train(training, kept=kept, progress=Counting())
    assert advances == [7, 1, 1, 1, 1, 1]
    assert same(trained(optimizer), resumed)


def test_an_unfinished_run_of_something_else_is_not_taken_over(tmp_path: Path) -> None:
    training = PathTraining(steps=1, batch=8)
    train(training, kept=TrainingState(tmp_path / "kept", {"run": 1}))
    with pytest.raises(BadInput, match=r"an unfinished run with other models, text or settings .* or --restart"):
        train(training, kept=TrainingState(tmp_path / "kept", {"run": 2}))


def test_bfloat16_trains_to_nearly_the_same() -> None:
    exact, rough = trained("adamw"), train(PathTraining(steps=12, batch=8, accumulate=2, precision="bf16"))
    assert exact.history[-1][2] != rough.history[-1][2]
    assert rough.history[-1][2] == pytest.approx(exact.history[-1][2], rel=0.1)
    assert all(value.dtype == torch.float32 for value in rough.path.bends[0].values())


def test_float16_is_refused(monkeypatch) -> None:
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "fp16")
    with pytest.raises(BadInput, match="in float32 or bf16, not in fp16"):
        train(PathTraining(steps=2, batch=8))
