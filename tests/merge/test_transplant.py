"""Models of different tokenizers merged: one takes the tokenizer of the other; its loss before and after."""

from __future__ import annotations

import json
import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import EMBEDDED, Outcome, tiny_model
from merging import combine, merge
from safetensors.torch import load_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from isthmus.merge.recipes.recipe import recipe

CLI = Callable[..., Outcome]
WTE = "transformer.wte.weight"


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A model with the embedded tokenizer, and one with a tokenizer of 700 tokens, trained on a module."""
    folder = tmp_path_factory.mktemp("pair")
    text = Path(sysconfig.get_paths()["stdlib"], "argparse.py").read_text()
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    backend.train_from_iterator(
        [text], trainers.BpeTrainer(vocab_size=700, special_tokens=["<end>"], initial_alphabet=alphabet)
    )
    tiny_model(0, vocab_size=1024).save_pretrained(folder / "a")
    AutoTokenizer.from_pretrained(EMBEDDED / "code").save_pretrained(folder / "a")
    tiny_model(1, vocab_size=700).save_pretrained(folder / "b")
    PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<end>").save_pretrained(folder / "b")
    return folder / "a", folder / "b"


def per_byte(directory: Path, texts: list[str]) -> float:
    """By a plain loop: nats per byte of all tokens but the first of every text."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained(directory), AutoTokenizer.from_pretrained(directory)
    values = []
    for text in texts:
        ids = torch.tensor(tokenizer(text, add_special_tokens=False)["input_ids"][: model.config.n_positions])
        with torch.no_grad():
            log_probs = model(ids[None]).logits[0, :-1].log_softmax(-1)
        nats = -log_probs.gather(1, ids[1:, None]).double().sum().item()
        values.append(nats / len(tokenizer.decode(ids[1:]).encode()))
    return sum(values) / len(values)


def readable(text: str, directory: Path, limit: int = 32) -> str:
    """What a model of this tokenizer reads of a text."""
    tokenizer = AutoTokenizer.from_pretrained(directory)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    return text if len(ids) <= limit else str(tokenizer.decode(ids[:limit]))


def test_shared_rows_are_the_models_own_and_losses_are_told(pair: tuple[Path, Path], tmp_path: Path) -> None:
    a, b = pair
    options: dict[str, Any] = {"data": ["stdlib:code"], "tokens": 512, "align": "none", "t": 0.5}
    merged = merge(a, b, vocabulary="transplant", measure_spectrum=False, **options)
    report = merged.save(tmp_path / "m")
    tables = [load_file(directory / "model.safetensors")[WTE] for directory in pair]
    saved = load_file(tmp_path / "m" / "model.safetensors")[WTE]
    assert saved.shape == (1024, 32)
    vocabularies = [AutoTokenizer.from_pretrained(directory).get_vocab() for directory in pair]
    shared = {token: row for token, row in vocabularies[1].items() if token in vocabularies[0] and token != "<end>"}
    for token, row in shared.items():
        place = vocabularies[0][token]
        torch.testing.assert_close(saved[place], (tables[0][place] + tables[1][row]) / 2)
    end = AutoTokenizer.from_pretrained(a).eos_token_id
    torch.testing.assert_close(saved[end], (tables[0][end] + tables[1][vocabularies[1]["<end>"]]) / 2)
    (record,) = report["transplanted"]
    assert record["model"] == "B"
    assert record["shared_tokens"] == len(shared) + 1
    assert record["made_rows"] == 1024 - len(shared) - 1
    assert merged.shown is not None
    tokenizer = AutoTokenizer.from_pretrained(a)
    texts = [readable(tokenizer.decode(row), b) for row in merged.shown.blocks["code"]]
    assert record["loss_before"] == pytest.approx(per_byte(b, texts), abs=1e-5)
    assert AutoTokenizer.from_pretrained(tmp_path / "m").get_vocab() == vocabularies[0]
    card = (tmp_path / "m" / "README.md").read_text()
    assert "B took another tokenizer" in card
    assert "nats per byte before" in card


def test_made_rows_are_combinations_of_the_models_own(pair: tuple[Path, Path], tmp_path: Path) -> None:
    """All of B, at t = 1: its loss is what the report says of it after the transplant."""
    a, b = pair
    options: dict[str, Any] = {"data": ["stdlib:code"], "tokens": 512, "align": "none", "t": 1.0}
    merged = merge(a, b, vocabulary="transplant", measure_spectrum=False, **options)
    report = merged.save(tmp_path / "m")
    assert merged.shown is not None
    tokenizer = AutoTokenizer.from_pretrained(a)
    texts = [readable(tokenizer.decode(row), b) for row in merged.shown.blocks["code"]]
    (record,) = report["transplanted"]
    assert record["loss_after"] == pytest.approx(per_byte(tmp_path / "m", texts), abs=1e-5)
    assert report["merge_point"]["loss"] == pytest.approx(report["endpoints"][1]["loss"]["code"], abs=1e-5)


def test_it_is_aligned_and_takes_part_in_operators(pair: tuple[Path, Path], tmp_path: Path) -> None:
    a, b = pair
    merge(a, b, vocabulary="transplant", align="orthogonal", t=0.5).save(tmp_path / "m")
    third = tmp_path / "c"
    tiny_model(2, vocab_size=1024).save_pretrained(third)
    AutoTokenizer.from_pretrained(a).save_pretrained(third)
    combine(recipe("linear", [a, b, third]), vocabulary="transplant", align="none").save(tmp_path / "three")
    combine(recipe("task_arithmetic", [b, third], base=a), vocabulary="transplant", align="none").save(tmp_path / "ta")
    for name in ("m", "three", "ta"):
        assert AutoModelForCausalLM.from_pretrained(tmp_path / name).config.vocab_size == 1024


def test_without_it_the_refusal_says_so(pair: tuple[Path, Path], tmp_path: Path, isthmus: CLI) -> None:
    outcome = isthmus("merge", *pair, "-o", tmp_path / "m", "--vocabulary", "union", "--t", "0.5", "--align", "none")
    assert outcome.code == 2
    assert "--vocabulary transplant gives all that of the first" in outcome.error
    outcome = isthmus(
        "merge", *pair, "-o", tmp_path / "m", "--vocabulary", "transplant", "--t", "0.5", "--align", "none"
    )
    assert outcome.code == 0, outcome.err
    assert "degrades  'b' takes the tokenizer of 'a', of whose 1024 tokens it has" in outcome.err
    report = json.loads((tmp_path / "m" / "isthmus.json").read_text())
    assert "--vocabulary transplant" in report["reproduce"]
    assert report["transplanted"][0]["made_rows"] > 100
