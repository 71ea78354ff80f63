"""What `check` says of a merge that would write gibberish: the likeliest cause, its evidence, what helps."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from adapters import adapted
from conftest import EMBEDDED, Outcome, tiny_model
from merging import merge
from peft import LoraConfig
from tiny_models import tiny_rotary
from transformers import LlamaForCausalLM

import isthmus as library
from isthmus.align.families import FAMILIES
from isthmus.checkpoint.checks.diagnosis import CAUSES, diagnose
from isthmus.checkpoint.checks.finding import Finding

CLI = Callable[..., Outcome]
Pair = tuple[Path, Path]
check = partial(library.check, families=FAMILIES)


def relatives(folder: Path, *, dtypes: tuple[torch.dtype, torch.dtype] = (torch.float32,) * 2, **changes: Any) -> Pair:
    """A model and one that was trained on from it, with the embedded tokenizer."""
    for name, dtype in zip("ab", dtypes, strict=True):
        model = tiny_model(0, vocab_size=1024)
        if name == "b":
            torch.manual_seed(1)
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.add_(0.01 * torch.randn_like(parameter))
        model.to(dtype).save_pretrained(folder / name)
        for file in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(EMBEDDED / "docs" / file, folder / name / file)
    return folder / "a", folder / "b"


def edit(file: Path, **changes: object) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def test_relatives_have_no_diagnosis(tmp_path: Path) -> None:
    assert check(*relatives(tmp_path)).diagnosis is None


def test_another_base(tmp_path: Path, isthmus: CLI) -> None:
    for seed, name in enumerate("ab"):
        tiny_model(seed).save_pretrained(tmp_path / name)
    diagnosis = check(tmp_path / "a", tmp_path / "b").diagnosis
    assert diagnosis is not None
    assert diagnosis.cause == "base"
    assert "and at least 0.9" in diagnosis.evidence
    outcome = isthmus("check", tmp_path / "a", tmp_path / "b", "--json", "-")
    assert json.loads(outcome.out)["diagnosis"] == str(diagnosis)
    assert (
        "if a merge of these writes gibberish, the likeliest cause is that they were not trained from one"
        in outcome.err
    )
    assert "--align auto" in outcome.err


def test_adapters_as_large_as_their_base_are_no_other_base(tmp_path: Path) -> None:
    settings = LoraConfig(task_type="CAUSAL_LM", r=64, lora_alpha=4096, target_modules=["c_attn", "c_proj", "c_fc"])
    one, other = (adapted(tmp_path, "gpt2", settings, seed=seed, name=f"adapter-{seed}") for seed in (1, 2))
    diagnosis = check(one.reference, other.reference).diagnosis
    assert diagnosis is not None
    assert diagnosis.cause == "adapters"
    assert "'base+adapter-1' and 'base+adapter-2' have one base, and what was added to it" in diagnosis.evidence
    assert "the likeliest cause is an adapter that is as large as its base" in str(diagnosis)


def test_another_rope_base_is_told_with_the_distance_of_the_weights(tmp_path: Path) -> None:
    for name, theta in (("a", 10_000.0), ("b", 500_000.0)):
        model = tiny_rotary(LlamaForCausalLM, 0)
        model.config.rope_parameters["rope_theta"] = theta
        model.save_pretrained(tmp_path / name)
    result = check(tmp_path / "a", tmp_path / "b")
    assert not result.mergeable
    assert result.diagnosis is not None
    assert result.diagnosis.cause == "positions"
    assert "10000.0 in 'a', 500000.0 in 'b'" in result.diagnosis.evidence
    assert str(result.diagnosis).startswith("a merge of these, by whatever tool, would write gibberish")
    assert any("hold the same weights" in str(finding) for finding in result.findings)


def test_another_end_token_and_template(tmp_path: Path) -> None:
    a, b = relatives(tmp_path)
    edit(b / "tokenizer_config.json", eos_token="!", chat_template="{{ messages }}")
    diagnosis = check(a, b).diagnosis
    assert diagnosis is not None
    assert diagnosis.cause == "end token"
    assert diagnosis.others == ("chat template",)
    assert "the eos_token is" in diagnosis.evidence
    assert "Then look at their chat templates" in str(diagnosis)


@pytest.mark.parametrize(("narrow", "kind"), [(torch.bfloat16, "BF16"), (torch.float16, "F16")])
def test_a_model_and_itself_rounded(narrow: torch.dtype, kind: str, tmp_path: Path) -> None:
    for name, dtype in (("a", torch.float32), ("b", narrow)):
        tiny_model(0).to(dtype).save_pretrained(tmp_path / name)
    for pair in (("a", "b"), ("b", "a")):
        diagnosis = check(*(tmp_path / name for name in pair)).diagnosis
        assert diagnosis is not None
        assert diagnosis.cause == "rounding"
        assert f"'b' is 'a' rounded to {kind}" in diagnosis.evidence


def test_a_wide_file_of_narrow_numbers(tmp_path: Path) -> None:
    a, b = relatives(tmp_path)
    tiny_model(0, vocab_size=1024).to(torch.bfloat16).to(torch.float32).save_pretrained(a)
    findings = [str(finding) for finding in check(a, b).findings if "are BF16 ones" in finding.what]
    assert findings == [
        "'a' is stored in F32, and all its numbers, in a sample, are BF16 ones: it was rounded before: differences "
        "from a base that are smaller than that are lost"
    ]


def test_a_few_trained_rows_are_no_rounding(tmp_path: Path) -> None:
    """One row of an embedding was trained, in files of float16: nothing was rounded between the two."""
    for name in "ab":
        model = tiny_model(0).half()
        with torch.no_grad():
            model.transformer.wte.weight[0] += float(name == "b")
        model.save_pretrained(tmp_path / name)
    assert check(tmp_path / "a", tmp_path / "b").diagnosis is None


def test_one_tied_and_one_untied(tmp_path: Path) -> None:
    a, b = relatives(tmp_path)
    model = tiny_model(0, vocab_size=1024, tie_word_embeddings=False)
    model.save_pretrained(b)
    diagnosis = check(a, b).diagnosis
    assert diagnosis is not None
    assert diagnosis.cause == "ties"


def test_the_report_of_a_bad_merge_explains_it(tmp_path: Path) -> None:
    models = EMBEDDED / "adamw-1", EMBEDDED / "adamw-2"
    report = merge(*models, data=["stdlib:docs:heldout"], align="none", t=0.5, tokens=1024).save(tmp_path / "m")
    assert report["merge_point"]["excess"] > 1
    card = (tmp_path / "m" / "README.md").read_text()
    assert "nats against its parents; if a merge of these writes gibberish" in card
    assert "not trained from one base" in card


def test_every_cause_has_words_and_the_likeliest_is_first() -> None:
    findings = [Finding("notes", f"{cause} it is", "do", "file", cause) for cause in reversed(CAUSES)]
    diagnosis = diagnose(findings)
    assert diagnosis is not None
    assert diagnosis.cause == "architecture"
    assert diagnosis.others == tuple(CAUSES)[1:]
    assert str(diagnosis).count("\n") == 0
    assert diagnose([]) is None
