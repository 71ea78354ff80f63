"""The whole tool on other architectures than GPT-2: from the check to a model that transformers opens."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from conftest import EMBEDDED
from hub_server import TOKEN, HubServer
from huggingface_hub import ModelCard
from merging import combine, merge
from safetensors.torch import load_file, save_file
from tiny_models import tiny_bert, tiny_neox, tiny_opt, tiny_rotary
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoTokenizer,
    BertForMaskedLM,
    Gemma2ForCausalLM,
    LlamaForCausalLM,
    MixtralForCausalLM,
    PhiForCausalLM,
    PreTrainedModel,
    Qwen3ForCausalLM,
    RobertaForMaskedLM,
)

import isthmus
from isthmus.align.canonical import canonical
from isthmus.align.families import FAMILIES, family
from isthmus.align.pipeline import align_states
from isthmus.merge.forecast import forecast
from isthmus.merge.plans import CurvePlan, LearnPlan, MergePlan, PathTraining

DATA = ["stdlib:docs"]
MODELS: dict[str, Callable[..., PreTrainedModel]] = {
    "gpt_neox": tiny_neox,
    "llama": partial(tiny_rotary, LlamaForCausalLM),
    "qwen3": partial(tiny_rotary, Qwen3ForCausalLM, head_dim=8),
    "gemma2": partial(tiny_rotary, Gemma2ForCausalLM, head_dim=8),
    "mixtral": partial(tiny_rotary, MixtralForCausalLM, num_local_experts=3),
    "bert": partial(tiny_bert, BertForMaskedLM),
}
Pair = tuple[Path, Path]


@pytest.fixture(scope="module", params=MODELS)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """Two random models on disk, with the tokenizer of the embedded checkpoints and a context that fits no block."""
    folder = tmp_path_factory.mktemp(request.param)
    tokenizer = AutoTokenizer.from_pretrained(EMBEDDED / "adamw-1")
    if request.param == "bert":
        tokenizer.add_special_tokens({"mask_token": "[MASK]", "cls_token": "[CLS]", "sep_token": "[SEP]"})
    for seed, name in enumerate("ab"):
        longest = 131072 if request.param != "bert" else 512
        model = MODELS[request.param](seed, vocab_size=len(tokenizer), max_position_embeddings=longest)
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    return folder / "a", folder / "b"


def opened(directory: Path) -> PreTrainedModel:
    """What transformers makes of it, without a warning."""
    masked = json.loads((directory / "config.json").read_text())["model_type"] == "bert"
    kind = AutoModelForMaskedLM if masked else AutoModelForCausalLM
    model, info = kind.from_pretrained(directory, output_loading_info=True)
    assert not any(info.values()), info
    return model


def test_it_is_checked_and_measured(pair: Pair) -> None:
    result = isthmus.check(*pair, families=FAMILIES)
    assert result.mergeable
    assert not any("not known" in str(finding) for finding in result.findings)
    (apart,) = (str(finding) for finding in result.findings if "independently" in str(finding))
    assert ("not rotated" in apart) == ("gemma2" in str(pair[0]))
    assert ("neither flipped" in apart) == ("bert" in str(pair[0]))
    model = isthmus.load(pair[0])
    table = family(model.config).untied()
    matrices = table.measured(table.split(canonical(model.state, family(model.config))))
    measured = isthmus.spectrum(dict(model.state), model.config)
    assert measured.keys() == matrices.keys()
    centred = int(table.centred)  # a direction that no norm sees
    assert all(min(matrix.shape) - centred <= len(measured[n]) <= min(matrix.shape) for n, matrix in matrices.items())


@pytest.mark.parametrize("method", ["permutation", "orthogonal"])
def test_it_is_aligned_in_memory_and_layer_by_layer(pair: Pair, method: str) -> None:
    aligned = isthmus.align_models(*pair, method)  # type: ignore[arg-type]
    assert aligned.max_log_prob_error < 1e-4
    a, b = map(isthmus.load, pair)
    streamed = align_states(a.state, b.state, a.config, method, stream=True)  # type: ignore[arg-type]
    assert streamed.alignment.score == pytest.approx(aligned.alignment.score, abs=1e-6)


@pytest.mark.parametrize("method", ["none", "combined", "learned"])
def test_it_is_merged(pair: Pair, method: str, tmp_path: Path) -> None:
    merged = merge(*pair, data=DATA, tokens=256, context=64, align=method, learn=LearnPlan(steps=2, batch=2))
    merged.save(tmp_path / "merged")
    assert merged.report["alignment"]["method"] in (method, "combined", "orthogonal")  # learning may not help
    assert {part["block"] for part in merged.report["data"]} == {64}
    assert opened(tmp_path / "merged").config.num_hidden_layers == 2


@pytest.mark.parametrize("path", ["linear", "polychain"])
def test_what_a_merge_takes_is_foreseen(pair: Pair, path: str) -> None:
    training = PathTraining(steps=2, batch=2)
    curve = {"path": CurvePlan(training=training)} if path == "polychain" else {}
    plan = MergePlan(data=DATA, tokens=256, context=64, align="learned", learn=LearnPlan(steps=2, batch=2), **curve)
    foreseen = forecast(pair, plan)
    assert foreseen.work.steps == 2
    assert foreseen.work.trained == 2 * 2 * 64
    assert all(seconds > 0 for seconds in foreseen.seconds)


def test_from_the_hub_to_the_hub(
    pair: Pair, tmp_path: Path, hub: HubServer, isthmus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The commands, on models that lie on a Hub; the card validates and has the loss that transformers gives."""
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    kind = pair[0].parent.name  # the cache of the Hub knows models by their names
    *names, merged = (f"user/{kind}-{name}" for name in ("a", "b", "merged"))
    for name, directory in zip(names, pair, strict=True):
        hub.add(name, directory)
    assert isthmus("check", *names).code == 0
    options = ("--align", "orthogonal", "--data", "stdlib:docs", "--tokens", 256, "--context", 64)
    done = isthmus("merge", *names, "-o", tmp_path / "merged", *options, "--push", merged)
    assert done.code == 0, done.err
    card = ModelCard(hub.repos[merged].files["README.md"].decode())
    card.validate()
    report = json.loads((tmp_path / "merged" / "isthmus.json").read_text())
    (loss,) = (one.metric_value for one in card.data.eval_results if one.metric_type == "loss")
    assert loss == pytest.approx(report["merge_point"]["loss"], abs=1e-3)
    assert report["spectrum"]["verdict"]
    masked = report["task"] == "fill-mask"
    assert masked == ("bert" in str(pair[0]))
    loaded = (AutoModelForMaskedLM if masked else AutoModelForCausalLM).from_pretrained(merged)
    here = opened(tmp_path / "merged").state_dict()
    assert all(torch.equal(tensor, here[name]) for name, tensor in loaded.state_dict().items())
    spectrum = isthmus("spectrum", merged, names[0], "--json", "-")
    assert spectrum.code == 0
    assert len(json.loads(spectrum.out)["models"]) == 2


def test_a_vocabulary_that_grew_keeps_its_rows(pair: Pair, tmp_path: Path, isthmus) -> None:
    """At the end of the model with more tokens, the merge is that model, aligned."""
    tokenizer, grown = AutoTokenizer.from_pretrained(pair[1]), opened(pair[1])
    tokenizer.add_tokens(["<first>", "<second>"])
    torch.manual_seed(0)
    grown.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    grown.save_pretrained(tmp_path / "b")
    tokenizer.save_pretrained(tmp_path / "b")
    done = isthmus("merge", pair[0], tmp_path / "b", "-o", tmp_path / "out", "--align", "orthogonal", "--t", 1)
    assert done.code == 0, done.err
    ids = torch.arange(len(tokenizer) - 24, len(tokenizer)).view(2, 12)
    with torch.no_grad():
        ours, theirs = (
            opened(place).eval()(ids).logits.log_softmax(-1) for place in (tmp_path / "out", tmp_path / "b")
        )
    assert torch.allclose(ours, theirs, atol=1e-4)


def test_what_a_bert_on_the_hub_has_beside_the_language_model_is_left_out(tmp_path: Path, isthmus) -> None:
    """The pooler and the head for next sentences, with which BERT was trained, and old names of norms."""
    for seed, name in enumerate("ab"):
        model = tiny_bert(BertForMaskedLM, seed)
        model.save_pretrained(tmp_path / name)
        tensors = load_file(tmp_path / name / "model.safetensors")
        old = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"} if name == "b" else {}
        for new, before in old.items():
            tensors = {key.replace(new, before): tensor for key, tensor in tensors.items()}
        tensors |= {"bert.pooler.dense.weight": torch.ones(48, 48), "bert.pooler.dense.bias": torch.ones(48)}
        tensors |= {"cls.seq_relationship.weight": torch.ones(2, 48), "cls.seq_relationship.bias": torch.ones(2)}
        save_file(tensors, tmp_path / name / "model.safetensors", metadata={"format": "pt"})
    checked = isthmus("check", tmp_path / "a", tmp_path / "b")
    assert checked.code == 0, checked.err
    for align in ("none", "orthogonal"):
        options = ("--align", align, "--t", 0, "--overwrite")
        done = isthmus("merge", tmp_path / "a", tmp_path / "b", "-o", tmp_path / "out", *options)
        assert done.code == 0, done.err
        ids = torch.arange(24).view(2, 12)
        with torch.no_grad():
            merged, first = (AutoModelForMaskedLM.from_pretrained(tmp_path / n)(ids).logits for n in ("out", "a"))
        assert torch.allclose(merged.log_softmax(-1), first.log_softmax(-1), atol=1e-4)
    written = load_file(tmp_path / "out" / "model.safetensors")
    biases = [written[f"cls.predictions.{name}"] for name in ("decoder.bias", "bias")]
    assert torch.equal(*biases), "whichever of them is read"


def test_padding_that_shifts_positions_blocks(tmp_path: Path) -> None:
    for name, padding in (("a", 1), ("b", 3)):
        tiny_bert(RobertaForMaskedLM, pad_token_id=padding).save_pretrained(tmp_path / name)
    result = isthmus.check(tmp_path / "a", tmp_path / "b", families=FAMILIES)
    assert not result.mergeable
    assert any("positions are counted from it" in str(finding) for finding in result.findings)


def test_fisher_of_a_bert_whose_head_was_untied(tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(EMBEDDED / "adamw-1")
    tokenizer.add_special_tokens({"mask_token": "[MASK]", "cls_token": "[CLS]", "sep_token": "[SEP]"})
    for seed, name in enumerate("ab"):
        tiny_bert(BertForMaskedLM, seed, vocab_size=len(tokenizer)).save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
    recipe = isthmus.recipe("fisher", [tmp_path / "a", tmp_path / "b"])
    merged = combine(recipe, data=DATA, tokens=256, context=32, align="orthogonal")
    merged.save(tmp_path / "merged")
    assert all(torch.isfinite(tensor).all() for tensor in opened(tmp_path / "merged").state_dict().values())


def test_it_is_merged_along_a_curve(pair: Pair, tmp_path: Path) -> None:
    plan = CurvePlan(training=PathTraining(steps=2, batch=2, optimizer="muon"))
    merged = merge(*pair, data=DATA, tokens=256, context=64, align="orthogonal", path=plan)
    merged.save(tmp_path / "merged")
    assert len(merged.path.bends) == 1


@pytest.mark.parametrize("method", ["regmean", "fisher"])
def test_it_is_averaged_by_what_it_does_with_text(pair: Pair, method: str, tmp_path: Path) -> None:
    merged = combine(isthmus.recipe(method, list(pair)), data=DATA, tokens=256, context=64)
    merged.save(tmp_path / "merged")
    assert opened(tmp_path / "merged")


VARIANTS = {
    "OPT-350m": (tiny_opt, {"do_layer_norm_before": False}, "normalises after every sum"),
    "narrow embeddings": (tiny_opt, {"word_embed_proj_dim": 24}, "embeddings of another width"),
    "normalised queries": (partial(tiny_rotary, PhiForCausalLM), {"qk_layernorm": True}, "normalises queries and keys"),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_variant_without_a_table_is_averaged_with_losses(variant: str, tmp_path: Path, isthmus) -> None:
    """What its type has a table for and it does not fit is said, and it is not aligned."""
    make, changes, reason = VARIANTS[variant]
    tokenizer = AutoTokenizer.from_pretrained(EMBEDDED / "adamw-1")
    for seed, name in enumerate("ab"):
        make(seed, vocab_size=len(tokenizer), **changes).save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
    a, b = tmp_path / "a", tmp_path / "b"
    checked = isthmus("check", a, b)
    assert checked.code == 0
    assert f"the symmetries of 'a' are not known: a{'n' * ('OPT' in checked.err)} " in " ".join(checked.err.split())
    assert reason in " ".join(checked.err.split())
    options = ("--data", "stdlib:docs", "--tokens", 256, "--context", 32)
    done = isthmus("merge", a, b, "-o", tmp_path / "merged", *options)
    assert done.code == 0, done.err
    assert opened(tmp_path / "merged")
    refused = isthmus("merge", a, b, "-o", tmp_path / "aligned", "--align", "orthogonal", *options)
    assert refused.code == 2
    assert reason in refused.err


def test_a_table_that_does_not_cover_the_file_names_the_tensor(pair: Pair, tmp_path: Path) -> None:
    """The configuration says what the file does not have."""
    shutil.copytree(pair[1], tmp_path / "b")
    facts = json.loads((tmp_path / "b" / "config.json").read_text())
    (tmp_path / "b" / "config.json").write_text(json.dumps({**facts, "intermediate_size": 72}))
    result = isthmus.check(pair[0], tmp_path / "b", families=FAMILIES)
    assert not result.mergeable
    assert any(name in str(finding) for finding in result.findings for name in ("mlp", "intermediate", "experts"))
