from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from statistics import mean

import pytest
from conftest import EMBEDDED
from token_blocks import labelled_blocks

from isthmus.align.families import family
from isthmus.checkpoint.loading import load
from isthmus.eval.progress import Progress
from isthmus.lab.architectures import OTHERS
from isthmus.lab.pretrain import EMBEDDED as RECIPES
from isthmus.lab.pretrain import config_of, make_checkpoint
from isthmus.lab.symmetries import STEPS, Ablation, ablate, pairs, recipes, symmetry_study, table_rows
from isthmus.merge.plans import LearnPlan


def test_every_step_is_measured_and_the_group_pays() -> None:
    a, b = load(EMBEDDED / "muon-1"), load(EMBEDDED / "muon-2")
    text = labelled_blocks(
        ("stdlib:docs", "stdlib:code"),
        a.tokenizer(),
        context=128,
        vocabulary=1024,
        fit_tokens=16_384,
        select_tokens=1024,
        report_tokens=1024,
    )
    barriers = ablate(a, b, text, LearnPlan(steps=24), Progress())
    assert tuple(barriers) == STEPS
    assert (
        barriers["none"]
        > barriers["permutation"]
        > barriers["residual rotation"]
        > barriers["head maps"]
        > barriers["activations"]
    )
    assert barriers["learned"] < 0.8 * barriers["activations"]


def test_five_pairs_of_every_kind_of_ten_models() -> None:
    kinds = [kind for kind, _, _ in pairs()]
    assert {kind: kinds.count(kind) for kind in kinds} == {"adamw-adamw": 5, "muon-muon": 5, "adamw-muon": 5}
    assert len({(a, b) for _, a, b in pairs()}) == 15
    made = {recipe.name for recipe in recipes()} | {"adamw-1", "adamw-2", "muon-1", "muon-2"}
    assert {name for _, *two in pairs() for name in two} == made
    assert len({recipe.seed for recipe in recipes()} | {1, 2, 3, 4}) == 10


def test_pairs_that_were_done_are_read_back_and_summed_up(tmp_path: Path) -> None:
    values = [dict.fromkeys(STEPS, 2.0), dict.fromkeys(STEPS, 1.0)]
    values[0]["learned"], values[1]["learned"] = 0.5, 0.1
    wanted = [pair for pair in pairs() if pair[0] == "adamw-muon"][:2]
    for (_, a, b), numbers in zip(wanted, values, strict=True):
        (tmp_path / f"{a}, {b}.json").write_text(json.dumps(numbers))
    ablations = symmetry_study(tmp_path, wanted=wanted)
    assert ablations == [Ablation(*pair, numbers) for pair, numbers in zip(wanted, values, strict=True)]
    rows = {row[1]: row for row in table_rows(ablations)}
    assert rows["learned"][2] == pytest.approx(0.3)
    assert rows["learned"][3] == pytest.approx(0.2828, abs=1e-4)
    assert rows["learned"][4] == pytest.approx(mean([0.25, 0.1]))


@pytest.mark.parametrize("architecture", ["gpt2", *OTHERS])
def test_of_every_architecture_there_is_a_small_model_with_a_table(architecture: str) -> None:
    config = config_of(architecture)
    assert config.model_type == architecture
    sizes = [math.prod(shape) for shape in family(config).schema().shapes.values()]
    assert 0.8e6 < sum(sizes) < 1.3e6
    assert {name for _, *two in pairs(architecture) for name in two} <= {
        recipe.name for recipe in (*recipes(architecture), *RECIPES)
    }


def test_a_small_llama_is_trained_and_ablated(tmp_path: Path) -> None:
    for recipe in recipes("llama")[:2]:
        make_checkpoint(replace(recipe, steps=2, batch=2), config_of("llama"), tmp_path, Progress())
    a, b = (load(tmp_path / name) for name in ("adamw-1", "muon-1"))
    text = labelled_blocks(
        ("stdlib:docs",),
        a.tokenizer(),
        context=128,
        vocabulary=1024,
        fit_tokens=4096,
        select_tokens=512,
        report_tokens=512,
    )
    barriers = ablate(a, b, text, LearnPlan(steps=2, batch=2), Progress())
    assert tuple(barriers) == STEPS
    assert all(math.isfinite(barrier) for barrier in barriers.values())


def test_what_was_done_for_one_architecture_is_not_taken_for_another(tmp_path: Path) -> None:
    wanted = pairs("llama")[:1]
    _, a, b = wanted[0]
    for folder, barrier in ((tmp_path, 2.0), (tmp_path / "llama", 1.0)):
        folder.mkdir(exist_ok=True)
        for name in (a, b):
            (folder / name).mkdir()
        (folder / f"{a}, {b}.json").write_text(json.dumps(dict.fromkeys(STEPS, barrier)))
    assert symmetry_study(tmp_path, "llama", wanted=wanted)[0].barriers["none"] == 1.0
    assert symmetry_study(tmp_path, wanted=wanted)[0].barriers["none"] == 2.0
