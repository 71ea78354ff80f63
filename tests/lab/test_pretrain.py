from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import EMBEDDED

from isthmus.checkpoint.errors import BadInput
from isthmus.checkpoint.loading import load
from isthmus.lab.pretrain import EMBEDDED as RECIPES
from isthmus.lab.pretrain import batches, make_checkpoints, pretrain, small_config, train_tokenizer


def test_the_embedded_checkpoints_are_those_of_the_recipes() -> None:
    assert {path.name for path in EMBEDDED.iterdir() if path.is_dir()} == {recipe.name for recipe in RECIPES}
    for recipe in RECIPES:
        record = json.loads((EMBEDDED / recipe.name / "recipe.json").read_text())
        assert record["seed"] == recipe.seed
        assert (record["optimizer"], record["steps"], record["base"]) == (recipe.optimizer, recipe.steps, recipe.base)
        checkpoint = load(EMBEDDED / recipe.name)
        assert checkpoint.config.n_layer == small_config().n_layer
        assert checkpoint.tokenizer().vocab_size == 1024


def test_seeds_are_independent_and_the_whole_fits() -> None:
    assert len({recipe.seed for recipe in RECIPES}) == len(RECIPES) == 6
    assert sum(path.stat().st_size for path in EMBEDDED.rglob("*")) < 14e6


def test_their_text_is_recognisable() -> None:
    """Far better than chance (log 1024 = 6.9 nats) on modules that they were not trained on, and it looks like text."""
    from token_blocks import labelled_blocks

    from isthmus.eval.loss import LossMeter
    from isthmus.eval.samples import samples

    docs = load(EMBEDDED / "docs")
    (text,) = labelled_blocks(["stdlib:docs:heldout"], docs.tokenizer(), context=128, vocabulary=1024)
    assert LossMeter(docs.config, {"docs": text.report})(docs.state).mean < 3.4
    told = samples(
        {"docs": (docs.state, docs.config)}, docs.tokenizer(), {"docs": text.report}, per_label=4, new_tokens=64
    )
    words = " ".join(sample.continuations["docs"] for sample in told).split()
    assert {"the", "a", "of", "to"} & set(words)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_pretraining_learns_and_repeats_itself(optimizer: str) -> None:
    recipe = replace(RECIPES[0], optimizer=optimizer, steps=12, batch=4, context=32, data=("stdlib:docs:heldout",))
    config = small_config()
    tokenizer = load(EMBEDDED / "docs").tokenizer()
    losses: list[float] = []
    first = pretrain(recipe, config, tokenizer, on_step=lambda step, loss: losses.append(loss))
    again = pretrain(recipe, config, tokenizer)
    other = pretrain(replace(recipe, seed=9), config, tokenizer)
    assert losses[0] == pytest.approx(6.93, abs=0.2)
    assert losses[-1] < losses[0] - 0.5
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["transformer.wte.weight"], other["transformer.wte.weight"])


def test_muon_orthogonalises_q_k_and_v_apart() -> None:
    """One step without weight decay changes each of them by a matrix whose leading singular values are about equal,
    and alike for all three, though the gradients of q and k are far smaller than that of v at the start."""
    recipe = replace(RECIPES[1], steps=1, batch=4, context=32, data=("stdlib:docs:heldout",), weight_decay=0.0)
    torch.manual_seed(0)
    from transformers import GPT2LMHeadModel

    start = dict(GPT2LMHeadModel(small_config()).named_parameters())
    after = pretrain(recipe, small_config(), load(EMBEDDED / "docs").tokenizer(), start)
    name = "transformer.h.1.attn.c_attn.weight"
    leading = []
    for part in (after[name] - start[name].detach()).split(128, dim=1):
        values = torch.linalg.svdvals(part)
        assert values[0] / values[30] < 2
        leading.append(values[0].item())
    assert max(leading) / min(leading) < 1.3


def test_batches_share_their_rows_between_the_texts() -> None:
    recipe = replace(RECIPES[0], batch=4, context=16, data=("stdlib:docs:heldout", "stdlib:code:heldout"))
    tokenizer = load(EMBEDDED / "docs").tokenizer()
    first, again = (next(batches(recipe, tokenizer)) for _ in range(2))
    assert first.shape == (4, 16)
    assert torch.equal(first, again)


def test_making_checkpoints(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="there is no recipe 'bert'; there are: adamw-1, "):
        make_checkpoints(tmp_path, names=["bert"])
    with pytest.raises(BadInput, match="'docs' starts from 'adamw-1', which is not there: train that one first"):
        make_checkpoints(tmp_path, names=["docs"])
    (tmp_path / "muon-1").mkdir()
    assert make_checkpoints(tmp_path, names=["muon-1"]) == {}, "what is there is kept"


def test_models_of_another_architecture(tmp_path: Path, monkeypatch) -> None:
    """For two steps, on a part of its text."""
    recipes = tuple(replace(recipe, data=("stdlib:docs:heldout",)) for recipe in RECIPES)
    monkeypatch.setattr("isthmus.lab.pretrain.EMBEDDED", recipes)
    losses = make_checkpoints(tmp_path, architecture="qwen3", names=["muon-2"], steps=2)
    assert losses.keys() == {"muon-2"}
    model = load(tmp_path / "muon-2")
    assert model.config.model_type == "qwen3"
    assert json.loads((tmp_path / "muon-2" / "recipe.json").read_text())["optimizer"] == "muon"
    with pytest.raises(BadInput, match="there is no recipe 'docs'; there are: adamw-1, muon-1, adamw-2"):
        make_checkpoints(tmp_path, architecture="qwen3", names=["docs"])


def test_a_checkpoint_from_the_recipe(tmp_path: Path, isthmus, monkeypatch) -> None:
    """The command, for two steps and on a tenth of its text: tokenizer, training, saving, and a model that loads."""
    text = ("stdlib:docs:heldout", "stdlib:code:heldout")
    monkeypatch.setattr(train_tokenizer, "__defaults__", (text,))
    monkeypatch.setattr("isthmus.lab.pretrain.EMBEDDED", tuple(replace(recipe, data=text) for recipe in RECIPES))
    done = isthmus("lab", "pretrain", tmp_path, "--name", "muon-1", "--steps", 2)
    assert done.code == 0
    assert "muon-1: training loss 6." in done.err
    assert load(tmp_path / "muon-1").tokenizer().vocab_size == 1024
    assert json.loads((tmp_path / "muon-1" / "recipe.json").read_text())["steps"] == 2
