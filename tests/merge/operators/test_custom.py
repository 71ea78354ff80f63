"""Operators of one's own: registered, found by an entry point, merged with, and what goes wrong in them."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Outcome
from safetensors.torch import load_file
from torch import Tensor

import isthmus as library
from isthmus.checkpoint.errors import BadInput
from isthmus.merge.operators import custom
from isthmus.merge.operators.custom import merge_method, method_names, operator

PAGE = Path(library.__file__).parent / "docs" / "own-methods.md"


@pytest.fixture(autouse=True)
def own(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, object]]:
    registered: dict[str, object] = {}
    monkeypatch.setattr(custom, "_OWN", registered)
    return registered


def median_of(name: str = "median") -> None:
    @merge_method(name)
    def median(tensors: Sequence[Tensor], base: Tensor | None) -> Tensor:
        assert base is None
        return torch.stack(list(tensors)).median(0).values


def test_a_recipe_and_python_know_it(saved: Callable[..., Path], tmp_path: Path) -> None:
    median_of()
    models = [saved(name, seed=seed) for seed, name in enumerate("abc")]
    given = library.recipe("median", [str(model) for model in models])
    library.merge_models(given, library.MergePlan(align="none")).save(tmp_path / "out")
    merged, *parents = (load_file(one / "model.safetensors") for one in (tmp_path / "out", *models))
    for name, value in merged.items():
        assert torch.equal(value, torch.stack([parent[name] for parent in parents]).median(0).values)
    recipe = tmp_path / "recipe.yml"
    recipe.write_text("merge_method: median\nmodels: [" + ", ".join(f"{{model: {model}}}" for model in models) + "]\n")
    again = library.merge_models(library.read_recipe(recipe), library.MergePlan(align="none"))
    again.save(tmp_path / "again")
    assert (tmp_path / "again" / "model.safetensors").read_bytes() == (
        tmp_path / "out" / "model.safetensors"
    ).read_bytes()


def test_with_a_base_and_parameters(saved: Callable[..., Path], tmp_path: Path) -> None:
    parameters = {"weight": library.Parameter("weights", each=True), "limit": library.Parameter("limit", 0.5, lowest=0)}

    @merge_method("clipped", parameters, base="required")
    def clipped(tensors: Sequence[Tensor], base: Tensor, *, weights: Sequence[float], limit: float) -> Tensor:
        deltas = [w * (tensor - base).clamp(-limit, limit) for tensor, w in zip(tensors, weights, strict=True)]
        return base + torch.stack(deltas).sum(0)

    base, *models = (saved(name, seed=seed) for seed, name in enumerate("abc"))
    names = [str(model) for model in models]
    given = library.recipe("clipped", names, base=str(base), weights=[[0.5], [2.0]], parameters={"limit": [0.01]})
    library.merge_models(given, library.MergePlan(align="none")).save(tmp_path / "out")
    merged, under, first, second = (load_file(d / "model.safetensors") for d in (tmp_path / "out", base, *models))
    for name, value in merged.items():
        parts = [(model[name] - under[name]).clamp(-0.01, 0.01) for model in (first, second)]
        assert torch.allclose(value, under[name] + 0.5 * parts[0] + 2 * parts[1], atol=1e-6)
    with pytest.raises(BadInput, match="--parameter limit is at least 0"):
        library.recipe("clipped", names, base=str(base), parameters={"limit": [-1]})
    with pytest.raises(BadInput, match="clipped takes no --parameter gamma: it has limit"):
        library.recipe("clipped", names, base=str(base), parameters={"gamma": [1]})
    with pytest.raises(BadInput, match="give --base"):
        library.recipe("clipped", names)


def fails(tensors: Sequence[Tensor], base: Tensor | None) -> Tensor:
    raise KeyError("no such\nthing")


WRONG: dict[str, tuple[Callable[..., object], str]] = {
    "raises": (fails, "its function raised KeyError"),
    "returns_a_list": (lambda tensors, base: list(tensors), "returned list, not a tensor"),
    "another_shape": (lambda tensors, base: tensors[0].flatten()[:1], "returned the shape [1], not"),
    "not_finite": (lambda tensors, base: tensors[0] / 0 * 0, "holds NaN"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_fails_in_it_is_one_sentence(case: str, saved: Callable[..., Path], tmp_path: Path) -> None:
    function, message = WRONG[case]
    register: Any = merge_method(case)
    register(function)
    names = [str(saved(name, seed=seed)) for seed, name in enumerate("ab")]
    with pytest.raises(library.IsthmusError, match=re.escape(message)) as caught:
        library.merge_models(library.recipe(case, names), library.MergePlan(align="none")).save(tmp_path / "out")
    assert f"by {case}" in str(caught.value)
    assert "'transformer." in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("name", "message"), [("ties", "itself"), ("a b", "small letters"), ("", "small letters")])
def test_a_name_that_is_taken_or_none_is_refused(name: str, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        merge_method(name)


PLUGIN = """
import isthmus

@isthmus.merge_method("halves")
def halves(tensors, base):
    return sum(tensors) / len(tensors)
"""


def package(folder: Path, module: str, points: str) -> None:
    """An installed package, as pip would leave it."""
    (folder / "isthmus_halves.py").write_text(module)
    info = folder / "isthmus_halves-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: isthmus-halves\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[isthmus.operators]\n{points}\n")


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.delitem(sys.modules, "isthmus_halves", raising=False)
    return folder


def test_a_package_brings_its_own(
    installed: Path, saved: Callable[..., Path], tmp_path: Path, isthmus: Callable[..., Outcome]
) -> None:
    package(installed, PLUGIN, "halves = isthmus_halves:halves")
    assert method_names()[-1] == "halves"
    models = [saved(name, seed=seed) for seed, name in enumerate("ab")]
    outcome = isthmus("merge", *models, "-o", tmp_path / "out", "--method", "halves", "--align", "none")
    assert outcome.code == 0, outcome.err
    first, second, merged = (load_file(one / "model.safetensors") for one in (*models, tmp_path / "out"))
    assert all(torch.allclose(value, (first[name] + second[name]) / 2) for name, value in merged.items())


BROKEN: dict[str, tuple[str, str, str]] = {
    "an error": ("1 / 0", "halves = isthmus_halves:halves", "cannot be loaded (ZeroDivisionError"),
    "another name": (PLUGIN, "thirds = isthmus_halves:halves", "registers no method of that name"),
    "no such function": (PLUGIN, "halves = isthmus_halves:nothing", "cannot be loaded (AttributeError"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_package_that_is_broken_is_named(case: str, installed: Path) -> None:
    module, points, message = BROKEN[case]
    package(installed, module, points)
    with pytest.raises(BadInput, match=re.escape(message)):
        operator(points.partition(" ")[0])


def test_the_example_of_the_documentation(saved: Callable[..., Path], tmp_path: Path) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    exec(example, {})
    base, *models = (saved(name, seed=seed) for seed, name in enumerate("abc"))
    given = library.recipe("consensus", [str(model) for model in models], base=str(base))
    library.merge_models(given, library.MergePlan(align="none")).save(tmp_path / "out")
    assert (tmp_path / "out" / "model.safetensors").exists()
