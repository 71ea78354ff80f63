"""Token ids, generation settings and templates follow the tokenizer, whichever model comes first."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import altered_tokenizers as altered
import pytest
from altered_tokenizers import ALTERED
from conftest import EMBEDDED
from merging import combine, merge
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from isthmus.checkpoint.errors import IsthmusError
from isthmus.checkpoint.token_ids import token_ids, with_token_ids, within
from isthmus.merge.ensembles import ensemble, load_ensemble
from isthmus.merge.plans import EnsemblePlan
from isthmus.merge.recipes.mergekit import read_recipe
from isthmus.merge.recipes.recipe import recipe

TEXT = "It isn't far: the ferry leaves at 7, and \u00e9t\u00e9 ends. \u6e21\u8239 \U0001f6a2"


def model(tmp_path: Path, name: str, change: Any = None, of: str = "docs") -> Path:
    directory = tmp_path / name
    shutil.copytree(EMBEDDED / of, directory)
    if change is not None:
        change(directory)
    return directory


def content(directory: Path, file: str = "config.json") -> dict[str, Any]:
    path = directory / file
    return json.loads(path.read_text()) if path.exists() else {}


def ids(directory: Path) -> dict[str, Any]:
    """What generation takes for the ids of special tokens."""
    loaded = AutoModelForCausalLM.from_pretrained(directory).generation_config
    return {
        key: getattr(loaded, key)
        for key in (
            "eos_token_id", "bos_token_id", "pad_token_id", "decoder_start_token_id", "forced_eos_token_id",
            "suppress_tokens", "begin_suppress_tokens", "bad_words_ids", "sequence_bias", "stop_strings",
        )
    }  # fmt: skip


def without_tokenizer(directory: Path) -> None:
    altered.ends_in_generation_config(directory)
    altered.write(directory, "config.json", pad_token_id=9, sep_token_id=8)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        (directory / file).unlink()


def chat(directory: Path) -> None:
    """A fine-tune with an end token of its own, and a row for it."""
    loaded = AutoModelForCausalLM.from_pretrained(directory)
    loaded.resize_token_embeddings(1026, mean_resizing=False)
    loaded.config.eos_token_id = loaded.generation_config.eos_token_id = 1024
    loaded.config.pad_token_id = loaded.generation_config.pad_token_id = 1025
    tokenizer = AutoTokenizer.from_pretrained(directory)
    tokenizer.add_special_tokens({"eos_token": altered.END, "pad_token": "<|pad|>"})
    loaded.save_pretrained(directory)
    tokenizer.save_pretrained(directory)


CHATS = [altered.all_ids, altered.ends_in_generation_config, altered.no_ids, altered.ends_in_config]


@pytest.mark.parametrize("change", CHATS, ids=lambda change: change.__name__)
@pytest.mark.parametrize("owner_first", [True, False])
def test_the_only_model_with_a_tokenizer_gives_the_ids(tmp_path: Path, change, owner_first: bool) -> None:
    owner, other = model(tmp_path, "owner", change), model(tmp_path, "other", without_tokenizer, "code")
    models = (owner, other) if owner_first else (other, owner)
    merge(*models, align="none", t=0.5).save(tmp_path / "out")
    assert ids(tmp_path / "out") == ids(owner)
    for key in ("sep_token_id", "pad_token_id", "eos_token_id", "tokenizer_class", "task_specific_params"):
        if key != "task_specific_params" or owner_first:
            assert content(tmp_path / "out").get(key) == content(owner).get(key), key


@pytest.mark.parametrize("first", ["base", "chat"])
def test_an_end_token_of_a_fine_tune(tmp_path: Path, first: str) -> None:
    base, tuned = model(tmp_path, "base", altered.ends_in_generation_config), model(tmp_path, "chat", chat, "code")
    models = (base, tuned) if first == "base" else (tuned, base)
    merge(*models, align="none", t=0.5).save(tmp_path / "out")
    assert ids(tmp_path / "out") == ids(tuned)
    assert AutoTokenizer.from_pretrained(tmp_path / "out").eos_token_id == 1024
    assert GenerationConfig.from_pretrained(tmp_path / "out").eos_token_id == 1024
    assert AutoConfig.from_pretrained(tmp_path / "out").pad_token_id == 1025


@pytest.mark.parametrize("source", ["first", "second", "base"])
@pytest.mark.parametrize("change", CHATS, ids=lambda change: change.__name__)
def test_a_recipe_says_whose_tokenizer(tmp_path: Path, change, source: str) -> None:
    names = {"first": "docs", "second": "code", "base": "adamw-1"}
    models = {
        key: model(tmp_path, key, change if key == source else altered.ends_in_generation_config, of)
        for key, of in names.items()
    }
    text = f"""
merge_method: task_arithmetic
base_model: {models["base"]}
models:
  - model: {models["first"]}
    parameters: {{weight: 0.5}}
  - model: {models["second"]}
    parameters: {{weight: 0.5}}
tokenizer_source: {models[source]}
"""
    (tmp_path / "recipe.yml").write_text(text)
    combine(read_recipe(tmp_path / "recipe.yml")).save(tmp_path / "out")
    assert ids(tmp_path / "out") == ids(models[source])
    assert content(tmp_path / "out").get("sep_token_id") == content(models[source]).get("sep_token_id")


def test_a_recipe_that_names_a_model_without_a_tokenizer(tmp_path: Path, isthmus) -> None:
    first, second = model(tmp_path, "first"), model(tmp_path, "second", without_tokenizer, "code")
    models = f"[{{model: {first}, parameters: {{weight: 1}}}}, {{model: {second}, parameters: {{weight: 1}}}}]"
    (tmp_path / "recipe.yml").write_text(f"merge_method: linear\nmodels: {models}\ntokenizer_source: {second}\n")
    found = isthmus("merge", tmp_path / "recipe.yml", "-o", tmp_path / "out")
    assert found.code == 2
    assert "'second' has no tokenizer to take" in found.err


def test_plain_averages(tmp_path: Path) -> None:
    first, second = model(tmp_path, "first", without_tokenizer), model(tmp_path, "second", altered.all_ids, "code")
    combine(recipe("linear", [str(first), str(second)])).save(tmp_path / "out")
    assert ids(tmp_path / "out") == ids(second)


def test_a_moved_model_keeps_its_own(tmp_path: Path, isthmus) -> None:
    first, second = model(tmp_path, "first", altered.all_ids), model(tmp_path, "second", chat, "code")
    (second / "additional_chat_templates").mkdir()
    (second / "additional_chat_templates" / "rag.jinja").write_text("{{ x }}")
    options = ("--method", "permutation", "--reference", tmp_path / "base")
    assert isthmus("align", first, second, "-o", tmp_path / "moved", *options).code == 0
    assert ids(tmp_path / "moved") == ids(second)
    assert ids(tmp_path / "base") == ids(first)
    assert AutoTokenizer.from_pretrained(tmp_path / "moved").chat_template == {"rag": "{{ x }}"}


def test_an_ensemble(tmp_path: Path) -> None:
    first, second = model(tmp_path, "first", without_tokenizer), model(tmp_path, "second", altered.all_ids, "code")
    found = ensemble([first, second], EnsemblePlan(data=["stdlib:docs:heldout"], align="none", tokens=256))
    found.save(tmp_path / "out")
    for whole in (found.model(), load_ensemble(tmp_path / "out")):
        assert whole.generation_config.eos_token_id == [5, 6]
        assert whole.generation_config.pad_token_id == whole.config.pad_token_id == 6
        assert whole.generation_config.stop_strings == ["stop"]
    assert GenerationConfig.from_pretrained(tmp_path / "out").eos_token_id == [5, 6]


def test_several_ends_in_config(tmp_path: Path) -> None:
    """Samples are written with any of them."""
    first, second = (model(tmp_path, side, altered.ends_in_config, side) for side in ("docs", "code"))
    found = merge(first, second, align="none", t=0.5, data=["stdlib:docs:heldout"], tokens=256)
    assert found.samples
    found.save(tmp_path / "out")
    assert ids(tmp_path / "out")["eos_token_id"] == [3, 4]


@pytest.mark.parametrize("name", ALTERED)
def test_a_merge_has_a_whole_tokenizer(tmp_path: Path, name: str) -> None:
    """It gives the ids of its owner's, with its templates."""
    owner = model(tmp_path, "owner", ALTERED[name])
    if name == "trimming_left_out":  # nobody could open it
        with pytest.raises(IsthmusError, match="tokenizer of"):
            merge(owner, EMBEDDED / "code", align="none", t=0.5).save(tmp_path / "out")
        return
    merge(owner, EMBEDDED / "code", align="none", t=0.5).save(tmp_path / "out")
    theirs, merged = (AutoTokenizer.from_pretrained(place) for place in (owner, tmp_path / "out"))
    assert merged.get_vocab() == theirs.get_vocab()
    assert merged(TEXT).input_ids == theirs(TEXT).input_ids
    assert merged.chat_template == theirs.chat_template
    assert merged.special_tokens_map == theirs.special_tokens_map
    assert ids(tmp_path / "out") == ids(owner)


def test_nested_ids() -> None:
    facts = {"text_config": {"eos_token_id": 1, "hidden_size": 8}, "image_token_id": 5, "n_embd": 3, "hidden_size": 8}
    owner = {"text_config": {"bos_token_id": 2, "hidden_size": 9}, "eos_token_id": [3, 4], "hidden_size": 9}
    merged = with_token_ids(facts, owner)
    expected = {"text_config": {"hidden_size": 8, "bos_token_id": 2}, "n_embd": 3, "hidden_size": 8}
    assert merged == {**expected, "eos_token_id": [3, 4]}
    assert dict(token_ids({"a": {"eos_token_id": 3}, "suppress_tokens": [], "b_token_id": None})) == {"eos_token_id": 3}
    assert within({"eos_token_id": [3, 4], "pad_token_id": 2, "a": {"bos_token_id": 9}}, 4) == {
        "pad_token_id": 2, "a": {},
    }  # fmt: skip
