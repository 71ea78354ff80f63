"""Models of different context lengths: shared positions are merged, the rest are those of the longest model."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import EMBEDDED, Outcome, tiny_model
from merging import combine, merge
from safetensors.torch import load_file
from tiny_models import tiny_bert, tiny_opt
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoTokenizer, BertForMaskedLM, RobertaForMaskedLM

import isthmus
from isthmus.align.canonical import canonical
from isthmus.align.families import FAMILIES, family
from isthmus.checkpoint.loading import load
from isthmus.merge.recipes.recipe import recipe

CLI = Callable[..., Outcome]
WPE = "transformer.wpe.weight"


def pair(folder: Path, *lengths: int) -> list[Path]:
    """GPT-2s of different contexts; with a tokenizer."""
    directories = []
    for seed, length in enumerate(lengths):
        directory = folder / f"m{seed}"
        tiny_model(seed, vocab_size=1024, n_positions=length).save_pretrained(directory)
        AutoTokenizer.from_pretrained(EMBEDDED / "adamw-1").save_pretrained(directory)
        directories.append(directory)
    return directories


@pytest.mark.parametrize("lengths", [(32, 48), (48, 32)])
def test_shared_rows_are_averaged_and_the_others_are_those_of_the_longer(
    lengths: tuple[int, int], tmp_path: Path
) -> None:
    models = pair(tmp_path, *lengths)
    result = isthmus.check(*models, families=FAMILIES)
    assert result.mergeable
    longer = models[lengths.index(48)].name
    assert any(f"the others are those of '{longer}'" in str(finding) for finding in result.findings)
    merge(*models, align="none", t=0.25).save(tmp_path / "m")
    tables = [load_file(model / "model.safetensors")[WPE] for model in models]
    expected = torch.cat([0.75 * tables[0][:32] + 0.25 * tables[1][:32], tables[lengths.index(48)][32:]])
    torch.testing.assert_close(load_file(tmp_path / "m" / "model.safetensors")[WPE], expected)
    assert json.loads((tmp_path / "m" / "config.json").read_text())["n_positions"] == 48
    model, info = AutoModelForCausalLM.from_pretrained(tmp_path / "m", output_loading_info=True)
    assert not any(info.values())
    assert model(torch.ones(1, 48, dtype=torch.int64)).logits.shape[1] == 48


def test_with_text_losses_are_on_texts_that_all_can_read(tmp_path: Path) -> None:
    models = pair(tmp_path, 32, 48)
    report = merge(*models, data=["stdlib:docs"], align="none", t=0.5, tokens=512).save(tmp_path / "m")
    assert report["data"][0]["block"] == 32
    same = pair(tmp_path / "same", 32, 32)
    shared = load_file(same[0] / "model.safetensors")[WPE]
    assert shared.shape == (32, 32)


def test_rows_that_a_model_lacks_take_no_part_in_alignment(tmp_path: Path) -> None:
    short, _ = pair(tmp_path, 32, 48)
    state = load_file(short / "model.safetensors")
    torch.manual_seed(5)
    table = family(load(short, families=FAMILIES).config)
    model = tiny_model(0, vocab_size=1024, n_positions=48)
    from group import moved, random_elements

    pieces = canonical({**state, "lm_head.weight": state["transformer.wte.weight"]}, table)
    untied = table.untied()
    turned = moved(pieces, untied, random_elements(untied, "orthogonal"))
    rest = torch.randn(16, 32)
    longer: dict[str, Any] = {**turned, WPE: torch.cat([turned[WPE], rest])}
    model = tiny_model(0, vocab_size=1024, n_positions=48, tie_word_embeddings=False)
    model.load_state_dict(longer, strict=False)
    model.save_pretrained(tmp_path / "turned")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "turned" / name).write_bytes((short / name).read_bytes())
    for models in ((short, tmp_path / "turned"), (tmp_path / "turned", short)):
        report = merge(
            *models, data=["stdlib:docs"], align="orthogonal", t=0.5, tokens=1024, measure_spectrum=False
        ).save(tmp_path / f"merged-{models[0].name}")
        first = report["endpoints"][0]["loss"]["docs"]
        assert report["merge_point"]["loss"] == pytest.approx(first, abs=2e-3), "a turned copy loses nothing"
        merged = load_file(tmp_path / f"merged-{models[0].name}" / "model.safetensors")[WPE]
        assert merged.shape == (48, 32)
    # The rest of the longer model, as it lies where it is the first: its own rows, in canonical form.
    own = canonical(dict(load(tmp_path / "turned", families=FAMILIES).state), family(load(tmp_path / "turned").config))
    assert torch.allclose(merged[32:], own[WPE][32:], atol=1e-4)


def test_three_models_and_a_base(tmp_path: Path) -> None:
    models = pair(tmp_path, 32, 40, 48)
    combine(recipe("task_arithmetic", models[1:], base=models[0]), align="none").save(tmp_path / "m")
    tables = [load_file(model / "model.safetensors")[WPE] for model in models]
    merged = load_file(tmp_path / "m" / "model.safetensors")[WPE]
    both = tables[0] + (tables[1][:32] - tables[0]) + (tables[2][:32] - tables[0])
    torch.testing.assert_close(merged[:32], both, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(merged[40:], tables[2][40:], atol=1e-5, rtol=1e-5)
    combine(recipe("linear", models), align="none").save(tmp_path / "linear")
    merged = load_file(tmp_path / "linear" / "model.safetensors")[WPE]
    torch.testing.assert_close(merged[:32], sum(table[:32] for table in tables) / 3)
    torch.testing.assert_close(merged[40:], tables[2][40:])


@pytest.mark.parametrize("kind", ["bert", "roberta", "opt"])
def test_other_tables_of_positions(kind: str, tmp_path: Path) -> None:
    make: dict[str, Callable[..., Any]] = {
        "bert": lambda seed, length: tiny_bert(BertForMaskedLM, seed, max_position_embeddings=length),
        "roberta": lambda seed, length: tiny_bert(
            RobertaForMaskedLM, seed, max_position_embeddings=length, pad_token_id=1
        ),
        "opt": lambda seed, length: tiny_opt(seed, max_position_embeddings=length),
    }
    for seed, length in enumerate((40, 56)):
        make[kind](seed, length).save_pretrained(tmp_path / f"m{seed}")
    for align in ("none", "permutation"):
        merge(tmp_path / "m0", tmp_path / "m1", align=align, t=0.5).save(tmp_path / align)
        loader: Any = AutoModelForCausalLM if kind == "opt" else AutoModelForMaskedLM
        _, info = loader.from_pretrained(tmp_path / align, output_loading_info=True)
        assert not any(info.values())


def test_align_alone_says_what_it_cannot(tmp_path: Path, isthmus: CLI) -> None:
    outcome = isthmus("align", *pair(tmp_path, 32, 48), "-o", tmp_path / "o")
    assert outcome.code == 2
    assert "align is for models of one context length" in outcome.error
    assert not (tmp_path / "o").exists()
