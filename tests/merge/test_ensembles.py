"""Ensembles beside members, soup and merge; saved without weights, and found again."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from conftest import EMBEDDED
from merging import merge
from transformers import AutoTokenizer

import isthmus as package
from isthmus.checkpoint.errors import BadInput
from isthmus.eval.text_hashes import TextHashes
from isthmus.merge.ensembles import ensemble, load_ensemble
from isthmus.merge.plans import CurvePlan, EnsemblePlan, PathTraining

TEXT = ("stdlib:docs:heldout", "code=stdlib:code:heldout")
QUICK = {"data": TEXT, "tokens": 512}
QUICKER = {"data": TEXT[:1], "tokens": 256}


@pytest.fixture
def models(tmp_path: Path) -> tuple[Path, Path]:
    """Two fine-tunes, where their user keeps them."""
    for name in ("docs", "code"):
        shutil.copytree(EMBEDDED / name, tmp_path / "models" / name)
    return tmp_path / "models" / "docs", tmp_path / "models" / "code"


def test_everything_on_the_same_text(models: tuple[Path, Path], tmp_path: Path) -> None:
    found = ensemble(models, EnsemblePlan(**QUICK))
    rows = {row["kind"]: row for row in found.report["models"]}
    assert [row["name"] for row in found.report["models"]] == ["docs", "code", "soup", "merge", "ensemble of all 2"]
    members = [row for row in found.report["models"] if row["kind"] == "member"]
    assert rows["ensemble"]["passes"] == 2
    assert rows["ensemble"]["weights"] == sum(row["weights"] for row in members)
    assert rows["merge"]["passes"] == 1
    assert rows["ensemble"]["loss"] <= sum(row["loss"] for row in members) / 2, "as −log is convex"
    best = min(members, key=lambda row: row["loss"])
    assert found.report["gain"] == pytest.approx(best["loss"] - rows["ensemble"]["loss"], abs=1e-9)
    assert sum(rows["merge"]["merge_weights"]) == pytest.approx(1, abs=1e-4)


def test_saved_small_moved_and_opened(models: tuple[Path, Path], tmp_path: Path) -> None:
    found = ensemble(models, EnsemblePlan(align="none", average="logits", **QUICKER))
    found.save(tmp_path / "models" / "both")
    assert sum(path.stat().st_size for path in (tmp_path / "models" / "both").iterdir()) < 200_000
    settings = json.loads((tmp_path / "models" / "both" / "tokenizer_config.json").read_text())
    assert "name_or_path" not in settings
    (tmp_path / "models").rename(tmp_path / "elsewhere")
    where = tmp_path / "elsewhere" / "both"
    model = package.load_ensemble(where)
    tokenizer = AutoTokenizer.from_pretrained(where)
    ids = tokenizer("Return the", return_tensors="pt").input_ids
    written = model.generate(ids, max_new_tokens=5, do_sample=False)
    assert written.shape[1] > ids.shape[1]
    assert torch.allclose(model(ids).logits, found.model()(ids).logits, atol=1e-6)


def test_a_member_that_was_changed_or_is_gone(models: tuple[Path, Path], tmp_path: Path) -> None:
    ensemble(models, EnsemblePlan(align="none", **QUICKER)).save(tmp_path / "both")
    shutil.copy(EMBEDDED / "muon-1" / "model.safetensors", models[1] / "model.safetensors")
    with pytest.raises(BadInput, match="the weights of 'code' were changed since the ensemble was saved"):
        load_ensemble(tmp_path / "both")
    shutil.rmtree(models[1])
    with pytest.raises(BadInput, match="there is no directory 'code'"):
        load_ensemble(tmp_path / "both")
    (tmp_path / "both" / "ensemble.json").write_text("{}")
    with pytest.raises(BadInput, match="'both' holds no ensemble"):
        load_ensemble(tmp_path / "both")


def test_points_of_a_path_are_members(models: tuple[Path, Path], tmp_path: Path) -> None:
    plan = CurvePlan("polychain", training=PathTraining(steps=4, batch=4))
    merge(*models, path=plan, align="none", **QUICKER).save_path(tmp_path / "curve")
    found = ensemble(models, EnsemblePlan(path=tmp_path / "curve", at=[0.5], align="none", **QUICKER))
    assert [row["name"] for row in found.report["models"]][:3] == ["docs", "code", "curve at t = 0.5"]
    assert found.report["models"][-1]["passes"] == 3
    trained = TextHashes.load(tmp_path / "curve" / "seen.safetensors")
    assert trained.hashes
    assert not any(trained.within(part.report).any() for part in found.text), "nothing is measured on what trained it"
    found.save(tmp_path / "three")
    ids = torch.arange(12)[None]
    assert torch.allclose(load_ensemble(tmp_path / "three")(ids).logits, found.model()(ids).logits, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"data": ()}, "add --data"),
        ({"path": Path("x")}, "give both"),
        ({"at": [0.5]}, "give both"),
        ({"path": Path("x"), "at": [1.5]}, "from 0 to 1; got 1.5"),
        ({"average": "votes"}, "one of probabilities, logits"),
    ],
)
def test_what_makes_no_sense(options: dict[str, object], said: str) -> None:
    with pytest.raises(BadInput, match=said):
        ensemble([EMBEDDED / "docs", EMBEDDED / "code"], EnsemblePlan(**{**QUICK, **options}))


def test_an_ensemble_has_members() -> None:
    with pytest.raises(BadInput, match="two members or more"):
        ensemble([EMBEDDED / "docs"], EnsemblePlan(**QUICK))


def test_for_people_and_for_programs(isthmus, models: tuple[Path, Path], tmp_path: Path) -> None:
    found = isthmus(
        "ensemble", *models, "--data", TEXT[0], "--tokens", 512, "--align", "none", "--json", "-", "-o", tmp_path / "e"
    )
    assert found.code == 0
    report = json.loads(found.out)
    assert report["command"] == "ensemble"
    assert "ensemble of all 2" in found.err
    assert "soup: the plain average without alignment" in found.err
    assert "open it with isthmus.load_ensemble" in found.err
    again = isthmus("ensemble", *models, "--data", TEXT[0], "-o", tmp_path / "e")
    assert (again.code, "not empty" in again.err) == (2, True)
