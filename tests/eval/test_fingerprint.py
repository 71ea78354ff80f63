"""The fingerprint of weights, and which optimizers a merge report names, and why."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import EMBEDDED, state_of, tiny_config
from merging import merge
from tiny_models import tiny_rotary
from transformers import GPT2LMHeadModel, LlamaForCausalLM

import isthmus
from isthmus.align.families import family
from isthmus.checkpoint.loading import load
from isthmus.checkpoint.optimizer_evidence import Evidence
from isthmus.eval.fingerprint import (
    RANGES,
    Fingerprint,
    _attention_maps,
    fingerprint,
    fingerprint_of,
    judge,
    kurtosis,
    optimizer_of,
    peak,
)
from isthmus.lab.fingerprint_study import CALIBRATION, HELD_OUT, fingerprint_study
from isthmus.lab.pretrain import small_config
from isthmus.merge.spectra import spectrum

DATA = ["stdlib:docs:heldout"]
FLAT = Fingerprint(peakedness=0.9, attention=0.2, kurtosis=3.2, embedding=2.5)


def of(state: dict, config: object) -> Fingerprint:
    return fingerprint_of(state, config, spectrum(state, config))


@pytest.mark.parametrize("name", ["adamw-1", "adamw-2", "docs", "code", "muon-1", "muon-2"])
def test_the_embedded_models_are_told_apart(name: str) -> None:
    model = load(EMBEDDED / name)
    evidence = judge(of(dict(model.state), model.config))
    assert evidence.optimizer == ("muon" if "muon" in name else "adamw")
    assert evidence.confidence == "likely"


def test_a_model_that_was_never_trained_is_unknown() -> None:
    """Its spectra are as flat as Muon's."""
    torch.manual_seed(0)
    config = small_config()
    numbers = of(state_of(GPT2LMHeadModel(config)), config)
    assert numbers.peakedness < 0.8
    assert judge(numbers).optimizer is None


def test_the_study_trains_judges_and_keeps_what_is_there(tmp_path: Path) -> None:
    subject = next(subject for subject in CALIBRATION if subject.name == "x-muon-30")
    text = ("stdlib:docs:heldout", "stdlib:code:heldout")  # a part of the text of the recipe
    chosen = [replace(subject, data=text)]
    first = fingerprint_study(tmp_path, chosen)
    assert (first[0].name, first[0].judged, first[0].outcome) == ("x-muon-30", "muon", "right")
    assert [verdict.outcome for verdict in first] == ["right"] * 7  # the embedded ones beside it
    before = (tmp_path / "x-muon-30" / "model.safetensors").stat().st_mtime_ns
    assert fingerprint_study(tmp_path, chosen) == first
    assert (tmp_path / "x-muon-30" / "model.safetensors").stat().st_mtime_ns == before


def test_no_model_of_the_study_was_judged_wrongly() -> None:
    """The numbers that the study measured, judged by the ranges as they are."""
    study = json.loads((Path(__file__).parents[2] / "benchmarks" / "results" / "fingerprint.json").read_text())
    names = {subject.name for subject in (*CALIBRATION, *HELD_OUT)}
    assert names < {model["name"] for model in study["models"]}
    for model in study["models"]:
        judged = judge(Fingerprint(**model["numbers"])).optimizer
        assert judged in (None, model["trained_by"]), model["name"]
        assert judged == model["judged"]


def test_numbers() -> None:
    assert peak(torch.tensor([4.0, 2.0, 1.0])) == pytest.approx(math.log(2))
    assert kurtosis(torch.tensor([[1.0, -1.0], [1.0, -1.0]])) == pytest.approx(1.0)
    torch.manual_seed(0)
    assert kurtosis(torch.randn(400, 400)) == pytest.approx(3.0, abs=0.05)
    spectra = {
        "h.0.q": torch.tensor([math.e, 1.0, 0.5]),
        "h.0.k": torch.tensor([math.e, 1.0, 0.5]),
        "h.0.o": torch.tensor([1.0, 1.0, 0.5]),
    }
    numbers = fingerprint(
        spectra,
        [torch.tensor([[1.0, -1.0]])],
        torch.tensor([math.e**2, 1.0, 1.0]),
        queries={"h.0.q", "h.0.k"},
        outputs={"h.0.o"},
    )
    assert (numbers.peakedness, numbers.attention, numbers.kurtosis, numbers.embedding) == pytest.approx(
        (2 / 3, 1, 1, 2)
    )
    assert numbers.share == pytest.approx(1 / 3)


def test_queries_and_outputs_are_read_from_the_table() -> None:
    queries, outputs = _attention_maps(family(tiny_config()))
    assert queries == {f"h.{layer}.{name}" for layer in (0, 1) for name in "qk"}
    assert outputs == {"h.0.o", "h.1.o"}


def test_no_two_ranges_overlap() -> None:
    for first in RANGES:
        for second in RANGES:
            shared = RANGES[first].keys() & RANGES[second].keys()
            apart = [
                k
                for k in shared
                if min(RANGES[first][k][1], RANGES[second][k][1]) < max(RANGES[first][k][0], RANGES[second][k][0])
            ]
            assert first == second or apart


@pytest.fixture
def bare(tmp_path: Path) -> dict[str, Path]:
    """Embedded models of which no file says how they were trained."""
    directories = {}
    for name in ("adamw-1", "muon-1", "muon-2"):
        directories[name] = Path(shutil.copytree(EMBEDDED / name, tmp_path / name))
        (directories[name] / "recipe.json").unlink()
    return directories


def test_the_weights_tell_where_no_file_does(bare: dict[str, Path]) -> None:
    report = merge(bare["adamw-1"], bare["muon-1"], align="none", t=0.5, measure_spectrum=True).report
    assert [end["optimizer"] for end in report["endpoints"]] == ["adamw", "muon"]
    assert report["endpoints"][1]["optimizer_evidence"].startswith("its spectra are as flat as Muon leaves them (peak")
    assert report["optimizers"] == {"relation": "cross-optimizer", "confidence": ["likely", "likely"]}


def test_without_a_spectrum_nobody_knows_and_the_user_may_say(bare: dict[str, Path]) -> None:
    ends = (bare["adamw-1"], bare["muon-1"])
    report = merge(*ends, align="none", t=0.5).report
    assert report["optimizers"] == {"relation": "unknown", "confidence": ["unknown", "unknown"]}
    merged = merge(*ends, align="none", t=0.5, optimizers=("AdamW", "adamw_torch")).report
    assert merged["optimizers"]["relation"] == "same-optimizer"
    assert [end["optimizer_evidence"] for end in merged["endpoints"]] == ["the user says so"] * 2


def test_bends_are_trained_by_what_trained_the_ends(bare: dict[str, Path]) -> None:
    plan = isthmus.CurvePlan(training=isthmus.PathTraining(steps=2, batch=2))
    options = {"data": DATA, "path": plan, "align": "none", "tokens": 128, "t": 0.5}
    ends = (bare["muon-1"], bare["muon-2"])
    assert merge(*ends, **options).report["path"]["optimizer"] == "muon"
    result = merge(*ends, **options, optimizers=("lion", "lion"))
    assert result.report["path"]["optimizer"] == "lion"


def test_the_weights_of_a_merge_tell_nothing(bare: dict[str, Path], tmp_path: Path) -> None:
    merge(bare["adamw-1"], bare["muon-1"], align="none", t=1.0, measure_spectrum=True).save(tmp_path / "m")
    report = merge(tmp_path / "m", bare["muon-2"], align="none", t=0.5, measure_spectrum=True).report
    assert report["endpoints"][0]["optimizer"] is None
    assert report["endpoints"][0]["optimizer_evidence"] == (
        "isthmus.json says that it was made from adamw-1 and muon-1"
    )
    merge(bare["muon-1"], bare["muon-2"], align="none", t=0.5, measure_spectrum=True).save(tmp_path / "mm")
    report = merge(tmp_path / "mm", bare["muon-2"], align="none", t=0.5).report
    assert report["endpoints"][0]["optimizer"] == "muon"


def test_files_and_weights_that_disagree() -> None:
    documented = [Evidence("adamw", "stated", "training_args.bin says adamw_torch")]
    evidence = optimizer_of(documented, FLAT)
    assert evidence.optimizer is None
    assert evidence.why.startswith(
        "training_args.bin says adamw_torch, but its spectra are as flat as Muon leaves them"
    )
    assert optimizer_of([], FLAT).optimizer == "muon"
    assert optimizer_of(documented, FLAT, "Muon").optimizer == "muon"


def test_ranges_of_one_architecture_say_nothing_of_another() -> None:
    model = tiny_rotary(LlamaForCausalLM)
    assert not of(state_of(model), model.config).calibrated
    assert judge(FLAT).optimizer == "muon"
    assert judge(replace(FLAT, calibrated=False)).optimizer is None
