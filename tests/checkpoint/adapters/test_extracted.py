"""A fine-tune as an adapter of its base: what peft makes of it is the fine-tune, or the best of a rank."""

from __future__ import annotations

import json

import pytest
import torch
from adapters import IDS, MODULES, adapted, lora, tiny_base
from conftest import EMBEDDED
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import PeftModel
from tiny_models import tiny_bert
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoTokenizer, BertForMaskedLM

from isthmus.checkpoint.adapters.extracted import low_rank
from isthmus.checkpoint.loading import load
from isthmus.checkpoint.model import log_probs


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.floats(0.05, 1.0), st.integers(0, 99))
def test_factors_are_the_best_of_the_lowest_rank_that_keeps_the_energy(
    m: int, n: int, energy: float, seed: int
) -> None:
    difference = torch.randn(m, n, generator=torch.Generator().manual_seed(seed))
    factors = low_rank(difference, energy=energy)
    squares = torch.linalg.svdvals(difference.double()).square()
    total = float(squares.sum())
    lost = float((difference - factors.up @ factors.down).double().square().sum())
    assert abs(lost - float(squares[factors.rank :].sum())) < 1e-5 * total  # Eckart and Young
    assert factors.energy >= energy - 1e-6
    assert factors.rank == 1 or float(squares[: factors.rank - 1].sum()) < (energy + 1e-6) * total


def test_factors_of_nothing_are_nothing() -> None:
    factors = low_rank(torch.zeros(4, 3), energy=0.9)
    assert factors.rank == 1
    assert not (factors.up @ factors.down).any()


def tuned(base, *, everything: bool = True, rank: int | None = None, rows: int = 0):
    """A base whose tensors moved: all of them, or only linear maps, by differences of a rank."""
    generator = torch.Generator().manual_seed(7)
    if rows:
        base.resize_token_embeddings(base.config.vocab_size + rows, mean_resizing=False)
    with torch.no_grad():
        for name, parameter in base.named_parameters():
            if parameter.ndim == 2 and not name.endswith(
                ("wte.weight", "wpe.weight", "embed_tokens.weight", "lm_head.weight")
            ):
                r = rank or min(parameter.shape)
                left, right = (torch.randn(size, r, generator=generator) for size in parameter.shape)
                parameter.add_(0.05 * left @ right.T)
            elif everything:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return base


def require_extracted(isthmus, folder, model) -> torch.Tensor:
    """peft makes a saved fine-tune again of its base and what is extracted; the model's log-probabilities."""
    out = folder / "lora"
    assert isthmus("extract", folder / "tuned", "--base", folder / "base", "-o", out, "--energy", "1").code == 0
    with torch.no_grad():
        expected = torch.log_softmax(model(IDS).logits, -1)
        opened = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(folder / "base"), out).eval()
        torch.testing.assert_close(torch.log_softmax(opened(IDS).logits, -1), expected, atol=1e-4, rtol=0)
    return expected


CASES = {
    "gpt2": {},
    "llama": {"tie_word_embeddings": False},
    "tied llama": {"tie_word_embeddings": True},
}


@pytest.mark.parametrize("family", CASES)
@pytest.mark.parametrize("everything", [True, False])
def test_at_full_energy_peft_makes_the_fine_tune_again(family: str, everything: bool, tmp_path, isthmus) -> None:
    kind, facts = family.rpartition(" ")[2], CASES[family]
    tiny_base(kind, **facts).save_pretrained(tmp_path / "base")
    model = tuned(tiny_base(kind, **facts), everything=everything)
    model.save_pretrained(tmp_path / "tuned")
    expected = require_extracted(isthmus, tmp_path, model)
    out = tmp_path / "lora"
    again = load(f"{tmp_path / 'base'}+{out}")
    torch.testing.assert_close(log_probs(dict(again.state), again.config, IDS), expected, atol=1e-4, rtol=0)
    assert bool(again.schema.tied) == bool(load(tmp_path / "tuned").schema.tied)


def test_differences_of_low_rank_are_found_at_that_rank(tmp_path, isthmus) -> None:
    tiny_base("llama").save_pretrained(tmp_path / "base")
    tuned(tiny_base("llama"), everything=False, rank=3).save_pretrained(tmp_path / "tuned")
    out = tmp_path / "lora"
    assert (
        isthmus("extract", tmp_path / "tuned", "--base", tmp_path / "base", "-o", out, "--energy", "0.999999").code == 0
    )
    report = json.loads((out / "isthmus.json").read_text())
    assert set(report["adapter"]["ranks"].values()) == {3}
    assert report["adapter"]["whole"] == []
    content = json.loads((out / "adapter_config.json").read_text())
    assert content["base_model_name_or_path"] is None  # the name of a directory is no place that others could find
    assert (content["r"], content["lora_alpha"], content["rank_pattern"]) == (3, 3, {})
    assert set(content["target_modules"]) == {
        "q_proj",
        "k_proj",
        "v_proj",
        "o_proj",
        "gate_proj",
        "up_proj",
        "down_proj",
    }


def save(model, directory, *, added: int = 0) -> None:
    """With the embedded tokenizer, and tokens that were added to it."""
    model.save_pretrained(directory)
    tokenizer = AutoTokenizer.from_pretrained(EMBEDDED / "docs")
    tokenizer.add_tokens([f"<added-{number}>" for number in range(added)])
    tokenizer.save_pretrained(directory)


def test_rows_that_a_fine_tune_added_are_in_its_adapter(tmp_path, isthmus) -> None:
    save(tiny_base("gpt2", vocab_size=1024), tmp_path / "base")
    model = tuned(tiny_base("gpt2", vocab_size=1024), rows=2)
    save(model, tmp_path / "tuned", added=2)
    out = tmp_path / "lora"
    assert isthmus("extract", tmp_path / "tuned", "--base", tmp_path / "base", "-o", out, "--energy", "1").code == 0
    again = load(f"{tmp_path / 'base'}+{out}")
    assert again.facts["vocab_size"] == len(again.tokenizer()) == 1026
    with torch.no_grad():
        expected = torch.log_softmax(model(IDS).logits, -1)
    torch.testing.assert_close(log_probs(dict(again.state), again.config, IDS), expected, atol=1e-4, rtol=0)
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    base.resize_token_embeddings(1026, mean_resizing=False)
    with torch.no_grad():
        adapted = PeftModel.from_pretrained(base, out).eval()
        torch.testing.assert_close(torch.log_softmax(adapted(IDS).logits, -1), expected, atol=1e-4, rtol=0)


def test_one_rank_keeps_what_it_can_and_says_what_is_lost(tmp_path, isthmus) -> None:
    out = tmp_path / "lora"
    models = (EMBEDDED / "docs", "--base", EMBEDDED / "adamw-1")
    outcome = isthmus("extract", *models, "-o", out, "--rank", "8", "--data", "stdlib:docs", "--tokens", "2048")
    assert outcome.code == 0
    report = json.loads((out / "isthmus.json").read_text())
    assert set(report["adapter"]["ranks"].values()) == {8}
    losses = {name: one["loss"] for name, one in report["models"].items()}
    assert report["lost"] == pytest.approx(losses["adapted"] - losses["model"])
    assert losses["model"] < losses["adapted"] < losses["base"]
    assert "the adapter loses" in outcome.err
    assert "extract ./docs --base ./adamw-1 -o adapter --data stdlib:docs --rank 8" in report["reproduce"]
    assert 'PeftModel.from_pretrained(base, "lora")' in (out / "README.md").read_text()
    text = "".join((out / name).read_text() for name in ("README.md", "isthmus.json", "adapter_config.json"))
    assert str(EMBEDDED) not in text


BAD = {
    "its own base": (("tuned", "--base", "tuned"), "the model is its base"),
    "another architecture": (("tuned", "--base", "other"), "differs"),
    "no energy": (("tuned", "--base", "base", "--energy", "0"), "--energy is a share"),
    "too much energy": (("tuned", "--base", "base", "--energy", "1.5"), "--energy is a share"),
    "a base with more tokens": (("base", "--base", "grown"), "has more rows of the vocabulary"),
}


@pytest.mark.parametrize("kind", BAD)
def test_what_cannot_be_extracted_is_said_in_one_sentence(kind: str, tmp_path, isthmus, monkeypatch) -> None:
    (model, option, base, *more), sentence = BAD[kind]
    monkeypatch.chdir(tmp_path)
    save(tiny_base("gpt2", vocab_size=1024), tmp_path / "base")
    save(tuned(tiny_base("gpt2", vocab_size=1024)), tmp_path / "tuned")
    save(tuned(tiny_base("gpt2", vocab_size=1024), rows=2), tmp_path / "grown", added=2)
    save(tiny_base("gpt2", vocab_size=1024, n_embd=48), tmp_path / "other")
    outcome = isthmus("extract", model, option, base, *more, "-o", "out")
    assert outcome.code == 2
    assert sentence in outcome.err
    assert not (tmp_path / "out").exists()


def test_an_adapter_is_pushed_and_named_from_the_hub(hub, tmp_path, isthmus) -> None:
    tiny_base("gpt2").save_pretrained(tmp_path / "base")
    tuned(tiny_base("gpt2")).save_pretrained(tmp_path / "tuned")
    hub.add("user/base-of-extracted", tmp_path / "base")
    out = tmp_path / "lora"
    assert isthmus("extract", tmp_path / "tuned", "--base", "user/base-of-extracted", "-o", out).code == 0
    outcome = isthmus("push", out, "user/extracted-lora", "--dry-run", "--json", "-")
    assert outcome.code == 0
    names = [file["name"] for file in json.loads(outcome.out)["files"]]
    assert {"adapter_config.json", "adapter_model.safetensors", "README.md"} < set(names)
    card = (out / "README.md").read_text()
    assert "base_model:\n- user/base-of-extracted\n" in card
    assert "base_model_relation: adapter" in card
    hub.add("user/extracted-lora-2", out)
    name = load("user/extracted-lora-2").name
    assert name.startswith("user/base-of-extracted@")  # the commit that it was made from
    assert name.endswith("+user/extracted-lora-2")


CHANGES = {
    "a norm alone": ("gpt2", lambda name: name.endswith("ln_1.weight")),
    "the bias of a norm and a matrix": ("gpt2", lambda name: name.endswith(("h.0.ln_1.bias", "h.1.mlp.c_fc.weight"))),
    "one bias": ("gpt2", lambda name: name.endswith("h.1.mlp.c_fc.bias")),
    "a bias and another matrix": ("gpt2", lambda name: name.endswith(("h.0.attn.c_attn.bias", "h.1.mlp.c_fc.weight"))),
    "an embedding alone": ("gpt2", lambda name: name.endswith("wte.weight")),
    "positions alone": ("gpt2", lambda name: name.endswith("wpe.weight")),
    "a final norm": ("llama", lambda name: name == "model.norm.weight"),
    "a head alone": ("llama", lambda name: name == "lm_head.weight"),
}


@pytest.mark.parametrize("kind", CHANGES)
def test_whatever_differs_is_in_the_adapter(kind: str, tmp_path, isthmus) -> None:
    family, differs = CHANGES[kind]
    facts = {"tie_word_embeddings": False} if family == "llama" else {}
    tiny_base(family, **facts).save_pretrained(tmp_path / "base")
    model = tiny_base(family, **facts)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if differs(name):
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3)))
    model.save_pretrained(tmp_path / "tuned")
    require_extracted(isthmus, tmp_path, model)


def test_a_masked_language_model_has_adapters_too(tmp_path, isthmus) -> None:
    facts = {"vocab_size": 128, "type_vocab_size": 2}
    tiny_bert(BertForMaskedLM, 0, **facts).save_pretrained(tmp_path / "base")
    model = tiny_bert(BertForMaskedLM, 0, **facts)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "attention.self.query" in name:
                parameter.add_(0.1 * torch.randn(parameter.shape))
    model.save_pretrained(tmp_path / "tuned")
    out, ids = tmp_path / "lora", IDS[:, :16] + 1
    assert isthmus("extract", tmp_path / "tuned", "--base", tmp_path / "base", "-o", out, "--energy", "1").code == 0
    with torch.no_grad():
        adapted = PeftModel.from_pretrained(AutoModelForMaskedLM.from_pretrained(tmp_path / "base"), out).eval()
        torch.testing.assert_close(adapted(ids).logits, model(ids).logits, atol=1e-4, rtol=1e-4)
    assert "AutoModelForMaskedLM.from_pretrained" in (out / "README.md").read_text()


def use_of(card: str) -> str:
    return card.split("```python\n")[1].split("```")[0]


def test_the_lines_of_the_card_open_the_adapter(hub, tmp_path, isthmus, monkeypatch) -> None:
    """Of a base in a subfolder of the Hub, whose vocabulary the adapter grew."""
    save(tiny_base("gpt2", vocab_size=1024), tmp_path / "base")
    save(tuned(tiny_base("gpt2", vocab_size=1024), rows=2), tmp_path / "tuned", added=2)
    hub.add("user/base-in-a-folder", tmp_path / "base", subfolder="deep/er")
    monkeypatch.chdir(tmp_path)
    base = "user/base-in-a-folder:deep/er"
    assert isthmus("extract", "./tuned", "--base", base, "-o", "lora", "--energy", "1").code == 0
    opened: dict = {}
    exec(use_of((tmp_path / "lora" / "README.md").read_text()), opened)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "tuned")
    with torch.no_grad():
        torch.testing.assert_close(opened["model"].eval()(IDS).logits, model(IDS).logits, atol=1e-3, rtol=1e-4)


def test_an_adapted_base_is_refused_before_the_work(tmp_path, isthmus) -> None:
    made = adapted(tmp_path, "gpt2", lora(MODULES["gpt2"]))
    outcome = isthmus("extract", made.base, "--base", made.reference, "-o", tmp_path / "out")
    assert outcome.code == 2
    assert "is adapted itself" in outcome.err
