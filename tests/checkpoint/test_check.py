from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from isthmus.align.families import FAMILIES
from isthmus.checkpoint.check import check
from isthmus.checkpoint.errors import IncompatibleModels


def kinds(result) -> dict[str, str]:
    return {finding.kind: str(finding) for finding in result.findings}


def test_two_seeds_can_be_merged(saved) -> None:
    result = check(saved("a", tokenizer=True, vocab_size=1024), saved("b", 1, tokenizer=True, vocab_size=1024))
    assert result.mergeable
    assert [str(finding) for finding in result.findings] == [
        "'a' and 'b' were trained independently: 1.00 of the distance between independent models, "
        "and at least 1.00 in every layer: without alignment their average would be destroyed; --align auto aligns them"
    ]
    result.require()


@pytest.mark.parametrize(
    ("changes", "label"),
    [
        ({"n_layer": 3}, "number of layers differs: 2 in 'a', 3 in 'b'"),
        ({"n_embd": 64}, "width differs: 32 in 'a', 64 in 'b'"),
        ({"n_head": 2}, "number of heads differs: 4 in 'a', 2 in 'b'"),
        ({"vocab_size": 130}, "vocabulary size differs: 128 in 'a', 130 in 'b'"),
        ({"n_inner": 96}, "number of neurons differs: 64 in 'a', 96 in 'b'"),
        ({"activation_function": "relu"}, "activation_function differs: gelu_new in 'a', relu in 'b'"),
        ({"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx differs"),
    ],
)
def test_another_shape_or_function_blocks(saved, changes: dict, label: str) -> None:
    result = check(saved("a"), saved("b", **changes))
    assert not result.mergeable
    assert label in kinds(result)["blocks"]
    with pytest.raises(IncompatibleModels, match=label.split(":")[0]):
        result.require()


def test_another_architecture_blocks(saved, tmp_path: Path) -> None:
    from transformers import StableLmConfig, StableLmForCausalLM

    config = StableLmConfig(
        vocab_size=128, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64
    )
    StableLmForCausalLM(config).save_pretrained(tmp_path / "stablelm")
    result = check(saved("a"), tmp_path / "stablelm", families=FAMILIES)
    assert "'a' is of type 'gpt2', 'stablelm' of type 'stablelm'" in kinds(result)["blocks"]
    alone = check(tmp_path / "stablelm", tmp_path / "stablelm", families=FAMILIES)
    assert alone.mergeable
    assert "alignment is supported for: bert, " in kinds(alone)["degrades"]


def test_an_epsilon_degrades_and_ties_are_noted(saved) -> None:
    result = check(saved("a"), saved("b", layer_norm_epsilon=1e-6, tie_word_embeddings=False))
    assert "layer_norm_epsilon differs" in kinds(result)["degrades"]
    assert any("only 'a' ties its output to its embedding: the merge will be untied" in str(f) for f in result.findings)


def test_tokenizers_are_compared_by_token_and_id(saved) -> None:
    a, b = (saved(name, tokenizer=True, vocab_size=1024) for name in "ab")
    content = json.loads((b / "tokenizer.json").read_text())
    vocabulary = content["model"]["vocab"]
    first, second = sorted(vocabulary)[500:502]
    vocabulary[first], vocabulary[second] = vocabulary[second], vocabulary[first]
    (b / "tokenizer.json").write_text(json.dumps(content))
    result = check(a, b)
    assert not result.mergeable
    assert "the tokenizers of 'a' and 'b' differ in 2 tokens" in kinds(result)["blocks"]


def test_other_merges_degrade(saved) -> None:
    a, b = (saved(name, tokenizer=True, vocab_size=1024) for name in "ab")
    content = json.loads((b / "tokenizer.json").read_text())
    content["model"]["merges"].reverse()
    (b / "tokenizer.json").write_text(json.dumps(content))
    result = check(a, b)
    assert result.mergeable
    assert "merge rules of 'b' differ" in kinds(result)["degrades"]


def test_a_missing_tokenizer_is_said(saved) -> None:
    with_one, without = saved("a", tokenizer=True, vocab_size=1024), saved("b", vocab_size=1024)
    assert "'b' has no tokenizer" in kinds(check(with_one, without))["degrades"]
    notes = [str(finding) for finding in check(without, without).findings]
    assert any("neither 'b' nor 'b' has a tokenizer" in note for note in notes)
    assert any("hold the same weights: there is nothing to merge" in note for note in notes)


def test_misshapen_missing_and_extra_tensors_block(saved) -> None:
    a, b = saved("a"), saved("b")
    tensors = load_file(b / "model.safetensors")
    tensors["transformer.wpe.weight"] = torch.ones(4, 4)
    tensors.pop("transformer.ln_f.bias")
    tensors["strange"] = torch.ones(1)
    save_file(tensors, b / "model.safetensors")
    found = [str(f) for f in check(a, b).findings if f.kind == "blocks"]
    assert len(found) == 3
    for expected in ("has shape [4, 4]", "lacks the tensor 'transformer.ln_f.bias'", "a tensor 'strange'"):
        assert any(expected in sentence for sentence in found)


def test_several_models_are_compared_with_the_first(saved) -> None:
    result = check(saved("a"), saved("b"), saved("c", n_head=2))
    assert "4 in 'a', 2 in 'c'" in kinds(result)["blocks"]
    assert result.to_dict()["models"] == ["a", "b", "c"]
    assert result.to_dict()["mergeable"] is False


def test_no_weight_is_read(saved) -> None:
    """Weights that are all NaN pass: only the header was looked at."""
    a = saved("a")
    tensors = {name: torch.full_like(value, float("nan")) for name, value in load_file(a / "model.safetensors").items()}
    save_file(tensors, a / "model.safetensors")
    assert check(a, a).mergeable
