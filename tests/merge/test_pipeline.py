from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import EMBEDDED, state_of, tiny_model
from merging import merge
from safetensors.torch import load_file
from token_blocks import labelled_blocks

import isthmus
from isthmus.align.pipeline import align_states
from isthmus.checkpoint.errors import BadInput, CorruptCheckpoint, GateRefused, IncompatibleModels, UnsupportedFamily
from isthmus.eval.barrier import profile
from isthmus.eval.corpora import corpus
from isthmus.eval.loss import LossMeter
from isthmus.eval.progress import Progress
from isthmus.eval.text import Blocks, Text
from isthmus.merge.path import WeightPath
from isthmus.merge.plans import Gates, LearnPlan

DATA = ("stdlib:docs:heldout", "stdlib:code:heldout")
TIMES = ("seconds",)
PARTS = ("fit", "select", "report")
SHORT = LearnPlan(steps=24)


def without_times(report: dict) -> dict:
    kept = {key: value for key, value in report.items() if key not in TIMES}
    kept["alignment"] = {key: value for key, value in report["alignment"].items() if key not in TIMES}
    return kept


@pytest.fixture(scope="module")
def strangers() -> isthmus.Merge:
    return merge(EMBEDDED / "adamw-1", EMBEDDED / "muon-1", data=DATA, tokens=512, learn=SHORT)


def test_the_report_keeps_its_contract(strangers) -> None:
    report = strangers.report
    assert report["schema"] == 1
    assert report["command"] == "merge"
    for end, name in zip(report["endpoints"], ("adamw-1", "muon-1"), strict=True):
        assert end["ref"] == name
        assert end["revision"] is None
        assert end["loss"].keys() == {"docs", "code"}
        assert {"optimizer", "optimizer_evidence"} <= end.keys()
    assert report["alignment"].keys() >= {"method", "max_log_prob_error", "seconds"}
    assert report["path"] == {"kind": "linear", "bends": 0, "steps": 0}
    assert {frozenset(row) for row in report["profile"]} == {
        frozenset({"t", "loss", "stderr", "losses", "stderrs", "excess"})
    }
    assert report["merge_point"].keys() >= {"t", "loss", "excess", "gain", "gain_stderr"}
    assert report["spectrum"].keys() >= {"verdict", "excess", "position", "matrices"}
    assert report["spectrum"]["matrices"][0].keys() >= {"name", "stable_rank", "excess"}
    assert len(report["spectrum"]["matrices"]) == 24
    counts = {"fit_tokens", "select_tokens", "report_tokens"}
    assert [part.keys() for part in report["data"]] == [{"label", "block", "hidden", *counts}] * 2
    assert report["versions"].keys() >= {"isthmus", "torch"}
    json.dumps(report, allow_nan=False)


def test_the_numbers_agree_with_each_other(strangers) -> None:
    report = strangers.report
    rows = {row["t"]: row for row in report["profile"]}
    point = report["merge_point"]
    assert rows[0.0]["excess"] == rows[1.0]["excess"] == 0.0
    assert report["barrier"] == max(row["excess"] for row in rows.values())
    assert point["loss"] == pytest.approx(rows[point["t"]]["loss"], abs=5e-3)  # rounded to the saved dtype
    assert point["loss"] == pytest.approx(sum(point["losses"].values()) / 2)
    ends = [sum(end["loss"].values()) / 2 for end in report["endpoints"]]
    assert point["gain"] == pytest.approx(min(ends) - point["loss"])
    assert report["baselines"]["naive_average"]["loss"] == next(
        row["loss"] for row in report["naive_profile"] if row["t"] == 0.5
    )
    assert report["baselines"]["ensemble"]["loss"] < min(ends)


def test_alignment_helps_strangers_and_keeps_their_spectrum(strangers) -> None:
    report = strangers.report
    assert report["alignment"]["method"] == "learned"
    assert report["alignment"]["learning"]["start"] in ("orthogonal", "combined")
    assert report["alignment"]["max_log_prob_error"] < 1e-4
    assert report["barrier"] < report["barrier_before_alignment"] / 5
    assert report["spectrum"]["verdict"] == "transition"
    assert not strangers.config.tie_word_embeddings


def test_variants_of_one_base_need_no_alignment_and_gain() -> None:
    found = merge(EMBEDDED / "docs", EMBEDDED / "code", data=DATA, tokens=1024)
    report = found.report
    assert report["alignment"]["method"] == "none"
    assert found.config.tie_word_embeddings
    assert report["merge_point"]["gain"] > 2 * report["merge_point"]["gain_stderr"]
    assert report["spectrum"]["verdict"] == "preserved"


def test_two_runs_with_one_seed_are_the_same(saved, afresh, tmp_path: Path) -> None:
    ends = [saved(name, seed, tokenizer=True, vocab_size=1024) for seed, name in enumerate("ab")]
    brief = LearnPlan(steps=16)
    first, second = (merge(*ends, data=DATA, tokens=512, align="learned", learn=brief) for _ in range(2))
    assert without_times(first.report) == without_times(second.report)
    one, two = (run.save(tmp_path / name / "m") for run, name in ((first, "one"), (second, "two")))
    assert one["files"] == two["files"]


def test_no_token_serves_two(strangers) -> None:
    """The seed moves the parts; what is trained or selected on is never what is reported."""
    from isthmus.checkpoint.loading import load

    tokenizer = load(EMBEDDED / "docs").tokenizer()
    amounts = {"fit_tokens": 2048, "select_tokens": 2048, "report_tokens": 2048}
    text = labelled_blocks(DATA, tokenizer, context=128, vocabulary=1024, **amounts)
    fit, select, report = ({tuple(row) for part in text for row in getattr(part, name).tolist()} for name in PARTS)
    assert min(len(fit), len(select), len(report)) > 24
    assert not fit & select
    assert not fit & report
    assert not select & report


def test_a_plain_average_needs_no_text(tmp_path: Path) -> None:
    found = merge(EMBEDDED / "docs", EMBEDDED / "code", align="none", t=0.25)
    a, b = (load_file(EMBEDDED / name / "model.safetensors") for name in ("docs", "code"))
    assert found.report["merge_point"] == {"t": 0.25, "loss": None, "excess": None, "gain": None, "gain_stderr": None}
    assert found.report["spectrum"] is None
    found.save(tmp_path / "out")
    saved = load_file(tmp_path / "out" / "model.safetensors")
    assert saved.keys() == a.keys()
    for name in a:
        assert saved[name].dtype == torch.float16
        expected = (0.75 * a[name].double() + 0.25 * b[name].double()).half()
        assert torch.allclose(saved[name].double(), expected.double(), rtol=1e-3, atol=1e-7)


def test_dtype_is_the_endpoints_or_what_is_asked(saved, tmp_path: Path) -> None:
    a, b = saved("a", dtype=torch.bfloat16), saved("b", 1, dtype=torch.float16)
    assert merge(a, a, align="none", t=0.5).dtype == torch.bfloat16
    assert merge(a, b, align="none", t=0.5).dtype == torch.float32
    found = merge(a, b, align="none", t=0.5, dtype="float16")
    found.save(tmp_path / "out")
    assert load_file(tmp_path / "out" / "model.safetensors")["transformer.wpe.weight"].dtype == torch.float16


def test_a_tied_and_an_untied_model(saved) -> None:
    found = merge(saved("a"), saved("b", 1, tie_word_embeddings=False), align="none", t=0.5)
    assert not found.config.tie_word_embeddings
    expected = (
        state_of(tiny_model(0))["transformer.wte.weight"]
        + state_of(tiny_model(1, tie_word_embeddings=False))["lm_head.weight"]
    ) / 2
    assert torch.allclose(found.state["lm_head.weight"], expected, atol=1e-6)


def test_alignment_without_text(saved) -> None:
    found = merge(saved("a"), saved("b", 1), align="orthogonal", t=0.5)
    assert found.report["alignment"]["max_log_prob_error"] < 1e-4
    assert found.report["spectrum"]["verdict"] == "contracted", "rotations do not make random matrices meet"


def test_one_model_with_itself_is_itself() -> None:
    found = merge(EMBEDDED / "docs", EMBEDDED / "docs", data=DATA[:1], tokens=1024)
    assert found.report["barrier"] == pytest.approx(0.0, abs=1e-6)
    assert found.report["merge_point"]["t"] == 0.5
    assert found.report["spectrum"]["distance"] == pytest.approx(0.0, abs=1e-9)
    assert found.report["alignment"]["learning"] is None, "there is nothing to learn"
    assert found.report["alignment"]["method"] == "none"


def highest_excess(report: dict) -> float:
    """Of any label, at the merge point."""
    t, losses = report["merge_point"]["t"], report["merge_point"]["losses"]
    first, second = (end["loss"] for end in report["endpoints"])
    return max(losses[label] - (1 - t) * first[label] - t * second[label] for label in losses)


def test_objective_worst_balances_the_labels() -> None:
    """The base is better on docstrings, and its fine-tune on code: the mean stays nearer to the base."""
    kind = {"data": DATA, "tokens": 2048, "align": "none", "measure_spectrum": False}
    mean, worst = (
        merge(EMBEDDED / "adamw-1", EMBEDDED / "code", objective=name, **kind).report for name in ("mean", "worst")
    )
    assert (mean["settings"]["objective"], worst["settings"]["objective"]) == ("mean", "worst")
    assert highest_excess(worst) < highest_excess(mean)


GATES = {
    "barrier": (Gates(max_barrier=0.01), "the barrier is"),
    "gain": (Gates(require_gain=True), "worse than the better endpoint"),
}


@pytest.mark.parametrize("gate", GATES)
def test_gates_refuse(gate: str) -> None:
    gates, message = GATES[gate]
    with pytest.raises(GateRefused, match=message):
        merge(EMBEDDED / "adamw-1", EMBEDDED / "muon-1", data=DATA, align="none", tokens=512, t=0.5, gates=gates)


def test_the_spectrum_gate_refuses_a_naive_average() -> None:
    with pytest.raises(GateRefused, match="the spectrum is contracted"):
        merge(EMBEDDED / "adamw-1", EMBEDDED / "adamw-2", align="none", t=0.5, gates=Gates(require_spectrum=True))


SENSELESS = {
    "no t": ({"align": "none"}, "add --data .*, give --t, or say --align learned"),
    "auto alignment": ({"t": 0.5}, "alignments cannot be compared: add --data"),
    "a gate": ({"t": 0.5, "align": "none", "gates": Gates(max_barrier=1.0)}, "need a loss: add --data"),
    "t": ({"t": 1.5, "align": "none"}, "between 0 and 1; got 1.5"),
    "interior": ({"t": 0.5, "align": "none", "interior": 0.5}, "below 0.5; got 0.5"),
    "dtype": ({"t": 0.5, "align": "none", "dtype": torch.float32}, "by name; got torch.float32"),
    "device": ({"t": 0.5, "align": "none", "device": "abacus"}, "there is no device 'abacus' here"),
}


@pytest.mark.parametrize("kind", SENSELESS)
def test_requests_without_sense(saved, kind: str) -> None:
    arguments, message = SENSELESS[kind]
    model = saved("m")
    with pytest.raises(BadInput, match=message):
        merge(model, model, **arguments)


def test_incompatible_models_are_refused_before_weights_are_read(saved) -> None:
    a, b = saved("a"), saved("b", n_head=2)
    for directory in (a, b):
        weights = (directory / "model.safetensors").read_bytes()
        (directory / "model.safetensors").write_bytes(weights[:-1000] + b"\xff" * 1000)  # NaN, were it read
    with pytest.raises(IncompatibleModels, match="number of heads differs"):
        merge(a, b, align="none", t=0.5)
    with pytest.raises(CorruptCheckpoint, match="holds NaN or Inf"):
        merge(a, a, align="none", t=0.5).save(a.parent / "out")
    assert not (a.parent / "out").exists()


def test_an_unsupported_family_can_only_be_averaged(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, StableLmConfig, StableLmForCausalLM

    torch.manual_seed(0)
    config = StableLmConfig(
        vocab_size=64, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
    )
    for name in "ab":
        StableLmForCausalLM(config).save_pretrained(tmp_path / name)
    merge(tmp_path / "a", tmp_path / "b", align="none", t=0.5).save(tmp_path / "out")
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "out").config.model_type == "stablelm"
    with pytest.raises(UnsupportedFamily, match=r"'stablelm' are not supported .*; supported: bert, "):
        merge(tmp_path / "a", tmp_path / "b", align="orthogonal", t=0.5)
    for asked in ({"path": isthmus.CurvePlan()}, {"restore": True}):
        with pytest.raises(UnsupportedFamily, match="'stablelm'"):
            merge(tmp_path / "a", tmp_path / "b", align="none", data=DATA, **asked)


def test_a_stored_path_is_measured_on_no_text_that_trained_it(saved, tmp_path: Path, monkeypatch) -> None:
    """With other amounts, what was trained on would be dealt out to be measured on."""
    read, cut = [], Text.blocks

    def spy(*arguments: Any, **options: Any) -> tuple[Blocks, ...]:
        read.append(cut(*arguments, **options))
        return read[-1]

    monkeypatch.setattr(Text, "blocks", spy)
    ends = [saved(name, seed, tokenizer=True, vocab_size=1024, n_positions=128) for seed, name in enumerate("ab")]
    plan = isthmus.CurvePlan(training=isthmus.PathTraining(steps=4, batch=32))
    merge(*ends, data=DATA, tokens=512, align="orthogonal", path=plan).save_path(tmp_path / "path")
    merge(*ends, data=DATA, tokens=1024, path=tmp_path / "path")
    first, second = read
    for trained, later in zip(first, second, strict=True):
        windows = {tuple(row) for row in trained.fit.reshape(-1, 64).tolist()}
        measured = torch.cat([later.select, later.report])
        assert len(measured) == 16
        assert not windows & {tuple(row) for row in measured.unfold(1, 64, 1).reshape(-1, 64).tolist()}


def test_text_needs_a_tokenizer(saved) -> None:
    with pytest.raises(BadInput, match="has no tokenizer"):
        merge(saved("a"), saved("b"), data=DATA)


def test_progress_is_told(saved) -> None:
    stages = []

    class Listening(Progress):
        def stage(self, name: str, total: int | None = None) -> None:
            stages.append(name)

    merge(saved("a"), saved("b"), align="orthogonal", t=0.5, progress=Listening())
    expected = ["checking", "aligning (orthogonal)", "measuring the models' spectra", "measuring the spectrum"]
    expected.append("comparing weights")
    assert stages == expected


def test_checkpoints_that_are_open_already() -> None:
    docs, code = isthmus.load(EMBEDDED / "docs"), isthmus.load(EMBEDDED / "code")
    assert merge(docs, code, align="none", t=0.5).report["endpoints"][0]["ref"] == "docs"


def test_a_user_s_own_text(tmp_path: Path) -> None:
    text = tmp_path / "mine.txt"
    text.write_text("\n".join(next(iter(corpus("stdlib:docs").documents())) for _ in range(3)) * 3)
    found = merge(EMBEDDED / "docs", EMBEDDED / "code", data=[f"mine={text}"], tokens=256)
    assert found.report["data"][0]["label"] == "mine"
    assert str(tmp_path) not in json.dumps(found.report)
    shutil.rmtree(tmp_path)


@pytest.fixture(scope="module")
def report_text() -> dict[str, torch.Tensor]:
    tokenizer = isthmus.load(EMBEDDED / "adamw-1").tokenizer()
    text = labelled_blocks(DATA, tokenizer, context=128, vocabulary=1024, select_tokens=0, report_tokens=2048)
    return {part.label: part.report for part in text}


@pytest.mark.parametrize(
    ("a", "b", "share"), [("adamw-1", "adamw-2", 0.23), ("muon-1", "muon-2", 0.41), ("adamw-1", "muon-1", 0.33)]
)
def test_alignment_leaves_this_share_of_the_naive_barrier(report_text, a: str, b: str, share: float) -> None:
    first, second = isthmus.load(EMBEDDED / a), isthmus.load(EMBEDDED / b)
    aligned = align_states(first.state, second.state, first.config, "orthogonal")
    meter = LossMeter(first.config, report_text)
    path = WeightPath("linear", dict(aligned.a), dict(aligned.b))
    naive = meter(WeightPath("linear", dict(first.state), dict(second.state))(0.5)).mean
    aligned_profile = profile(path, meter, [i / 10 for i in range(11)])
    ends = (aligned_profile.at(0.0).mean + aligned_profile.at(1.0).mean) / 2
    assert aligned_profile.barrier <= share * (naive - ends), "the naive barrier is at least what it is half-way"


def test_text_that_only_reports_changes_nothing_but_the_report() -> None:
    models = [EMBEDDED / "docs", EMBEDDED / "code"]
    settings = {"tokens": 1024, "align": "none", "measure_spectrum": False}
    plain = merge(*models, data=DATA[:1], **settings)
    both = merge(*models, data=DATA, report_on=["code"], **settings)
    assert both.report["merge_point"]["t"] == plain.report["merge_point"]["t"]
    assert all(torch.equal(both.state[name], plain.state[name]) for name in plain.state)
    tokens = {part["label"]: [part[f"{name}_tokens"] for name in PARTS] for part in both.report["data"]}
    assert tokens == {"docs": [0, 1024, 1024], "code": [0, 0, 1024]}
    assert both.report["merge_point"]["losses"].keys() == {"docs", "code"}
    assert both.report["merge_point"]["losses"]["docs"] == plain.report["merge_point"]["losses"]["docs"]
    assert "--report-on code" in both.report["reproduce"]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"report_on": ["law"]}, "--report-on law: there is no text of that label; there are: docs, code"),
        ({"report_on": ["docs", "code"]}, "--report-on leaves no text to select on"),
        ({"report_on": ["code"], "fit_on": ["code"]}, "--fit-on code: that text only reports; there are: docs"),
    ],
)
def test_labels_that_cannot_only_report(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        merge(EMBEDDED / "docs", EMBEDDED / "code", data=DATA, tokens=256, **fields)
