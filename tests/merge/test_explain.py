"""Explanations of real merges on disk: parents found, alignments repeated, swaps evaluated by transformers, errors."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import EMBEDDED, state_of, tiny_model
from merging import combine, merge
from transformers import AutoModelForCausalLM, GPT2LMHeadModel

from isthmus.checkpoint.errors import BadInput, IncompatibleModels, ModelNotFound
from isthmus.checkpoint.loading import load
from isthmus.eval.text import Text
from isthmus.merge.coordinates import require_repeatable
from isthmus.merge.explain import explain
from isthmus.merge.plans import ExplainPlan, LearnPlan
from isthmus.merge.recipes.recipe import recipe

Save = Callable[..., Path]
NAMES = ("docs", "code", "adamw-1")


@pytest.fixture
def trio(tmp_path: Path) -> tuple[Path, Path, Path]:
    """Two fine-tunes and their base, in one folder."""
    for name in NAMES:
        shutil.copytree(EMBEDDED / name, tmp_path / name)
    a, b, base = (tmp_path / name for name in NAMES)
    return a, b, base


def changed(a: Path, b: Path, out: Path, *parts: str) -> Path:
    """The model a with the tensors of b whose names hold one of some parts."""
    model, other = (GPT2LMHeadModel.from_pretrained(one, dtype=torch.float32) for one in (a, b))
    state = other.state_dict()
    model.load_state_dict({n: state[n] if any(p in n for p in parts) else v for n, v in model.state_dict().items()})
    model.save_pretrained(out)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(EMBEDDED / "docs" / file, out / file)
    return out


def test_parents_are_found_next_to_the_merge(trio: tuple[Path, Path, Path], tmp_path: Path) -> None:
    a, b, _ = trio
    merge(a, b, align="none", t=0.3, dtype="float32").save(tmp_path / "merged")
    report = explain(tmp_path / "merged").report
    assert [end["ref"] for end in report["endpoints"]] == ["docs", "code"]
    assert report["total"]["weights"] == pytest.approx([0.7, 0.3], abs=1e-5)
    assert report["total"]["unexplained"] < 1e-5
    assert report["base"] is None


def test_the_base_and_task_vectors_of_a_method(trio: tuple[Path, Path, Path], tmp_path: Path) -> None:
    a, b, base = trio
    added = recipe("task_arithmetic", [str(a), str(b)], base=str(base), weights=[(0.4,), (0.5,)])
    combine(added, align="none", dtype="float32").save(tmp_path / "sum")
    total = explain(tmp_path / "sum").report["total"]
    assert total["weights"] == pytest.approx([0.4, 0.5], abs=1e-5)
    trimmed = recipe("ties", [str(a), str(b)], base=str(base), densities=[(0.2,)])
    combine(trimmed, align="none", dtype="float32").save(tmp_path / "ties")
    ties = explain(tmp_path / "ties").report
    assert ties["base"]["ref"] == "adamw-1"
    assert ties["total"]["unexplained"] > 0.01
    assert "comes from neither" in ties["sentences"][1]


@pytest.mark.parametrize("method", ["permutation", "orthogonal"])
def test_an_alignment_is_repeated(method: Any, saved: Save, tmp_path: Path) -> None:
    a, b = saved("a", 0), saved("b", 1)
    merge(a, b, align=method, t=0.25, dtype="float32").save(tmp_path / "merged")
    report = explain(tmp_path / "merged").report
    assert report["alignment"] == {"method": method, "how": "repeated"}
    assert report["total"]["weights"] == pytest.approx([0.75, 0.25], abs=1e-4)
    assert report["total"]["unexplained"] < 1e-3


def test_an_alignment_of_three_is_repeated(saved: Save, tmp_path: Path) -> None:
    models = [saved(name, seed) for seed, name in enumerate("abc")]
    weighted = recipe("linear", list(map(str, models)), weights=[(0.5,), (0.3,), (0.2,)])
    combine(weighted, align="permutation", dtype="float32").save(tmp_path / "merged")
    report = explain(tmp_path / "merged").report
    assert report["total"]["weights"] == pytest.approx([0.5, 0.3, 0.2], abs=1e-4)


def test_an_alignment_that_cannot_be_repeated_is_read_off_the_merge(saved: Save, tmp_path: Path) -> None:
    """A rotation stands for one that was learned: of either, B in its coordinates follows from A, t and the merge."""
    a, b = saved("a", 0), saved("b", 1)
    merge(a, b, align="orthogonal", t=0.4, dtype="float32").save(tmp_path / "merged")
    repeated = explain(tmp_path / "merged").report
    rewritten(tmp_path / "merged", alignment={"method": "learned"})
    report = explain(tmp_path / "merged").report
    assert report["alignment"] == {"method": "learned", "how": "recovered"}
    assert "read off the merge" in report["sentences"][1]
    assert report["total"]["distances"] == pytest.approx(repeated["total"]["distances"], rel=1e-4)
    with pytest.raises(BadInput, match="differs from 'c' by"):
        explain(tmp_path / "merged", [a, saved("c", 2)])
    curved = {"command": "merge", "alignment": {"method": "learned"}, "endpoints": [{}, {}]}
    with pytest.raises(BadInput, match="cannot be repeated from its record: give A and B as `isthmus align"):
        require_repeatable(curved, [str(a), str(b)])
    with pytest.raises(BadInput, match="give all of them, in their order"):
        require_repeatable(curved, [str(a)])


def test_parents_of_a_learned_merge_are_those_that_align_wrote(tmp_path: Path, isthmus) -> None:
    """With A as it was or as the reference, they lie where the merge does: in the basis of A, without the gauge."""
    ends, fit = (EMBEDDED / "adamw-1", EMBEDDED / "muon-1"), {"data": ("stdlib:docs",), "tokens": 512}
    for name in ("adamw-1", "muon-1"):
        shutil.copytree(EMBEDDED / name, tmp_path / name)
    merged = merge(*ends, align="learned", learn=LearnPlan(steps=8), t=0.5, dtype="float32", **fit)
    assert merged.alignment.basis
    merged.save(tmp_path / "merged")
    words = ("align", *ends, "-o", tmp_path / "b", "--reference", tmp_path / "a", "--method", "learned")
    assert isthmus(*words, "--align-steps", 8, "--data", "stdlib:docs", "--dtype", "float32").code == 0
    by_reference, by_original = (
        explain(tmp_path / "merged", [a, tmp_path / "b"]).report for a in (tmp_path / "a", ends[0])
    )
    assert by_reference["alignment"]["how"] == by_original["alignment"]["how"] == "given"
    distances = by_reference["total"]["distances"]
    assert distances == pytest.approx(by_original["total"]["distances"], rel=1e-3)
    assert by_reference["total"]["weights"] == pytest.approx([0.5, 0.5], abs=0.1)
    assert by_reference["total"]["unexplained"] < 0.2


def test_parents_in_a_sharded_float16_model_of_another_tool(saved: Save, tmp_path: Path) -> None:
    a, b = saved("a", 0), saved("b", 1)
    state, other = state_of(tiny_model(0)), state_of(tiny_model(1))
    model = tiny_model(0)
    model.load_state_dict({n: torch.lerp(state[n], other[n], 0.5) for n in state}, strict=False)
    model.half().save_pretrained(tmp_path / "m", max_shard_size="20KB")
    assert len(list((tmp_path / "m").glob("*.safetensors"))) > 1
    report = explain(tmp_path / "m", [a, b]).report
    assert report["total"]["weights"] == pytest.approx([0.5, 0.5], abs=1e-3)


def test_swaps_are_those_of_real_models(trio: tuple[Path, Path, Path], tmp_path: Path) -> None:
    """A layer of another model spoils a merge: the sentence names it; the losses are those that transformers gives."""
    a, _b, base = trio
    merged = changed(a, EMBEDDED / "muon-1", tmp_path / "m", "h.2.mlp")
    data, plan = ["stdlib:docs:heldout"], {"tokens": 512, "context": 64}
    report = explain(merged, [a, base], ExplainPlan(data=data, **plan)).report
    rows, best = report["swaps"]["rows"], report["swaps"]["best"]
    assert (best["layer"], best["gains"]) == (2, True)
    gain = next(sentence for sentence in report["sentences"] if "would gain" in sentence)
    assert gain.startswith(f"The merge would gain by taking layer 2 of {'AB'[best['parent']]}: ")

    text = Text.of_model(data, load(a).tokenizer(), load(a).config, context=64, seed=0)
    (part,) = text.blocks(fit_tokens=0, select_tokens=512, report_tokens=512)

    def loss(model: Path, ids: torch.Tensor) -> torch.Tensor:
        opened = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
        with torch.no_grad():
            return torch.stack([opened(row[None], labels=row[None]).loss for row in ids])

    whole = loss(merged, part.select)
    for layer, parent, path in ((1, 1, base), (2, 0, a)):
        other = loss(changed(merged, path, tmp_path / f"swap-{layer}", f"h.{layer}."), part.select)
        row = next(row for row in rows if (row["layer"], row["parent"]) == (layer, parent))
        assert row["difference"] == pytest.approx((other - whole).mean().item(), abs=1e-5)
        assert row["stderr"] == pytest.approx((other - whole).std().item() / len(other) ** 0.5, rel=1e-3)
    healed = changed(merged, trio[0 if best["parent"] == 0 else 2], tmp_path / "healed", "h.2.")
    again = (loss(healed, part.report) - loss(merged, part.report)).mean().item()
    assert best["report_difference"] == pytest.approx(again, abs=1e-5)


def test_the_command_prints_and_writes(isthmus, trio: tuple[Path, Path, Path], tmp_path: Path) -> None:
    a, b, base = trio
    merged = changed(a, b, tmp_path / "m", "h.3.")
    options = ("--base", base, "-o", tmp_path / "why", "--json", "-")
    outcome = isthmus("explain", merged, a, b, *options, "--data", "stdlib:code", "--tokens", 256, "--context", 64)
    assert outcome.code == 0, outcome.err
    assert "Layers 0, 1 and 2 are those of A and layer 3 is that of B." in outcome.err
    report = json.loads(outcome.out)
    assert report["command"] == "explain"
    page = (tmp_path / "why" / "explain.html").read_text()
    assert all(sentence.replace("'", "&#39;") in page for sentence in report["sentences"])
    assert page.count('class="heat"') == 9
    assert "http" not in page.lower()
    assert str(tmp_path) not in page + outcome.out
    assert isthmus("explain", merged, a, b, "-q").err == ""


def test_rows_that_both_have(trio: tuple[Path, Path, Path], tmp_path: Path) -> None:
    a, b, _ = trio
    wider = GPT2LMHeadModel.from_pretrained(b, dtype=torch.float32)
    rows = wider.config.vocab_size
    wider.resize_token_embeddings(rows + 8)
    wider.save_pretrained(b)
    merge(a, b, align="none", t=0.5, dtype="float32").save(tmp_path / "merged")
    report = explain(tmp_path / "merged").report
    assert report["rows"] == rows
    assert report["total"]["weights"] == pytest.approx([0.5, 0.5], abs=1e-4)


@pytest.fixture
def record(saved: Save, tmp_path: Path) -> Path:
    """A merge without its parents beside it."""
    a, b = saved("a", 0), saved("b", 1)
    merge(a, b, align="none", t=0.5).save(tmp_path / "far" / "merged")
    return tmp_path / "far" / "merged"


def rewritten(directory: Path, **changes: Any) -> None:
    path = directory / "isthmus.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_what_cannot_be_explained_is_one_sentence(saved: Save, record: Path, tmp_path: Path) -> None:
    a, b, deep = tmp_path / "a", tmp_path / "b", saved("deep", n_layer=3)
    wide = saved("wide", n_embd=64, n_inner=128)
    cases: list[tuple[tuple[Any, ...], type[Exception], str]] = [
        ((tmp_path / "nothing", [a, b]), ModelNotFound, "nothing"),
        ((a,), BadInput, "'a' has no isthmus.json that would name its parents"),
        ((record,), ModelNotFound, "the parent 'a' of 'merged' is neither next to it nor in the current directory"),
        ((record, [a]), BadInput, "give two or more"),
        ((record, [a, a]), BadInput, "'a' is given as two parents"),
        ((a, [a, b]), BadInput, "'a' is given as the merge and a parent"),
        ((deep, [a, b]), IncompatibleModels, "'deep' has 3 layers and 'a' has 2"),
        ((wide, [a, b]), IncompatibleModels, "'a'"),
    ]
    for arguments, error, sentence in cases:
        with pytest.raises(error, match=sentence):
            explain(*arguments)
    with pytest.raises(BadInput, match="the base 'a' is also a parent"):
        explain(record, [a, b], base=a)
    rewritten(record, base={"ref": "base", "revision": None, "on_hub": False}, endpoints=[])
    with pytest.raises(BadInput, match="names no parents"):
        explain(record)
    rewritten(record, endpoints=[{"ref": "../a"}, {"ref": "b"}])
    with pytest.raises(ModelNotFound, match="neither next to it"):
        explain(record)
    for name in "ab":
        shutil.copytree(tmp_path / name, record.parent / name)
    rewritten(record, endpoints=[{"ref": "a"}, {"ref": "b"}])
    with pytest.raises(ModelNotFound, match=r"the base .base. of .merged. .* give it with --base"):
        explain(record)
    rewritten(record, alignment={"method": "magic"}, base=None)
    with pytest.raises(BadInput, match="the alignment 'magic'"):
        explain(record)
    rewritten(record, command="plane")
    with pytest.raises(BadInput, match="that of 'isthmus plane', not of a merge"):
        explain(record)
    (record / "isthmus.json").write_text("{")
    with pytest.raises(BadInput, match=r"is not valid JSON.*give the parents"):
        explain(record)


@pytest.mark.parametrize("option", ["--tokens", "--context", "--seed", "--device"])
def test_options_for_losses_need_text(isthmus, option: str) -> None:
    outcome = isthmus("explain", "m", "a", "b", option, 4)
    assert (outcome.code, f"{option} is for losses on text: add --data" in outcome.err) == (2, True)


def test_overwriting_needs_an_output(isthmus) -> None:
    outcome = isthmus("explain", "m", "a", "b", "--overwrite")
    assert (outcome.code, "--overwrite is for an output: add -o" in outcome.err) == (2, True)
