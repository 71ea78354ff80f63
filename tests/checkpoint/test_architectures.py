"""Every architecture is averaged, saved under the names that the models have on disk, and loaded by transformers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import (
    CONFIG_MAPPING,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    T5Config,
    T5ForConditionalGeneration,
)

from isthmus.align.families import FAMILIES
from isthmus.checkpoint.loading import load
from isthmus.checkpoint.model import log_probs

SIZES = {
    "vocab_size": 60, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "max_position_embeddings": 32, "head_dim": 8, "bos_token_id": 0, "eos_token_id": 0,
    "pad_token_id": 0,
}  # fmt: skip
OLD = {"vocab_size": 60, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 32}
MOE = {**SIZES, "num_experts": 3, "num_experts_per_tok": 2, "moe_intermediate_size": 12}
CONFIGS: dict[str, dict[str, Any]] = {
    "gpt_neo": {
        "vocab_size": 60, "hidden_size": 16, "num_layers": 2, "num_heads": 2, "max_position_embeddings": 32,
        "attention_types": [[["global", "local"], 1]],
    },
    "gpt_neox": SIZES, "gptj": {**OLD, "rotary_dim": 4}, "codegen": {**OLD, "rotary_dim": 4}, "gpt_bigcode": OLD,
    "llama": SIZES, "mistral": SIZES, "qwen2": SIZES, "qwen3": SIZES, "gemma": SIZES, "gemma2": SIZES,
    "gemma3_text": SIZES, "phi": SIZES, "phi3": SIZES, "olmo2": SIZES, "stablelm": SIZES, "starcoder2": SIZES,
    "cohere": SIZES, "opt": {**SIZES, "ffn_dim": 24, "word_embed_proj_dim": 16},
    "bloom": {"vocab_size": 60, "hidden_size": 16, "n_layer": 2, "n_head": 2},
    "falcon": {"vocab_size": 60, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2},
    "mixtral": {**SIZES, "num_local_experts": 3, "num_experts_per_tok": 2},
    "phimoe": {**SIZES, "num_local_experts": 3, "num_experts_per_tok": 2},
    "qwen2_moe": {**MOE, "shared_expert_intermediate_size": 12}, "qwen3_moe": MOE, "olmoe": MOE,
    "jamba": {**SIZES, "num_experts": 3, "mamba_d_state": 4}, "bert": SIZES, "roberta": SIZES, "mamba": SIZES,
}  # fmt: skip
IDS = torch.arange(1, 25).view(2, 12)


def saved_model(directory: Path, kind: str, seed: int, **options: object) -> Path:
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(CONFIG_MAPPING[kind](**CONFIGS[kind]))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.2 * torch.randn_like(parameter))
    model.save_pretrained(directory, **options)
    return directory


def stored(directory: Path) -> dict[str, Tensor]:
    return {name: value for file in directory.glob("*.safetensors") for name, value in load_file(file).items()}


def by_transformers(directory: Path) -> dict[str, Tensor]:
    model, info = AutoModelForCausalLM.from_pretrained(directory, output_loading_info=True)
    assert not any(info.values()), info
    return model.state_dict()


def is_average(merged: Path, a: Path, b: Path) -> bool:
    found, *ends = (by_transformers(directory) for directory in (merged, a, b))
    return all(torch.allclose(found[n], (ends[0][n] + ends[1][n]) / 2, atol=1e-6) for n in found)


@pytest.mark.parametrize("kind", CONFIGS)
def test_the_average(tmp_path: Path, isthmus, kind: str) -> None:
    a, b = (saved_model(tmp_path / name, kind, seed) for seed, name in enumerate("ab"))
    checked = isthmus("check", a, b)
    assert checked.code == 0, checked.err
    assert ("--align auto" in checked.err) == (kind in FAMILIES)
    done = isthmus("merge", a, b, "-o", tmp_path / "out", "--align", "none", "--t", 0.5)
    assert done.code == 0, done.err
    assert is_average(tmp_path / "out", a, b)
    assert stored(tmp_path / "out").keys() == stored(a).keys()


@pytest.mark.parametrize("kind", ["gpt_neox", "mixtral", "qwen3_moe", "bert"])
def test_the_function_is_the_one_that_transformers_computes(tmp_path: Path, kind: str) -> None:
    directory = saved_model(tmp_path / "m", kind, 1)
    ours = load(directory)
    with torch.no_grad():
        theirs = AutoModelForCausalLM.from_pretrained(directory).eval()(IDS).logits.log_softmax(-1)
    assert torch.allclose(log_probs(dict(ours.state), ours.config, IDS), theirs, atol=1e-5)


@pytest.mark.parametrize("kind", ["mixtral", "gpt_neox"])
@pytest.mark.parametrize("options", [{"max_shard_size": "4kB"}, {"save_original_format": False}], ids=str)
def test_shards_and_the_names_in_memory(tmp_path: Path, isthmus, kind: str, options: dict[str, object]) -> None:
    a, b = saved_model(tmp_path / "a", kind, 1, **options), saved_model(tmp_path / "b", kind, 2)
    for first, second in ((a, b), (b, a)):
        merge = ("merge", first, second, "-o", tmp_path / "out", "--overwrite", "--align", "none", "--t", 0.5)
        assert isthmus(*merge).code == 0
        assert is_average(tmp_path / "out", a, b)
        assert stored(tmp_path / "out").keys() == stored(first).keys()


UNTIED = {"lm_head.weight", "cls.predictions.decoder.weight", "cls.predictions.decoder.bias"}


@pytest.mark.parametrize("kind", ["gpt_neox", "mixtral", "qwen2_moe", "qwen3_moe", "phi3", "opt", "bert"])
@pytest.mark.parametrize("options", [{}, {"save_original_format": False}], ids=["as on the Hub", "as in memory"])
def test_what_is_aligned_has_the_names_of_the_first_model(
    tmp_path: Path, isthmus, kind: str, options: dict[str, object]
) -> None:
    """And at either end the function of that model, by transformers."""
    a, b = (saved_model(tmp_path / name, kind, seed, **options) for seed, name in enumerate("ab"))
    if kind == "gpt_neox":
        change(a, put("gpt_neox.layers.0.attention.masked_bias", torch.tensor(-1e9)))
    for end, t in ((a, 0), (b, 1)):
        merge = ("merge", a, b, "-o", tmp_path / "out", "--overwrite", "--align", "orthogonal", "--t", t)
        done = isthmus(*merge)
        assert done.code == 0, done.err
        (theirs, _), (ours, info) = (
            auto(kind).from_pretrained(place, output_loading_info=True) for place in (end, tmp_path / "out")
        )
        assert not any(info.values()), info
        with torch.no_grad():
            expected, found = (model.eval()(IDS).logits.log_softmax(-1) for model in (theirs, ours))
        assert torch.allclose(found, expected, atol=1e-4)
        names = stored(a).keys() - {"gpt_neox.layers.0.attention.masked_bias"}
        assert names <= stored(tmp_path / "out").keys()
        assert stored(tmp_path / "out").keys() - names <= UNTIED


def auto(kind: str) -> type:
    return AutoModelForMaskedLM if kind == "bert" else AutoModelForCausalLM


def test_three_models_by_an_operator(tmp_path: Path, isthmus) -> None:
    models = [saved_model(tmp_path / str(seed), "mixtral", seed) for seed in range(3)]
    assert isthmus("merge", *models, "-o", tmp_path / "out", "--method", "linear").code == 0
    ends = [by_transformers(model) for model in models]
    merged = by_transformers(tmp_path / "out")
    assert all(torch.allclose(merged[n], sum(end[n] for end in ends) / 3, atol=1e-6) for n in merged)


Edit = Callable[[dict[str, Tensor]], None]


def change(directory: Path, edit: Edit) -> Path:
    tensors = load_file(directory / "model.safetensors")
    edit(tensors)
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    return directory


def put(name: str, value: Tensor) -> Edit:
    return lambda tensors: tensors.update({name: value})


CAUSAL = torch.ones(1, 1, 32, 32).tril().bool()
BUFFERS = {
    "gpt_neo": ("gpt_neo", put("transformer.h.0.attn.attention.bias", CAUSAL)),
    "gpt_neo, masked": ("gpt_neo", put("transformer.h.0.attn.attention.masked_bias", torch.tensor(-1e9))),
    "gpt_neox": ("gpt_neox", put("gpt_neox.layers.0.attention.bias", CAUSAL)),
    "gpt_neox, masked": ("gpt_neox", put("gpt_neox.layers.0.attention.masked_bias", torch.tensor(-1e9))),
    "gpt_neox, rotary": ("gpt_neox", put("gpt_neox.layers.0.attention.rotary_emb.inv_freq", torch.ones(2))),
    "gptj": ("gptj", put("transformer.h.0.attn.bias", CAUSAL)),
    "codegen": ("codegen", put("transformer.h.0.attn.causal_mask", CAUSAL)),
    "llama": ("llama", put("model.layers.0.self_attn.rotary_emb.inv_freq", torch.ones(4))),
    "llama, cached": ("llama", put("model.layers.1.self_attn.rotary_emb.cos_cached", torch.ones(1, 1, 32, 8))),
    "bert": ("bert", put("bert.embeddings.position_ids", torch.arange(32)[None])),
    "integers of nobody": ("qwen2", put("model.steps", torch.tensor(7))),
}


@pytest.mark.parametrize("kind", BUFFERS)
def test_stored_buffers_are_no_weights(tmp_path: Path, isthmus, kind: str) -> None:
    architecture, edit = BUFFERS[kind]
    plain, b = (saved_model(tmp_path / name, architecture, seed) for seed, name in enumerate("pb"))
    a = change(saved_model(tmp_path / "a", architecture, 0), edit)
    assert isthmus("check", a, b).code == 0
    done = isthmus("merge", a, b, "-o", tmp_path / "out", "--align", "none", "--t", 0.5)
    assert done.code == 0, done.err
    assert is_average(tmp_path / "out", plain, b)


NO_WEIGHTS_OF_OURS = {
    "a bias that the configuration leaves out": put("model.layers.0.self_attn.o_proj.bias", torch.ones(16)),
    "a head for rewards": put("score.weight", torch.ones(1, 16)),
    "an expert too few": lambda tensors: tensors.pop("model.layers.0.block_sparse_moe.experts.1.w1.weight"),
    "an expert too many": put("model.layers.0.block_sparse_moe.experts.3.w1.weight", torch.ones(24, 16)),
    "an expert of integers": put("model.layers.0.block_sparse_moe.experts.1.w1.weight", torch.ones(24, 16).int()),
    "double precision": lambda tensors: tensors.update({"model.norm.weight": tensors["model.norm.weight"].double()}),
}


@pytest.mark.parametrize("kind", NO_WEIGHTS_OF_OURS)
def test_check_and_merge_refuse_alike(tmp_path: Path, isthmus, kind: str) -> None:
    a = change(saved_model(tmp_path / "a", "mixtral", 0), NO_WEIGHTS_OF_OURS[kind])
    b = saved_model(tmp_path / "b", "mixtral", 1)
    assert isthmus("check", a, b).code == 3
    done = isthmus("merge", a, b, "-o", tmp_path / "out", "--align", "none", "--t", 0.5)
    assert (done.code, len(done.err.strip().splitlines())) == (2, 1), done.err
    assert "'a'" in done.err
    assert "unforeseen" not in done.err


def test_a_model_that_is_no_causal_language_model(tmp_path: Path, isthmus) -> None:
    sizes = {"vocab_size": 60, "d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 1, "num_heads": 2}
    for seed, name in enumerate("ab"):
        torch.manual_seed(seed)
        T5ForConditionalGeneration(T5Config(**sizes)).save_pretrained(tmp_path / name)
    check = isthmus("check", tmp_path / "a", tmp_path / "b")
    merge = isthmus("merge", tmp_path / "a", tmp_path / "b", "-o", tmp_path / "out", "--align", "none", "--t", 0.5)
    for found in (check, merge):
        assert found.code in (2, 3)
        assert "is an encoder-decoder model" in " ".join(found.err.split())


def test_an_architecture_that_cannot_be_aligned(tmp_path: Path, isthmus) -> None:
    a, b = (saved_model(tmp_path / name, "stablelm", seed) for seed, name in enumerate("ab"))
    done = isthmus("merge", a, b, "-o", tmp_path / "out", "--align", "orthogonal", "--t", 0.5)
    assert done.code == 2
    assert "models of type 'stablelm' are not supported for alignment" in done.err


def test_names_of_an_old_gpt2_are_kept(tmp_path: Path, saved, isthmus) -> None:
    def strip(tensors: dict[str, Tensor]) -> None:
        for name in list(tensors):
            tensors[name.removeprefix("transformer.")] = tensors.pop(name)

    a, b = change(saved("a"), strip), saved("b", seed=1)
    for first, second, align in ((a, b, "none"), (b, a, "none"), (a, b, "orthogonal")):
        merge = ("merge", first, second, "-o", tmp_path / "out", "--overwrite", "--align", align, "--t", 0.5)
        assert isthmus(*merge).code == 0
        untied = {"lm_head.weight"} if align == "orthogonal" else set()
        assert stored(tmp_path / "out").keys() == stored(first).keys() | untied
        by_transformers(tmp_path / "out")
    facts = json.loads((tmp_path / "out" / "config.json").read_text())
    assert facts["tie_word_embeddings"] is False
