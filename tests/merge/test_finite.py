"""Nothing that is not finite is written: by no operator, dtype, option or path, and it is said which and why."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import EMBEDDED
from merging import combine
from safetensors.torch import load_file, save_file

from isthmus.checkpoint.errors import BadInput, NotFinite
from isthmus.checkpoint.finite import place_of_nan, written_blocks
from isthmus.checkpoint.manifest import sealed
from isthmus.checkpoint.upload_check import read_output
from isthmus.merge.operators.registry import OPERATORS
from isthmus.merge.plans import Gates
from isthmus.merge.recipes.recipe import Recipe, Segment, Setting, recipe

TEXT = ("--data", "stdlib:docs:heldout", "--tokens", 64)


def changed(directory: Path, change: Callable[[str, torch.Tensor], torch.Tensor]) -> Path:
    """A saved model with other weights."""
    file = directory / "model.safetensors"
    weights = {name: change(name, value) for name, value in load_file(file).items()}
    save_file(weights, file, metadata={"format": "pt"})
    return directory


@pytest.mark.parametrize(
    "weights",
    [((1,), (-1,)), ((1,), (-0.9999,)), ((0, 1), (0, 1)), ((1, 1), (1, -1)), ((1e300,), (1e300,)), ((0,), (0,))],
    ids=["cancel", "almost", "nothing in one layer", "cancel in one layer", "overflow", "nothing"],
)
def test_weights_that_leave_nothing(saved, tmp_path: Path, weights: tuple[tuple[float, ...], ...]) -> None:
    plan = recipe("linear", [str(saved("a")), str(saved("b", 1))], weights=weights)
    with pytest.raises(BadInput, match=r"the weights .*of linear for '.*' (cancel|are all 0|are so large)"):
        combine(plan).save(tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("method", ["ties", "task_arithmetic", "dare_linear", "dare_ties"])
def test_task_vectors_are_not_divided_by_nothing(saved, method: str) -> None:
    models = [str(saved("a")), str(saved("b", 1))]
    each = tuple({"weight": Setting.of(weight)} for weight in (1.0, -1.0))
    shared = {"normalize": Setting.of(True)}
    plan = Recipe(OPERATORS[method], tuple(models), str(saved("base", 2)), shared, (Segment(each=each),))
    with pytest.raises(BadInput, match=f"the weights 1, -1 of {method} .* cancel"):
        combine(plan)


def test_two_of_three_that_almost_cancel_are_refused_where_a_sign_is_elected() -> None:
    values = {"weight": [1.0, -1.00001, 3.0], "normalize": True}
    with pytest.raises(BadInput, match="cancel"):
        OPERATORS["ties"].require_values(values, "h.0")
    OPERATORS["linear"].require_values(values, "h.0")  # only divides by the sum of all


@pytest.mark.parametrize("method", ["fisher", "regmean"])
@pytest.mark.parametrize("weights", [("1", "-0.5"), ("0", "0")])
def test_importance_is_no_less_than_nothing(saved, tmp_path: Path, isthmus, method: str, weights) -> None:
    models = (saved("a", tokenizer=True, vocab_size=1024), saved("b", 1, vocab_size=1024))
    options = [part for weight in weights for part in ("--weight", weight)]
    found = isthmus("merge", *models, "-o", tmp_path / "out", "--method", method, *options, *TEXT)
    assert found.code == 2, found.err
    assert "--weight is at least 0" in found.err or "are all 0" in found.err


@pytest.mark.parametrize(
    ("method", "scale"), [("task_arithmetic", 1e38), ("ties", 1e39), ("dare_linear", 1e30), ("dare_ties", -1e8)]
)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_merge_that_outgrows_its_models(saved, tmp_path: Path, isthmus, method: str, scale: float, dtype) -> None:
    models = (saved("a"), saved("b", 1), "--base", saved("base", 2))
    options = ("--method", method, "--lambda", scale, "--dtype", dtype)
    found = isthmus("merge", *models, "-o", tmp_path / "out", *options)
    assert found.code == 2, found.err
    assert f"of the merge by {method}" in found.err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("method", ["slerp", "karcher", "linear", "model_stock"])
def test_weights_whose_products_overflow(saved, tmp_path: Path, isthmus, method: str) -> None:
    models = [changed(saved(name, seed), lambda _, x: x * 1e30) for seed, name in enumerate("ab")]
    options = {"slerp": ("--t", 0.5), "model_stock": ("--base", saved("base", 2))}.get(method, ())
    found = isthmus("merge", *models, "-o", tmp_path / "out", "--method", method, *options, "--dtype", "float16")
    assert found.code == 2, found.err
    assert f"of the merge by {method}" in found.err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("how", ["plain", "with text", "spectrum", "by linear", "linear with text", "align"])
@pytest.mark.parametrize(("dtype", "size", "wider"), [("float16", 1e6, "bfloat16 or float32"), ("bfloat16", 0, "")])
def test_a_value_beyond_the_dtype(saved, tmp_path: Path, isthmus, how: str, dtype: str, size: float, wider) -> None:
    size = size or torch.finfo(torch.float32).max  # which bfloat16 rounds up to Inf

    def large(name: str, value: torch.Tensor) -> torch.Tensor:
        if name.endswith("h.0.mlp.c_fc.bias"):
            value[0] = -size  # of a neuron that is never active: the function is an ordinary one
        return value

    a, b = (changed(saved(x, i, tokenizer=True, vocab_size=1024), large) for i, x in enumerate("ab"))
    if dtype == "bfloat16" and how in ("with text", "linear with text", "spectrum", "align"):
        pytest.skip("no loss is finite")
    command = {
        "plain": ("merge", a, b, "--align", "none", "--t", 0.5),
        "with text": ("merge", a, b, "--align", "none", "--t", 0.5, *TEXT),
        "spectrum": ("merge", a, b, "--align", "none", "--t", 0.5, "--spectrum"),
        "by linear": ("merge", a, b, "--method", "linear"),
        "linear with text": ("merge", a, b, "--method", "linear", "--align", "none", *TEXT),
        "align": ("align", a, b, "--method", "permutation", "--reference", tmp_path / "ref"),
    }[how]
    found = isthmus(*command, "-o", tmp_path / "out", "--dtype", dtype)
    assert found.code == 2, found.err
    assert "h.0.mlp.c_fc.bias' of" in found.err
    assert f"{dtype} ends at" in found.err
    assert wider in found.err
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "ref").exists()


def test_a_matrix_that_rounds_to_zero(saved, tmp_path: Path, isthmus) -> None:
    models = [changed(saved(n, i), lambda name, x: x * 1e-9 if "mlp.c_fc.w" in name else x) for i, n in enumerate("ab")]
    merge = ("merge", *models, "--align", "none", "--t", 0.5)
    found = isthmus(*merge, "-o", tmp_path / "out", "--dtype", "float16")
    assert found.code == 2
    assert "h.0.mlp.c_fc.weight' of the merge at t = 0.5 would be all zero in float16" in found.err
    assert isthmus(*merge, "-o", tmp_path / "out", "--dtype", "bfloat16").code == 0


def test_a_block_is_looked_at_however_many_there_are() -> None:
    good, bad = torch.ones(2, 2), torch.tensor([[1.0, -math.inf]])
    with pytest.raises(NotFinite, match=r"'x' of the merge holds Inf"):
        list(written_blocks([good, good, bad], torch.float32, "x", "the merge"))
    # whose sum overflows, and which hold nothing but numbers
    large = torch.full((4, 4), 3e38)
    assert torch.equal(next(written_blocks([large], torch.float32, "x", "the merge")), large)


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
@pytest.mark.parametrize(
    "option",
    ["--t", "--interior", "--max-barrier", "--max-excess", "--same-kind", "--lambda", "--weight", "--density",
     "--bend-lr", "--bend-weight-decay"],
)  # fmt: skip
def test_options_that_are_no_number(saved, tmp_path: Path, isthmus, option: str, value: str) -> None:
    a, b = saved("a", tokenizer=True, vocab_size=1024), saved("b", 1, vocab_size=1024)
    others: tuple[object, ...] = ("--t", 0.5) if option != "--t" else ()
    if option in ("--lambda", "--weight", "--density"):
        others = ("--method", "ties", "--base", a)
    if option.startswith("--bend"):
        others = ("--path", "bezier", *TEXT)
    if option == "--max-barrier":
        others = TEXT
    found = isthmus("merge", a, b, "-o", tmp_path / "out", f"{option}={value}", *others, "--align", "none")
    assert found.code == 2, found.err
    assert "unforeseen" not in found.err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("value", [".inf", "-.inf", ".nan", "1e400", "1" + "0" * 400])
def test_a_recipe_with_what_is_no_number(saved, tmp_path: Path, isthmus, value: str) -> None:
    models = "".join(f"  - model: {saved(n, i)}\n    parameters: {{weight: {value}}}\n" for i, n in enumerate("ab"))
    (tmp_path / "r.yml").write_text(f"merge_method: linear\nmodels:\n{models}")
    found = isthmus("merge", tmp_path / "r.yml", "-o", tmp_path / "out")
    assert found.code == 2, found.err
    assert "'weight' is a" in found.err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("numbers", [{"barrier": math.nan}, {"naive_profile": [{"t": 0.5, "loss": math.inf}]}])
def test_no_gate_passes_what_is_no_number(numbers: dict[str, object]) -> None:
    point = {"excess": 0.0, "gain": 1.0, "gain_stderr": 0.0}
    with pytest.raises(NotFinite, match="is NaN or Inf on the report text"):
        Gates().pass_loss({"barrier": 0.0, "merge_point": point} | numbers)


def test_where_a_nan_is() -> None:
    assert place_of_nan({"a": [1.0, {"b": math.nan}]}) == "a.1.b"
    assert place_of_nan({"a": ["nan", None, 3]}) is None


@pytest.mark.parametrize("what", ["weights", "report"])
def test_what_is_pushed_is_read_again(tmp_path: Path, isthmus, what: str) -> None:
    out = tmp_path / "out"
    merge = ("merge", EMBEDDED / "docs", EMBEDDED / "code", "-o", out, "--align", "none", "--t", 0.5)
    assert isthmus(*merge).code == 0
    assert read_output(out)
    if what == "weights":

        def broken(name: str, value: torch.Tensor) -> torch.Tensor:
            value.view(-1)[-1] = math.nan if name.endswith("h.1.mlp.c_fc.weight") else value.view(-1)[-1]
            return value

        changed(out, broken)
    report = json.loads((out / "isthmus.json").read_text())
    if what == "report":
        report["merge_point"]["loss"] = math.nan
    (out / "isthmus.json").write_text(json.dumps(sealed(report, out)))  # as another version might have written it
    sentence = {"weights": "NaN or Inf", "report": "not a merge that isthmus wrote"}[what]  # NaN is not JSON
    with pytest.raises(BadInput, match=sentence):
        read_output(out)
