"""Weights that are searched for in a whole merge: its report, its card, its recipe, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from classifiers import labelled, saved_classifier
from interrupting import Interrupted
from merging import combine
from merging import plan_of as make_plan
from safetensors.torch import load_file
from searching import models_around_a_base

from isthmus.checkpoint.errors import BadInput
from isthmus.merge.pipeline import merge_models
from isthmus.merge.plans import MergePlan, SearchPlan
from isthmus.merge.recipes.mergekit import read_recipe
from isthmus.merge.recipes.recipe import recipe

METHODS = {
    "linear": {},
    "slerp": {"t": 0.5},
    "task_arithmetic": {"base": "base"},
    "ties": {"base": "base", "densities": [[0.5]]},
    "dare_linear": {"base": "base", "densities": [[0.5]]},
    "fisher": {},
    "regmean": {},
}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return models_around_a_base(tmp_path_factory.mktemp("weights"), "ab")


@pytest.fixture(autouse=True)
def _here(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(world)


QUICK = {"data": ("stdlib:docs",), "tokens": 256, "align": "none", "measure_spectrum": False}


def plan_of_merge(search: SearchPlan) -> MergePlan:
    return make_plan(search=search, **QUICK)


def plan_of(method: str) -> Any:
    return recipe(method, ["./a", "./b"], **METHODS[method])


@pytest.mark.parametrize("method", METHODS)
def test_the_recipe_of_a_report_makes_the_merge_again(method: str, tmp_path: Path) -> None:
    """Bit for bit, weights by matrix and all; with the statistics of the same text where the method has some."""
    granularity = "layer" if method in ("slerp", "fisher") else "matrix"
    search = SearchPlan("gradient", granularity, steps=4, batch=4)
    found = combine(plan_of(method), search=search, **QUICK)
    report = found.report["soup"]
    (tmp_path / "recipe.yml").write_text("\n".join(report["recipe"]))
    statistics = {k: QUICK[k] for k in ("data", "tokens")} if method in ("fisher", "regmean") else {}
    again = combine(read_recipe(tmp_path / "recipe.yml"), align="none", measure_spectrum=False, **statistics)
    for name in found.state:
        assert torch.equal(found.state[name], again.state[name].float()), name
    assert len(report["groups"]) > 2
    assert report["select_loss"] <= report["select_loss_uniform"]
    assert found.report["baselines"]["equal_weights"]["loss"] - found.report["merge_point"]["loss"] == pytest.approx(
        report["gain"], abs=1e-9
    )


def test_the_command_of_a_report_makes_the_merge_again(tmp_path: Path, isthmus: Any) -> None:
    """Words of the command line, the card and the file, as a user has them."""
    out = tmp_path / "out"
    options = ("--data", "stdlib:docs", "--tokens", 256, "--align", "none", "--no-spectrum", "--search", "cma")
    done = isthmus("merge", "./a", "./b", "--method", "linear", "-o", out, *options, "--evaluations", 12)
    assert done.code == 0, done.err
    report = json.loads((out / "isthmus.json").read_text())
    card, soup = (out / "README.md").read_text(), report["soup"]
    assert "choosing weights " in done.err
    assert "choosing weights " in card
    assert "\n".join(soup["recipe"]) in card
    assert soup["command"] in card
    assert "--search cma --evaluations 12" in report["reproduce"]
    assert soup["history"][-1]["evaluation"] == soup["evaluations"]
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")], "nothing is left of the search"
    Path("recipe.yml").write_text("\n".join(soup["recipe"]))
    words = soup["command"].split()
    assert words[:3] == ["isthmus", "merge", "recipe.yml"]
    again = isthmus(*words[1:])
    assert again.code == 0, again.err
    first, second = (load_file(place / "model.safetensors") for place in (out, Path("merged")))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_the_older_spellings_are_the_search_by_coordinates(tmp_path: Path, isthmus: Any) -> None:
    results = []
    for number, words in enumerate((("--search", "coordinate"), ("--search",), ("--soup", "search"))):
        out = tmp_path / str(number)
        options = ("--data", "stdlib:docs", "--tokens", 128, "--align", "none", "--no-spectrum")
        done = isthmus("merge", "./a", "./b", "--method", "linear", *words, *options, "-o", out)
        assert done.code == 0, done.err
        report = json.loads((out / "isthmus.json").read_text())
        assert (report["soup"]["kind"], report["soup"]["search"]) == ("search", "coordinate")
        results.append(((out / "model.safetensors").read_bytes(), report["soup"]["weights"]))
    assert results[0] == results[1] == results[2]


def test_an_interrupted_search_goes_on_to_the_same_merge(tmp_path: Path) -> None:
    plan = plan_of_merge(SearchPlan("cma", "layer", evaluations=20))
    whole = merge_models(plan_of("task_arithmetic"), plan, beside=tmp_path / "whole")
    beside = tmp_path / "stopped"
    for after in (5, 9):
        with pytest.raises(KeyboardInterrupt):
            merge_models(plan_of("task_arithmetic"), plan, beside=beside, progress=Interrupted(after))
    (folder,) = [path for path in tmp_path.iterdir() if "stopped" in path.name]
    assert len(json.loads((folder / "latest.json").read_text())["tried"]) == 9
    with pytest.raises(BadInput, match="--restart"):
        merge_models(plan_of("linear"), plan, beside=beside)
    resumed = merge_models(plan_of("task_arithmetic"), plan, beside=beside)
    assert all(torch.equal(whole.state[name], resumed.state[name]) for name in whole.state)
    for report in (whole.report, resumed.report):
        report["soup"].pop("seconds")
    assert whole.report["soup"] == resumed.report["soup"]
    resumed.save(beside)
    whole.save(tmp_path / "whole")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["stopped", "whole"]


def test_classifiers_are_weighed_by_their_labels(tmp_path: Path) -> None:
    models = [str(saved_classifier(tmp_path / name, seed=seed)) for seed, name in enumerate("ab")]
    data = (str(labelled(tmp_path / "rows.jsonl", rows=400)),)
    search = SearchPlan("gradient", "layer", steps=6, batch=8)
    report = combine(recipe("linear", models), search=search, data=data, tokens=256, align="none").report
    assert report["soup"]["select_loss"] <= report["soup"]["select_loss_uniform"]
    assert report["merge_point"]["accuracy"] >= 0
    assert report["soup"]["gain_stderr"] >= 0


@pytest.mark.parametrize(
    ("method", "fields", "sentence"),
    [
        ("karcher", {"search": SearchPlan("gradient")}, "karcher has no weights to choose"),
        ("model_stock", {"search": SearchPlan("coordinate")}, "model_stock has no weights to choose"),
        ("linear", {"search": SearchPlan("gradient"), "soup": "greedy"}, "soup and --search both choose weights"),
        ("linear", {"search": SearchPlan("gradient"), "data": ()}, "the weights of --search gradient are chosen by"),
        ("linear", {"search": SearchPlan("cma"), "max_memory": "1GB"}, "--search cma needs the models in memory"),
        ("given", {"search": SearchPlan("gradient")}, "those of --search gradient contradict each other"),
        ("t", {"search": SearchPlan("gradient")}, "those of --search gradient contradict each other"),
        ("one", {"search": SearchPlan("gradient")}, "linear of one model has no weights to choose"),
        ("slices", {"search": SearchPlan("cma")}, "not with slices"),
    ],
)
def test_what_cannot_be_searched_is_refused(method: str, fields: dict[str, Any], sentence: str) -> None:
    """Before anything is opened: the models are not there."""
    names = ["./gone-a", "./gone-b"]
    sliced = "merge_method: linear\nslices:\n"
    for first in (0, 1):
        sliced += (
            f"- sources:\n  - {{model: ./gone-a, layer_range: [{first}, {first + 1}], parameters: {{weight: 1}}}}\n"
        )
        sliced += f"  - {{model: ./gone-b, layer_range: [{first}, {first + 1}], parameters: {{weight: 1}}}}\n"
    Path("slices.yml").write_text(sliced)
    asked = {
        "given": lambda: recipe("linear", names, weights=[[0.3], [0.7]]),
        "t": lambda: recipe("slerp", names, t=0.2),
        "one": lambda: recipe("linear", names[:1]),
        "slices": lambda: read_recipe("slices.yml"),
    }.get(method, lambda: recipe(method, names, base="./gone" if method == "model_stock" else None))()
    with pytest.raises(BadInput) as error:
        combine(asked, **{**QUICK, **fields})
    assert sentence in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("coordinate", "layer"), "--search coordinate is for the weights of whole models"),
        (("climbing", "model"), "a search is one of coordinate, gradient, cma; got 'climbing'"),
        (("gradient", "head"), "granularity is one of model, layer, matrix; got 'head'"),
        (("cma", "model", 2), "--search cma tries 6 weights at least; got --evaluations 2"),
    ],
)
def test_a_search_that_makes_no_sense_is_refused(words: Sequence[Any], sentence: str) -> None:
    with pytest.raises(BadInput, match=sentence):
        SearchPlan(*words)


def test_evolution_without_its_package_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("isthmus.merge.plans.operators.find_spec", lambda name: None)
    with pytest.raises(BadInput, match=r"pip install 'isthmus\[search\]'"):
        SearchPlan("cma")


def test_a_budget_below_one_generation_is_refused_before_weights_are_read(
    isthmus: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("isthmus.checkpoint.inputs.Inputs.in_memory", lambda self: pytest.fail("weights were read"))
    options = ("--data", "stdlib:docs", "--search", "cma", "--granularity", "matrix", "--evaluations", 8)
    done = isthmus("merge", "./a", "./b", "--method", "linear", "-o", tmp_path / "out", "--align", "none", *options)
    assert done.code == 2
    assert "--search cma tries 14 weights at least for 15 numbers; got 8" in done.error


def test_a_word_that_is_no_search(isthmus: Any, tmp_path: Path) -> None:
    done = isthmus("merge", "./a", "./b", "--method", "linear", "-o", tmp_path / "out", "--search", "gradiant")
    assert (done.code, "--search takes coordinate, gradient, cma; got 'gradiant'" in done.error) == (2, True)


def test_a_path_of_two_models_has_no_weights(tmp_path: Path) -> None:
    from merging import merge

    with pytest.raises(BadInput, match="a search for weights"):
        merge("./a", "./b", search=SearchPlan("gradient"), data=QUICK["data"])
    assert MergePlan(soup="search").weight_search == SearchPlan("coordinate")
