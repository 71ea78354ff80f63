from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import EMBEDDED
from merging import merge

from isthmus.align.families import FAMILIES
from isthmus.checkpoint.errors import BadInput, GateRefused
from isthmus.checkpoint.inputs import open_inputs
from isthmus.eval.barrier import Profile, profile
from isthmus.eval.corpora import WRITTEN
from isthmus.eval.loss import Losses, LossMeter
from isthmus.eval.progress import Progress
from isthmus.eval.samples import Writer
from isthmus.eval.sentences import sentences
from isthmus.merge.plans import CurvePlan, Gates, LearnPlan, PathTraining
from isthmus.merge.probe import Probe, Probed

PAIR = EMBEDDED / "adamw-1", EMBEDDED / "muon-1"
SHORT, BENT = LearnPlan(steps=12), CurvePlan(training=PathTraining(steps=6, batch=8))


def profile_of(heights: dict[str, float], spread: float = 0.0) -> Profile:
    """Losses 2 and 3 at the ends, and between them these excesses at t = 1/2, half of them beside it."""
    noise = spread * torch.tensor([-1.0, 1.0] * 8, dtype=torch.float64)

    def at(t: float) -> Losses:
        share = {0.0: 0.0, 0.25: 0.5, 0.5: 1.0, 0.75: 0.5, 1.0: 0.0}[t]
        return Losses({label: 2 + t + share * (height + noise) for label, height in heights.items()})

    return Profile(tuple((t, at(t)) for t in (0.0, 0.25, 0.5, 0.75, 1.0)))


OWN = Probed(profile_of({"user": 0.1}), profile_of({"user": 0.5}), 0.5)  # four fifths of the barrier are gone


@pytest.mark.parametrize(
    ("closed", "fitted", "holds"),
    [(0.5, 0.1, True), (0.5, 0.19, True), (0.5, 0.21, False), (0.5, 0.6, False), (0.0, 0.0, True), (-0.1, -0.1, True)],
)
def test_fitting_holds_where_most_of_its_share_is_kept(closed: float, fitted: float, holds: bool) -> None:
    measured = Probed(profile_of({"x": fitted}), profile_of({"x": closed}), 0.5)
    (row,) = measured.rows(OWN)
    assert row["holds"] is holds
    assert row["barrier"] == pytest.approx(max(0.0, fitted))
    assert row["barrier_without_fitting"] == pytest.approx(max(0.0, closed))
    assert row["endpoint_losses"] == [2.0, 3.0]
    assert row["loss"] == pytest.approx(2.5 + fitted)
    assert row["gain"] == pytest.approx(-0.5 - fitted)
    assert measured.is_worse() is (fitted > closed)


def test_noise_is_no_failure() -> None:
    measured = Probed(profile_of({"x": 0.55}, spread=1.5), profile_of({"x": 0.5}), 0.5)
    assert not measured.is_worse()
    assert measured.rows(OWN)[0]["holds"]


def test_where_nothing_was_fitted_nothing_fails() -> None:
    one = profile_of({"x": 0.7})
    (row,) = Probed(one, one, 0.5).rows(Probed(one, one, 0.5))
    assert row["barrier_without_fitting"] is None
    assert row["holds"]


@pytest.mark.parametrize(
    ("data", "labels"),
    [
        (("law.txt",), [WRITTEN, "stdlib:docs"]),
        (("stdlib:docs:heldout",), [WRITTEN, "stdlib:code"]),
        (("a=stdlib:docs", "stdlib:code:train"), [WRITTEN]),
        ((), ["stdlib:docs"]),
    ],
)
def test_the_probe_is_text_of_another_kind(data: tuple[str, ...], labels: list[str]) -> None:
    inputs = open_inputs(PAIR, families=FAMILIES).in_memory()
    writer = Writer([member.state for member in inputs.members], inputs.first.config, 0, "cpu", Progress())
    probe = Probe(inputs, data, writer)
    report, select = probe.blocks("report"), probe.blocks("select")
    assert list(report) == list(select) == labels
    assert all(rows.numel() == 1024 for rows in report.values())
    assert not any(torch.equal(report[label], select[label]) for label in labels)


def test_a_tokenizer_that_knows_no_words(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = open_inputs(PAIR, families=FAMILIES)
    writer = Writer([], inputs.first.config, 0, "cpu", Progress())
    tokenizer = inputs.tokenizer()
    tokenizer.unk_token = tokenizer.convert_ids_to_tokens(9)
    monkeypatch.setattr(type(inputs), "tokenizer", lambda self: tokenizer)
    assert list(Probe(inputs, (), writer).blocks("report")) == ["stdlib:docs"], "here and there one that it has not"
    monkeypatch.setattr(type(tokenizer), "encode", lambda self, text, **options: [9] * len(text))
    assert Probe(inputs, (), writer).blocks("report") == {}


@pytest.fixture(scope="module")
def without_text() -> Any:
    return merge(*PAIR, align="learned", learn=SHORT, tokens=1024)


def test_models_without_text_write_it(without_text: Any) -> None:
    report = without_text.report
    assert [part["label"] for part in report["data"]] == [WRITTEN]
    assert report["alignment"]["method"] == "learned"
    assert [row["label"] for row in report["probe"]] == ["stdlib:docs"]
    (row,) = report["probe"]
    assert row["barrier"] < row["barrier_without_fitting"], "on real text, too"
    assert any(line.startswith("no text was given") for line in sentences(report))
    assert "--data" not in report["reproduce"]


def test_the_row_of_the_probe_is_what_its_text_gives(without_text: Any) -> None:
    """Measured again, from the path that was merged and the text of the probe."""
    inputs = open_inputs(PAIR, families=FAMILIES).in_memory()
    blocks = Probe(inputs, (), Writer([], inputs.first.config, 0, "cpu", Progress())).blocks("report")
    measured = profile(without_text.path, LossMeter(without_text.config, blocks), (0.0, 0.25, 0.5, 0.75, 1.0))
    (row,) = without_text.report["probe"]
    assert row["barrier"] == pytest.approx(measured.label_barrier("stdlib:docs"), abs=1e-6)
    assert row["endpoint_losses"] == pytest.approx([measured.start.mean, measured.end.mean], abs=1e-6)


def test_a_bend_without_text_is_trained_on_what_the_models_write(tmp_path: Path, isthmus) -> None:
    outcome = isthmus("path", *PAIR, "-o", tmp_path / "path", "--steps", 6, "--batch", 8, "--tokens", 1024)
    assert outcome.code == 0, outcome.err
    assert "on other text (stdlib:docs) the barrier is" in outcome.err
    outcome = isthmus(
        *("merge", *PAIR, "-o", tmp_path / "m", "--path", tmp_path / "path", "--data", "stdlib:code", "--tokens", 1024)
    )
    assert outcome.code == 0, outcome.err
    assert "(without learning" in outcome.err, "a saved path is held against the line that it began with"


def test_models_without_a_tokenizer_need_none(saved, tmp_path: Path) -> None:
    ends = saved("a", 1), saved("b", 2)
    merged = merge(*ends, align="learned", learn=LearnPlan(steps=4), tokens=256)
    assert merged.report["probe"] == []
    assert merged.report["barrier"] is not None
    merged.save(tmp_path / "out")


def test_an_alignment_is_learned_without_text(tmp_path: Path, isthmus) -> None:
    outcome = isthmus("align", *PAIR, "-o", tmp_path / "b", "--method", "learned", "--align-steps", 4)
    assert outcome.code == 0, outcome.err
    outcome = isthmus("align", *PAIR, "-o", tmp_path / "c", "--method", "combined")
    assert outcome.code == 2
    assert "add --data" in outcome.err


def test_without_text_alignments_are_not_compared(tmp_path: Path, isthmus) -> None:
    outcome = isthmus("merge", *PAIR, "-o", tmp_path / "m", "--t", 0.5)
    assert outcome.code == 2
    assert "without text alignments cannot be compared" in outcome.err
    assert "learned" in outcome.err


def test_a_text_with_the_label_of_the_models_own(tmp_path: Path) -> None:
    (tmp_path / WRITTEN).write_text("some words " * 5000)
    with pytest.raises(BadInput, match="take another"):
        merge(*PAIR, data=(str(tmp_path / WRITTEN),), align="none", t=0.5)


@pytest.mark.parametrize("plan", [{"learn": SHORT}, {"path": BENT}], ids=["alignment", "bend"])
def test_auto_takes_nothing_that_is_worse_elsewhere(plan: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("isthmus.merge.probe.Probed.is_worse", lambda self: True)
    report = merge(*PAIR, data=("stdlib:docs",), tokens=1024, **plan).report
    record = report["alignment"]["learning"] if "learn" in plan else report["path"]
    assert record["worse_elsewhere"]
    assert report["alignment"]["method"] in ("orthogonal", "combined")
    assert report["barrier"] == pytest.approx(report["line_barrier"], abs=1e-4)
    assert any("lay higher on other text" in line for line in sentences(report))


def losses_of(**changes: Any) -> dict[str, Any]:
    row = {"label": WRITTEN, "barrier": 0.02, "barrier_without_fitting": 0.3, "gain": 0.1, "gain_stderr": 0.01}
    return {
        "barrier": 0.01,
        "barriers": {"docs": 0.01},
        "merge_point": {"excess": 0.0, "gain": 0.1, "gain_stderr": 0.01},
        "probe": [{**row, **changes}],
    }


def test_gates_count_the_worst_text() -> None:
    gates = Gates(max_barrier=0.05, require_gain=True)
    gates.pass_loss(losses_of())
    with pytest.raises(GateRefused, match=r"the barrier on other text, 'written by the models', is 0\.060 nats"):
        gates.pass_loss(losses_of(barrier=0.06))
    with pytest.raises(GateRefused, match=r"worse than the better endpoint on other text, 'written by the models'"):
        gates.pass_loss(losses_of(gain=-0.1))
    gates.pass_loss(losses_of(gain=-0.015))  # within the noise
    gates.pass_loss(losses_of(gain=-0.1, barrier_without_fitting=None))  # nothing was fitted to another text
    with pytest.raises(GateRefused, match=r"the barrier on the text 'docs' is 0\.070"):
        gates.pass_loss({**losses_of(), "barriers": {"docs": 0.07}})


def test_what_was_fitted_to_its_text_is_called_so() -> None:
    row = {"label": "stdlib:code", "barrier": 0.35, "barrier_without_fitting": 0.30, "holds": False}
    from isthmus.eval.sentences import _probe

    (line,) = _probe([row])
    assert line == "fitted to its text: on other text (stdlib:code) the barrier is 0.350 (without learning 0.300)"
