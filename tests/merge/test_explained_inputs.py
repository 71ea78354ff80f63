"""What explain says of merges of adapters, GGUF files and classifiers, of recipes that move layers, of aligned paths.

Distances are computed again from the tensors that transformers, peft or gguf give, entry by entry in numpy.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from adapters import KINDS, adapted
from classifiers import NAMES, saved_classifier
from conftest import EMBEDDED
from merging import combine, merge
from tiny_models import tiny_rotary
from torch import Tensor
from transformers import AutoModelForSequenceClassification, GPT2LMHeadModel, LlamaForCausalLM

from isthmus.checkpoint.errors import BadInput, IncompatibleModels, ModelNotFound
from isthmus.merge.explain import explain
from isthmus.merge.recipes.mergekit import read_recipe

Save = Callable[..., Path]
State = Mapping[str, Tensor]


def distances(merged: State, parents: list[State]) -> list[float]:
    """‖M − P‖ / ‖M‖ over all tensors."""
    whole = np.concatenate([merged[name].detach().double().numpy().ravel() for name in merged])
    others = [np.concatenate([parent[name].detach().double().numpy().ravel() for name in merged]) for parent in parents]
    return [float(np.linalg.norm(whole - other) / np.linalg.norm(whole)) for other in others]


def untied(model: Any) -> State:
    return {name: value for name, value in model.state_dict().items() if name != "lm_head.weight"}


def gpt2(directory: Path) -> State:
    return untied(GPT2LMHeadModel.from_pretrained(directory, dtype=torch.float32))


def test_adapters_are_parents(tmp_path: Path) -> None:
    from peft import PeftModel

    settings = KINDS["lora"](["c_attn", "c_fc"], "wte")
    a = adapted(tmp_path, "gpt2", settings, seed=1, name="one")
    b = adapted(tmp_path, "gpt2", settings, seed=2, name="two")
    merge(a.reference, b.reference, align="none", t=0.25, dtype="float32").save(tmp_path / "merged")
    report = explain(tmp_path / "merged").report
    assert report["total"]["weights"] == pytest.approx([0.75, 0.25], abs=1e-4)
    states = []
    for one in (a, b):
        base = GPT2LMHeadModel.from_pretrained(a.base, dtype=torch.float32)
        states.append(untied(PeftModel.from_pretrained(base, one.adapter).merge_and_unload()))
    assert report["total"]["distances"] == pytest.approx(distances(gpt2(tmp_path / "merged"), states), rel=1e-4)
    own = json.loads((tmp_path / "merged" / "isthmus.json").read_text())["explanation"]
    assert own["total"]["distances"] == pytest.approx(report["total"]["distances"], rel=1e-4)


def test_a_merge_that_is_saved_as_an_adapter(tmp_path: Path) -> None:
    settings = KINDS["lora"](["c_attn", "c_fc"], "wte")
    a = adapted(tmp_path, "gpt2", settings, seed=1, name="one")
    b = adapted(tmp_path, "gpt2", settings, seed=2, name="two")
    merge(a.reference, b.reference, as_lora=2, t=0.5).save(tmp_path / "merged")
    total = explain(f"{a.base}+{tmp_path / 'merged'}", [a.reference, b.reference]).report["total"]
    own = json.loads((tmp_path / "merged" / "isthmus.json").read_text())["explanation"]
    assert total["unexplained"] > 0.1  # a rank of 2 cannot hold both
    assert own["total"]["distances"] == pytest.approx(total["distances"], rel=1e-3)
    assert own["total"]["unexplained"] == pytest.approx(total["unexplained"], rel=1e-3)


def test_gguf_files_are_parents(tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    from gguf_files import write_gguf

    one, two = (tiny_rotary(LlamaForCausalLM, seed, vocab_size=1024) for seed in (0, 1))
    a, b = write_gguf(tmp_path / "a.gguf", one), write_gguf(tmp_path / "b.gguf", two)
    merge(a, b, align="none", t=0.25, dtype="float32").save(tmp_path / "merged")
    report = explain(tmp_path / "merged", [a, b]).report
    merged = LlamaForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float32).state_dict()
    expected = distances(merged, [one.state_dict(), two.state_dict()])
    assert report["total"]["distances"] == pytest.approx(expected, rel=1e-4)
    found = explain(tmp_path / "merged").report
    assert found["total"] == report["total"]


@pytest.mark.parametrize("second", [NAMES, NAMES[::-1]])
def test_heads_of_classifiers(second: tuple[str, ...], tmp_path: Path) -> None:
    a = saved_classifier(tmp_path / "a", seed=0)
    b = saved_classifier(tmp_path / "b", seed=1, labels=second)
    merge(a, b, align="none", t=0.25, dtype="float32").save(tmp_path / "merged")
    report = explain(tmp_path / "merged").report
    assert report["total"]["weights"] == pytest.approx([0.75, 0.25], abs=1e-4)
    states = [
        dict(AutoModelForSequenceClassification.from_pretrained(one, dtype=torch.float32).state_dict())
        for one in (tmp_path / "merged", a, b)
    ]
    if second != NAMES:
        states[2]["score.weight"] = states[2]["score.weight"].flip(0)
    assert report["total"]["distances"] == pytest.approx(distances(states[0], states[1:]), rel=1e-4)


def test_a_head_that_was_taken(tmp_path: Path) -> None:
    """The other model has no such head: all but the head is compared."""
    a = saved_classifier(tmp_path / "a", seed=0)
    b = saved_classifier(tmp_path / "b", seed=1, labels=("yes", "no"))
    merge(a, b, align="none", t=0.25, dtype="float32", head="A").save(tmp_path / "merged")
    report = explain(tmp_path / "merged").report
    states = [
        dict(AutoModelForSequenceClassification.from_pretrained(one, dtype=torch.float32).state_dict())
        for one in (tmp_path / "merged", a, b)
    ]
    body = {name: value for name, value in states[0].items() if name != "score.weight"}
    assert report["total"]["distances"] == pytest.approx(distances(body, states[1:]), rel=1e-4)
    assert report["left_out"] == ["score.weight"]
    assert "Heads are not compared: the models have different labels." in report["sentences"]
    own = json.loads((tmp_path / "merged" / "isthmus.json").read_text())["explanation"]
    assert own["total"]["distances"] == pytest.approx(report["total"]["distances"], rel=1e-4)


def passthrough(path: Path, *rows: tuple[Path, int, int]) -> Path:
    lines = [f"- sources:\n  - model: {model}\n    layer_range: [{start}, {stop}]" for model, start, stop in rows]
    path.write_text("merge_method: passthrough\ndtype: float32\nslices:\n" + "\n".join(lines) + "\n")
    return path


def test_layers_that_moved_are_refused(saved: Save, tmp_path: Path) -> None:
    a, b = saved("a", 0), saved("b", 1)
    deeper = combine(read_recipe(passthrough(tmp_path / "deep.yml", (a, 0, 2), (b, 1, 2))))
    assert deeper.save(tmp_path / "deep")["explanation"] is None
    turned = combine(read_recipe(passthrough(tmp_path / "turned.yml", (a, 1, 2), (b, 0, 1))))
    assert turned.save(tmp_path / "turned")["explanation"] is None
    for name in ("deep", "turned"):
        with pytest.raises(BadInput, match=f"layers of '{name}' moved, by its isthmus.json"):
            explain(tmp_path / name, [a, b])
    (tmp_path / "deep" / "isthmus.json").unlink()
    with pytest.raises(IncompatibleModels, match="'deep' has 3 layers and 'a' has 2"):
        explain(tmp_path / "deep", [a, b])


def test_stages_have_the_models_for_parents(saved: Save, tmp_path: Path) -> None:
    models = [saved(name, seed) for seed, name in enumerate("abc")]
    names = "".join(f"  - model: {model}\n    parameters: {{weight: 0.5}}\n" for model in models[:2])
    text = (
        f"name: half\nmerge_method: linear\nmodels:\n{names}---\nmerge_method: linear\ndtype: float32\nmodels:\n"
        f"  - model: half\n    parameters: {{weight: 0.5}}\n  - model: {models[2]}\n    parameters: {{weight: 0.5}}\n"
    )
    (tmp_path / "stages.yml").write_text(text)
    combine(read_recipe(tmp_path / "stages.yml")).save(tmp_path / "merged")
    report = explain(tmp_path / "merged").report
    weights = dict(zip((end["ref"] for end in report["endpoints"]), report["total"]["weights"], strict=True))
    assert weights == pytest.approx({"a": 0.25, "b": 0.25, "c": 0.5}, abs=1e-4)


def test_an_aligned_path_that_was_trained(tmp_path: Path) -> None:
    """The parents of a merge on a curve cannot be read off it: without the aligned ones it is refused."""
    for name in ("docs", "code"):
        shutil.copytree(EMBEDDED / name, tmp_path / name)
    merged = merge(tmp_path / "docs", tmp_path / "code", align="none", t=0.5, dtype="float32")
    merged.save(tmp_path / "merged")
    path = tmp_path / "merged" / "isthmus.json"
    record = json.loads(path.read_text())
    curve = {**record, "alignment": {"method": "learned"}, "path": {"kind": "polychain"}}
    path.write_text(json.dumps(curve))
    with pytest.raises(BadInput, match="cannot be repeated from its record: give A and B as `isthmus align"):
        explain(tmp_path / "merged")


def test_parents_that_are_gone(saved: Save, tmp_path: Path) -> None:
    a, b = saved("a", 0), saved("b", 1)
    merge(a, b, align="none", t=0.5).save(tmp_path / "merged")
    shutil.rmtree(b)
    with pytest.raises(ModelNotFound, match="the parent 'b' of 'merged' is neither next to it nor in the current"):
        explain(tmp_path / "merged")


def test_a_vocabulary_that_grew(tmp_path: Path) -> None:
    """Rows that only one of the models has are not compared, by the merge and by explain alike."""
    shutil.copytree(EMBEDDED / "docs", tmp_path / "a")
    shutil.copytree(EMBEDDED / "code", tmp_path / "b")
    wider = GPT2LMHeadModel.from_pretrained(tmp_path / "b", dtype=torch.float32)
    wider.resize_token_embeddings(wider.config.vocab_size + 8)
    wider.save_pretrained(tmp_path / "b")
    merge(tmp_path / "a", tmp_path / "b", align="none", t=0.5, dtype="float32").save(tmp_path / "merged")
    report = explain(tmp_path / "merged").report
    own = json.loads((tmp_path / "merged" / "isthmus.json").read_text())["explanation"]
    assert own["total"]["distances"] == pytest.approx(report["total"]["distances"], rel=1e-4)
