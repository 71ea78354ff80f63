"""Which optimizers a merge report names, and why."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from conftest import EMBEDDED
from merging import merge

import isthmus
from isthmus.checkpoint.optimizer_evidence import Evidence
from isthmus.eval.fingerprint import Fingerprint, optimizer_of

DATA = ["stdlib:docs:heldout"]
FLAT = Fingerprint(peakedness=0.9, attention=0.2, kurtosis=3.2, embedding=2.5)


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
