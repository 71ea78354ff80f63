"""Adapters that make a classifier of a language model (peft's SEQ_CLS and TOKEN_CLS), with its head."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from classifiers import classifier, labelled, labelled_words
from conftest import EMBEDDED, Outcome
from merging import merge
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
)

import isthmus
from isthmus.align.families import FAMILIES
from isthmus.checkpoint.errors import BadInput
from isthmus.checkpoint.loading import load
from isthmus.checkpoint.model import log_probs

CLI = Callable[..., Outcome]
TARGETS = {
    "gpt2": ["c_attn", "c_proj"],
    "llama": ["q_proj", "down_proj"],
    "roberta": ["query", "dense"],
    "bert": ["query", "value"],
}
IDS = torch.randint(2, 1000, (1, 11), generator=torch.Generator().manual_seed(0))


def base_of(kind: str, folder: Path) -> Path:
    """A language model, without the head of a classifier."""
    config = classifier(kind).config
    maker: Any = AutoModelForMaskedLM if kind in ("bert", "roberta") else AutoModelForCausalLM
    torch.manual_seed(0)
    facts = {
        key: value for key, value in config.to_dict().items() if key not in ("architectures", "id2label", "label2id")
    }
    maker.from_config(type(config)(**facts)).save_pretrained(folder / "base")
    AutoTokenizer.from_pretrained(EMBEDDED / "adamw-1").save_pretrained(folder / "base")
    return folder / "base"


def adapter_of(base: Path, kind: str, target: Path, seed: int = 0, *, tokens: bool = False) -> PeftModel:
    """A LoRA of a classifier of three labels, with random numbers, saved by peft."""
    loader: Any = AutoModelForTokenClassification if tokens else AutoModelForSequenceClassification
    torch.manual_seed(seed)
    model = loader.from_pretrained(base, num_labels=3)
    settings = LoraConfig(task_type="TOKEN_CLS" if tokens else "SEQ_CLS", r=4, target_modules=TARGETS[kind])
    adapted = get_peft_model(model, settings)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora" in name or "modules_to_save" in name:
                parameter.add_(0.1 * torch.randn_like(parameter))
    adapted.save_pretrained(target)
    return adapted.eval()


@pytest.mark.parametrize("kind", ["gpt2", "llama", "roberta"])
@pytest.mark.parametrize("tokens", [False, True])
def test_it_is_what_peft_computes_and_merges(kind: str, tokens: bool, tmp_path: Path) -> None:
    base = base_of(kind, tmp_path)
    adapters = [adapter_of(base, kind, tmp_path / f"adapter-{seed}", seed, tokens=tokens) for seed in range(2)]
    names = [f"{base}+{tmp_path / f'adapter-{seed}'}" for seed in range(2)]
    for name, adapted in zip(names, adapters, strict=True):
        model = load(name, families=FAMILIES)
        assert model.schema.classifies
        with torch.no_grad():
            expected = adapted(IDS).logits
        torch.testing.assert_close(log_probs(dict(model.state), model.config, IDS), expected, atol=1e-5, rtol=0)
    assert isthmus.check(*names, families=FAMILIES).mergeable
    data = (labelled_words if tokens else labelled)(tmp_path / "x.jsonl", labels=[0, 1, 2])
    merge(*names, data=[str(data)], align="none", t=0.5, tokens=400).save(tmp_path / "m")
    loader: Any = AutoModelForTokenClassification if tokens else AutoModelForSequenceClassification
    _, info = loader.from_pretrained(tmp_path / "m", output_loading_info=True)
    assert not any(info.values())


def test_the_pooler_is_that_of_the_bases_files(tmp_path: Path) -> None:
    base = base_of("bert", tmp_path)
    file = base / "model.safetensors"
    pooler = {"bert.pooler.dense.weight": torch.randn(32, 32), "bert.pooler.dense.bias": torch.randn(32)}
    adapter = tmp_path / "adapter"
    adapter_of(base, "bert", adapter)
    name = f"{base}+{adapter}"
    with pytest.raises(BadInput, match=r"has no 'bert\.pooler\.dense\.weight'"):
        load(name, families=FAMILIES)
    save_file({**load_file(file), **pooler}, file, metadata={"format": "pt"})
    assert isthmus.check(name, name, families=FAMILIES).mergeable
    model = load(name, families=FAMILIES)
    whole = AutoModelForSequenceClassification.from_pretrained(base, num_labels=3)
    with torch.no_grad():
        expected = PeftModel.from_pretrained(whole, adapter).eval()(IDS).logits
    torch.testing.assert_close(log_probs(dict(model.state), model.config, IDS), expected, atol=1e-5, rtol=0)


def test_an_adapter_without_its_head_is_refused(tmp_path: Path) -> None:
    base = base_of("gpt2", tmp_path)
    adapter_of(base, "gpt2", tmp_path / "adapter")
    file = tmp_path / "adapter" / "adapter_model.safetensors"
    save_file({name: value for name, value in load_file(file).items() if "score" not in name}, file)
    with pytest.raises(BadInput, match="makes a classifier of its base, and has no head of one"):
        load(f"{base}+{tmp_path / 'adapter'}", families=FAMILIES)


def test_a_merge_of_them_is_no_adapter_of_the_language_model(tmp_path: Path, isthmus: CLI) -> None:
    base = base_of("gpt2", tmp_path)
    for seed in range(2):
        adapter_of(base, "gpt2", tmp_path / f"adapter-{seed}", seed)
    names = [f"{base}+{tmp_path / f'adapter-{seed}'}" for seed in range(2)]
    outcome = isthmus("merge", *names, "-o", tmp_path / "m", "--t", "0.5", "--align", "none", "--as-lora", "4")
    assert outcome.code == 2
    assert "the merge is a classifier, for which 'base' has no head" in outcome.error
    outcome = isthmus("check", *names, "--json", "-")
    found = [finding["what"] for finding in json.loads(outcome.out)["findings"]]
    assert any("classifies texts, by 3 labels" in what for what in found)
