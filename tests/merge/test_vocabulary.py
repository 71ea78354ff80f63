"""Merging models of which one has more tokens than the other."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from conftest import EMBEDDED
from merging import merge
from transformers import AutoModelForCausalLM, AutoTokenizer

from isthmus.checkpoint.errors import IncompatibleModels
from isthmus.merge.plans import LearnPlan

DATA = ["stdlib:docs:heldout"]
NEW = ["<|user|>", "<|assistant|>"]
IDS = torch.tensor([[5, 1024, 77, 1025, 300, 1024]])


@pytest.fixture(scope="module")
def grown(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded `code` with two tokens more, and an embedding padded to 1032 rows."""
    directory = tmp_path_factory.mktemp("vocabulary") / "grown"
    tokenizer = AutoTokenizer.from_pretrained(EMBEDDED / "code")
    tokenizer.add_tokens(NEW)
    model = AutoModelForCausalLM.from_pretrained(EMBEDDED / "code", dtype="float32")
    torch.manual_seed(0)
    model.resize_token_embeddings(1032, mean_resizing=False)
    with torch.no_grad():
        model.transformer.wte.weight[1024:] = 0.1 * torch.randn(8, 128)
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


def log_probs(directory: Path) -> torch.Tensor:
    model = AutoModelForCausalLM.from_pretrained(directory, dtype="float32").eval()
    with torch.no_grad():
        return torch.log_softmax(model(IDS).logits, -1)


@pytest.mark.parametrize("align", ["none", "permutation", "orthogonal"])
@pytest.mark.parametrize("owner", ["A", "B"])
def test_the_end_that_has_more_tokens_is_kept_whole(grown: Path, tmp_path: Path, align: str, owner: str) -> None:
    other = EMBEDDED / "docs"
    ends, t = ((grown, other), 0.0) if owner == "A" else ((other, grown), 1.0)
    found = merge(*ends, align=align, t=t, tokens=256, data=DATA, dtype="float32")
    found.save(tmp_path / "out")
    assert (log_probs(tmp_path / "out") - log_probs(grown)).abs().max() < 1e-4
    assert found.report["vocabulary"]["kept_from"] == owner


@pytest.mark.parametrize("owner", ["A", "B"])
def test_a_learned_gauge_does_not_reach_the_rows_that_are_kept(grown: Path, tmp_path: Path, owner: str) -> None:
    other = EMBEDDED / "muon-1"
    ends, t = ((grown, other), 0.0) if owner == "A" else ((other, grown), 1.0)
    options = {"align": "learned", "learn": LearnPlan(steps=20), "t": t, "tokens": 256, "data": DATA}
    found = merge(*ends, **options, dtype="float32", measure_spectrum=False)
    assert found.alignment.gauge["ln_f"].std() > 0.01
    found.save(tmp_path / "out")
    assert (log_probs(tmp_path / "out") - log_probs(grown)).abs().max() < 1e-4


def test_shared_rows_are_merged_and_the_others_kept(grown: Path, tmp_path: Path) -> None:
    without = merge(EMBEDDED / "docs", EMBEDDED / "code", align="none", t=0.25, dtype="float32")
    found = merge(EMBEDDED / "docs", grown, align="none", t=0.25, dtype="float32")
    name = "transformer.wte.weight"
    assert torch.equal(found.state[name][:1024], without.state[name])
    own = AutoModelForCausalLM.from_pretrained(grown).transformer.wte.weight
    assert torch.equal(found.state[name][1024:], own[1024:])
    assert len(found.state) == len(without.state) == len(list(found.state))
    found.save(tmp_path / "out")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert tokenizer.convert_tokens_to_ids(NEW) == [1024, 1025]
    vocabulary = json.loads((tmp_path / "out" / "isthmus.json").read_text())["vocabulary"]
    shape = {"shared_rows": 1024, "rows": 1032, "kept_from": "B"}
    assert vocabulary.items() >= {**shape, "added_tokens": NEW, "loss": None}.items()


def test_the_loss_of_the_whole_merge_is_reported(grown: Path) -> None:
    report = merge(EMBEDDED / "docs", grown, data=DATA, tokens=256).report
    shared, whole = report["vocabulary"]["shared_loss"], report["vocabulary"]["loss"]
    assert whole == report["merge_point"]["loss"]
    assert shared < whole < shared + 0.5  # eight more tokens can only take probability away


@pytest.fixture(scope="module")
def winning(grown: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of `grown` in which an added row wins the softmax for most texts."""
    directory = tmp_path_factory.mktemp("winning") / "grown"
    shutil.copytree(grown, directory)
    model = AutoModelForCausalLM.from_pretrained(grown, dtype="float32")
    with torch.no_grad():
        ids = torch.arange(16, 144)[None]
        hidden = model.transformer(ids).last_hidden_state[0].mean(0)
        model.transformer.wte.weight[1026] = 60 * hidden / hidden.norm()
    model.save_pretrained(directory)
    return directory


@pytest.mark.parametrize("align", ["none", "orthogonal"])
@pytest.mark.parametrize("order", [1, -1])
def test_a_row_that_wins_is_in_every_loss_that_is_shown(winning, tmp_path, isthmus, align: str, order: int) -> None:
    models = (EMBEDDED / "docs", winning)[::order]
    merge = ("merge", *models, "--data", DATA[0], "--tokens", 256, "--align", align, "--dtype", "float32")
    found = isthmus(*merge, "-o", tmp_path / "out")  # which holds report, card and terminal against the files
    assert found.code == 0, found.err
    report = json.loads((tmp_path / "out" / "isthmus.json").read_text())
    point, vocabulary = report["merge_point"], report["vocabulary"]
    assert point["loss"] == vocabulary["loss"] > vocabulary["shared_loss"] + 1
    assert vocabulary["same_text"] is True
    ends = [sum(end["loss"].values()) for end in report["endpoints"]]
    assert max(ends) > min(ends) + 1  # the one that has the row, as its users run it
    assert "on the 1024 rows that both models have" in " ".join(found.err.split())
    assert point["gain"] < 0
    gates: list[tuple[object, ...]] = [("--require-gain",)]
    if point["excess"] > 0.5:
        gates.append(("--max-barrier", 0.5))
    for gate in gates:
        refused = isthmus(*merge, "-o", tmp_path / "gate", *gate)
        assert refused.code == 3, refused.err
        assert not (tmp_path / "gate").exists()


def test_text_that_the_saved_tokenizer_cuts_otherwise(grown: Path, tmp_path: Path) -> None:
    text = tmp_path / "chat.txt"
    text.write_text("<|user|> says something. " * 400)
    report = merge(grown, EMBEDDED / "docs", data=[str(text)], tokens=256, align="none", t=0.5).report
    assert report["vocabulary"]["same_text"] is False


def test_an_endpoint_is_measured_with_its_own_constant(tmp_path: Path) -> None:
    own = tmp_path / "own"
    shutil.copytree(EMBEDDED / "code", own)
    facts = json.loads((own / "config.json").read_text())
    (own / "config.json").write_text(json.dumps({**facts, "layer_norm_epsilon": 0.5}))
    found = merge(EMBEDDED / "docs", own, data=DATA, tokens=256, align="none", t=0.5, dtype="float32")
    found.save(tmp_path / "out")
    alone = merge(own, own, data=DATA, tokens=256, align="none", t=0.5)
    expected = alone.report["endpoints"][0]["loss"]
    assert found.report["endpoints"][1]["loss"] == pytest.approx(expected, abs=1e-5)


def test_text_with_a_token_that_only_one_model_knows(grown: Path, tmp_path: Path) -> None:
    text = tmp_path / "chat.txt"
    text.write_text("<|user|> says something. " * 400)
    found = merge(grown, EMBEDDED / "docs", data=[str(text)], tokens=256, align="none", t=0.5)
    assert found.report["merge_point"]["loss"] is not None


def test_padding_alone(tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(EMBEDDED / "code", dtype="float32")
    model.resize_token_embeddings(1088, mean_resizing=False)
    model.save_pretrained(tmp_path / "padded")
    AutoTokenizer.from_pretrained(EMBEDDED / "code").save_pretrained(tmp_path / "padded")
    found = merge(tmp_path / "padded", EMBEDDED / "docs", align="none", t=0.5)
    expected = {"shared_rows": 1024, "rows": 1088, "kept_from": "A", "added_tokens": [], "loss": None}
    assert found.report["vocabulary"].items() >= expected.items()


def test_two_that_grew_apart_are_refused(grown: Path, tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(EMBEDDED / "docs")
    tokenizer.add_tokens(["<|other|>"])
    model = AutoModelForCausalLM.from_pretrained(EMBEDDED / "docs")
    model.resize_token_embeddings(1032)
    model.save_pretrained(tmp_path / "other")
    tokenizer.save_pretrained(tmp_path / "other")
    with pytest.raises(IncompatibleModels, match="differ in 3 tokens"):
        merge(tmp_path / "other", grown, align="none", t=0.5)


@pytest.mark.parametrize("method", ["permutation", "orthogonal"])
def test_align_moves_the_whole_model(grown: Path, tmp_path: Path, isthmus, method: str) -> None:
    options = ("--method", method, "--dtype", "float32", "--reference", tmp_path / "base")
    assert isthmus("align", EMBEDDED / "docs", grown, "-o", tmp_path / "moved", *options).code == 0
    assert (log_probs(tmp_path / "moved") - log_probs(grown)).abs().max() < 1e-4
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    assert base.config.vocab_size == 1024


def test_a_plane_is_measured_on_the_shared_rows(grown: Path, tmp_path: Path, isthmus) -> None:
    models = (grown, EMBEDDED / "docs", EMBEDDED / "adamw-1")
    options = ("--data", DATA[0], "--tokens", 256, "--resolution", 2, "--align", "none")
    assert isthmus("plane", *models, "-o", tmp_path / "out", *options).code == 0
