"""What models that no process has whole refuse, before one is read: shared by several processes, or on disk."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from classifiers import saved_classifier
from conftest import EMBEDDED, tiny_model
from merging import combine, merge
from transformers import AutoModel, AutoTokenizer

from isthmus.checkpoint.errors import BadInput
from isthmus.merge.recipes.recipe import recipe

A, B, C = (str(EMBEDDED / name) for name in ("adamw-1", "muon-1", "adamw-2"))


@pytest.mark.parametrize(
    ("models", "options", "what"),
    [
        ((A, B, C), {"align": "orthogonal"}, "an operator"),
        ((A, B), {"align": "combined"}, "--align combined"),
        ((A, B), {"budget": 1.5}, "--budget"),
        ((A, B), {"refit": True}, "--refit"),
        ((A, B), {"restore": True}, "--restore-spectrum"),
    ],
)
def test_what_needs_whole_models_in_each_process(
    models: tuple[str, ...], options: dict[str, Any], what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(BadInput, match=rf"{what} needs every model whole .* launch it without, or join two models"):
        merge(*models, data=("stdlib:docs:heldout",), tokens=256, **options)


def saved(directory: Path, seed: int, *, tokens: tuple[str, ...] = (), length: int = 32) -> Path:
    tokenizer = AutoTokenizer.from_pretrained(EMBEDDED / "adamw-1")
    tokenizer.add_tokens(list(tokens))
    tiny_model(seed, vocab_size=len(tokenizer), n_positions=length).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


def of_several_contexts(folder: Path) -> list[Path]:
    return [saved(folder / str(length), length, length=length) for length in (32, 48)]


def of_several_vocabularies(folder: Path) -> list[Path]:
    return [saved(folder / name, seed, tokens=(f"<{name}>",)) for seed, name in enumerate("ab")]


def with_other_heads(folder: Path) -> list[Path]:
    return [saved_classifier(folder / name, seed=seed, labels=(name, "z")) for seed, name in enumerate("ab")]


@pytest.mark.parametrize(
    ("make", "options", "what"),
    [
        (of_several_contexts, {}, "models of several context lengths"),
        (of_several_vocabularies, {"vocabulary": "union"}, "models of several vocabularies"),
        (with_other_heads, {"head": "A"}, r"models with the head of one \(--head\)"),
    ],
)
def test_what_is_given_to_each_other_after_an_alignment_needs_whole_models(
    make: Callable[[Path], list[Path]], options: dict[str, Any], what: str, tmp_path: Path
) -> None:
    given = recipe("linear", [str(model) for model in make(tmp_path)])
    with pytest.raises(BadInput, match=f"--align orthogonal of {what} needs the models in memory: leave out that or"):
        combine(given, align="orthogonal", max_memory="1MB", **options)
    combine(given, align="orthogonal", **options).save(tmp_path / "merged")
    AutoModel.from_pretrained(tmp_path / "merged")
