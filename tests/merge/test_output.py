"""What a merge leaves on disk, as its users and their tools see it."""

from __future__ import annotations

import getpass
import json
import logging
import socket
import warnings
from pathlib import Path

import pytest
import torch
from conftest import EMBEDDED
from merging import merge
from token_blocks import labelled_blocks

import isthmus
from isthmus.checkpoint.loading import load
from isthmus.merge.plans import LearnPlan

DATA = ("stdlib:docs:heldout", "stdlib:code:heldout")
SHORT = LearnPlan(steps=6)


@pytest.fixture(scope="module", params=["docs", "muon-1"])
def merged(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One merge that stays tied and one that is untied."""
    out = tmp_path_factory.mktemp("merged") / f"with-{request.param}"
    merge(EMBEDDED / "adamw-1", EMBEDDED / request.param, data=DATA, tokens=512, learn=SHORT).save(out)
    return out


def test_all_files_are_there(merged: Path) -> None:
    names = {path.name for path in merged.iterdir()}
    model = {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
    assert names >= model | {"README.md", "isthmus.json", "report.html"}


def test_transformers_loads_it_without_a_word(merged: Path, caplog, capfd) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2LMHeadModel
    from transformers.utils import logging as transformers_logging

    transformers_logging.enable_propagation()
    with warnings.catch_warnings(), caplog.at_level(logging.WARNING):
        warnings.simplefilter("error")
        model, report = AutoModelForCausalLM.from_pretrained(merged, output_loading_info=True)
        AutoTokenizer.from_pretrained(merged)
    transformers_logging.disable_propagation()
    assert type(model) is GPT2LMHeadModel
    assert not any(report.get(key) for key in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs"))
    assert [record.message for record in caplog.records if record.levelno >= logging.WARNING] == []


def test_transformers_measures_the_loss_that_was_reported(merged: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    report = json.loads((merged / "isthmus.json").read_text())
    model = AutoModelForCausalLM.from_pretrained(merged, dtype="float32")
    tokenizer = AutoTokenizer.from_pretrained(merged)
    text = labelled_blocks(DATA, tokenizer, context=128, vocabulary=1024, select_tokens=512, report_tokens=512)
    for part in text:
        with torch.no_grad():
            loss = model(part.report, labels=part.report).loss.item()
        assert loss == pytest.approx(report["merge_point"]["losses"][part.label], abs=1e-4)


def test_it_generates(merged: Path) -> None:
    from transformers import pipeline

    generate = pipeline("text-generation", model=str(merged))
    assert len(generate("def close(self):\n    ", max_new_tokens=8)[0]["generated_text"]) > 20


def test_it_can_be_merged_again(merged: Path) -> None:
    assert load(merged).dtype == torch.float16
    assert isthmus.check(merged, merged).mergeable


def test_card_and_report_show_no_machine_and_no_user(merged: Path) -> None:
    content = "".join(
        (merged / name).read_text() for name in ("README.md", "isthmus.json", "report.html", "config.json")
    )
    for private in (str(EMBEDDED), str(merged.parent), str(Path.home()), socket.gethostname()):
        assert private not in content
    assert f"/{getpass.getuser()}/" not in content


def test_the_card_is_valid_metadata_and_says_what_was_merged(merged: Path) -> None:
    from huggingface_hub import ModelCard

    card = ModelCard.load(merged / "README.md")
    assert card.data.library_name == "transformers"
    assert card.data.pipeline_tag == "text-generation"
    assert "merge" in card.data.tags
    assert "**adamw-1** (A)" in card.text
    assert "| **merge at t = " in card.text
    assert "nats" in card.text


def test_a_merge_without_measurements_has_a_card_and_a_page_too(tmp_path: Path) -> None:
    merge(EMBEDDED / "docs", EMBEDDED / "code", align="none", t=0.5).save(tmp_path / "out")
    assert "without text, no loss was measured" in (tmp_path / "out" / "README.md").read_text()
    assert "without text, no loss was measured" in (tmp_path / "out" / "report.html").read_text()
