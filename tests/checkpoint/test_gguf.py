"""GGUF files as models: what transformers dequantizes is what is merged and measured."""

from __future__ import annotations

import json

import pytest
import torch
from gguf import GGMLQuantizationType as Kind
from gguf_files import write_gguf
from tiny_models import tiny_rotary
from transformers import AutoModelForCausalLM, LlamaForCausalLM

import isthmus as isthmus_package
from isthmus.align.families import FAMILIES
from isthmus.checkpoint.check import check
from isthmus.checkpoint.errors import BadInput, CorruptCheckpoint, ModelNotFound
from isthmus.checkpoint.loading import load
from isthmus.checkpoint.model import log_probs

IDS = torch.arange(1, 97).reshape(4, 24)
SIZES = {"vocab_size": 1024, "hidden_size": 96, "intermediate_size": 64, "num_attention_heads": 6}


@pytest.fixture
def llama() -> LlamaForCausalLM:
    return tiny_rotary(LlamaForCausalLM, **SIZES)  # type: ignore[return-value]


def test_a_file_in_float32_is_the_model_that_was_written(llama, tmp_path) -> None:
    model = load(write_gguf(tmp_path / "model.gguf", llama), families=FAMILIES)
    assert model.name == "model.gguf"
    with torch.no_grad():
        expected = torch.log_softmax(llama(IDS).logits, -1)
    torch.testing.assert_close(log_probs(dict(model.state), model.config, IDS), expected, atol=1e-4, rtol=0)
    assert model.tokenizer().decode(model.tokenizer().encode("def f(x):")) == "def f(x):"


@pytest.mark.parametrize("kind", [Kind.Q8_0, Kind.Q4_1, Kind.F16])
def test_a_merge_has_what_transformers_dequantizes(kind: Kind, llama, tmp_path, isthmus) -> None:
    file = write_gguf(tmp_path / "model.gguf", llama, kind)
    other = tiny_rotary(LlamaForCausalLM, 1, **SIZES)
    other.save_pretrained(tmp_path / "other")
    outcome = isthmus("merge", file, tmp_path / "other", "-o", tmp_path / "out", "--t", "0.25", "--align", "none")
    assert outcome.code == 0
    assert ("tensors are quantized" in outcome.err) == (kind is not Kind.F16)
    assert ("are dequantized to float32" in outcome.err) == (kind is not Kind.F16)
    assert "rms_norm_eps" not in outcome.err  # which GGUF has rounded to float32
    read = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="model.gguf", dtype=torch.float32).state_dict()
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "out").state_dict()
    for name, value in other.state_dict().items():
        torch.testing.assert_close(merged[name], 0.75 * read[name] + 0.25 * value, atol=1e-6, rtol=0)
    report = json.loads((tmp_path / "out" / "isthmus.json").read_text())
    assert report["endpoints"][0]["ref"] == "model.gguf"
    assert str(tmp_path) not in json.dumps(report)


def test_losses_are_those_of_the_dequantized_model(llama, tmp_path, isthmus) -> None:
    """The yardstick of all merges holds the files against the report; here, the endpoint's against transformers."""
    file = write_gguf(tmp_path / "model.gguf", llama, Kind.Q8_0)
    options = ("--data", "stdlib:docs", "--tokens", "512", "--t", "0.5", "--align", "none", "--no-spectrum")
    tiny_rotary(LlamaForCausalLM, 1, **SIZES).save_pretrained(tmp_path / "other")
    assert isthmus("merge", file, tmp_path / "other", "-o", tmp_path / "out", *options).code == 0
    model = load(file)
    model_of_transformers = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="model.gguf", dtype=torch.float32)
    with torch.no_grad():
        expected = torch.log_softmax(model_of_transformers.eval()(IDS).logits, -1)
    torch.testing.assert_close(log_probs(dict(model.state), model.config, IDS), expected, atol=1e-4, rtol=0)


def test_a_directory_with_one_file_is_that_file(llama, tmp_path) -> None:
    write_gguf(tmp_path / "model.gguf", llama)
    assert torch.equal(load(tmp_path).state["model.norm.weight"], llama.model.norm.weight)
    write_gguf(tmp_path / "other.gguf", llama)
    with pytest.raises(BadInput, match="holds 2 GGUF files"):
        load(tmp_path)


def test_a_file_on_the_hub_is_named_after_its_repository(hub, llama, tmp_path) -> None:
    folder = tmp_path / "repo"
    folder.mkdir()
    write_gguf(folder / "a.gguf", llama)
    write_gguf(folder / "b.gguf", llama, Kind.Q8_0)
    hub.add("user/of-gguf", folder)
    model = load("user/of-gguf:a.gguf")
    assert model.name == "user/of-gguf:a.gguf"
    assert torch.equal(model.state["model.norm.weight"], llama.model.norm.weight)
    with pytest.raises(ModelNotFound, match=r"'user/of-gguf:c.gguf' is not there"):
        load("user/of-gguf:c.gguf")


def test_weights_beside_a_gguf_are_read_in_its_place(llama, tmp_path) -> None:
    llama.save_pretrained(tmp_path)
    write_gguf(tmp_path / "model.gguf", llama, Kind.Q4_1)
    assert load(tmp_path).source.files.keys() >= {"model.safetensors"}  # type: ignore[union-attr]
    result = check(tmp_path, tmp_path / "model.gguf", families=FAMILIES)
    assert any("is GGUF, and 16 of its" in str(finding) for finding in result.findings)


def test_two_files_at_once_leave_transformers_as_it_was(llama, tmp_path) -> None:
    from transformers import modeling_gguf_pytorch_utils as reader
    from transformers.utils import logging

    before = (reader.tqdm, logging.get_verbosity(), logging.is_progress_bar_enabled())
    files = [write_gguf(tmp_path / f"{name}.gguf", llama) for name in "abcd"]
    assert check(*files, families=FAMILIES).mergeable
    assert (reader.tqdm, logging.get_verbosity(), logging.is_progress_bar_enabled()) == before


def test_the_card_beside_a_file_counts(hub, llama, tmp_path, isthmus) -> None:
    folder = tmp_path / "repo"
    folder.mkdir()
    write_gguf(folder / "a.gguf", llama)
    (folder / "README.md").write_text("---\nlicense: mit\n---\n")
    hub.add("user/licensed-gguf", folder)
    options = ("--t", "0.5", "--align", "none", "-o", tmp_path / "out")
    assert isthmus("merge", folder / "a.gguf", "user/licensed-gguf", *options).code == 0
    report = json.loads((tmp_path / "out" / "isthmus.json").read_text())
    assert report["license"] == "mit"
    assert report["endpoints"][1]["revision"]
    assert f"user/licensed-gguf@{report['endpoints'][1]['revision']}" in report["reproduce"]


def test_an_ensemble_of_files_is_opened_again(llama, tmp_path, isthmus) -> None:
    files = [write_gguf(tmp_path / f"{name}.gguf", llama) for name in "ab"]
    out = tmp_path / "out"
    assert isthmus("ensemble", *files, "--data", "stdlib:docs", "--tokens", "256", "-o", out).code == 0
    with torch.no_grad():
        logits = isthmus_package.load_ensemble(out)(IDS).logits
        torch.testing.assert_close(logits.log_softmax(-1), llama(IDS).logits.log_softmax(-1), atol=1e-3, rtol=1e-3)


BAD = {
    "no GGUF": (lambda content: b"PK" + content[2:], "truncated or not a GGUF file"),
    "empty": (lambda _: b"", "truncated or not a GGUF file"),
    "truncated": (lambda content: content[: len(content) // 2], "transformers cannot read 'model.gguf'"),
    "of an unknown architecture": (lambda content: content.replace(b"llama", b"lamal"), "cannot read 'model.gguf'"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_file_is_said_in_one_sentence(kind: str, llama, tmp_path) -> None:
    change, sentence = BAD[kind]
    file = write_gguf(tmp_path / "model.gguf", llama)
    file.write_bytes(change(file.read_bytes()))
    with pytest.raises(CorruptCheckpoint) as error:
        load(file)
    assert sentence in str(error.value)
    assert "\n" not in str(error.value)


def test_a_file_that_is_not_there_is_said(tmp_path) -> None:
    with pytest.raises(BadInput, match=r"there is no file 'gone.gguf'"):
        load("gone.gguf")


def test_without_the_package_it_says_what_to_install(llama, tmp_path, monkeypatch) -> None:
    import sys

    file = write_gguf(tmp_path / "model.gguf", llama)
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(BadInput, match=r"pip install 'isthmus\[gguf\]'"):
        load(file)
