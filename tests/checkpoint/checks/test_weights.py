from __future__ import annotations

import pytest
import torch
from conftest import EMBEDDED
from safetensors.torch import load_file, save_file

from isthmus.checkpoint.check import check
from isthmus.checkpoint.checks.weights import distance, own_findings
from isthmus.checkpoint.config import read_facts
from isthmus.checkpoint.reference import parse_reference
from isthmus.checkpoint.source import Source


def apart(a, b) -> float | None:
    sides = []
    for directory in (a, b):
        source = Source(parse_reference(directory))
        sides += [source, own_findings(source, read_facts(source), None)[1]]
    return distance(*sides)


def test_the_distance_of_copies_relatives_and_strangers(saved) -> None:
    assert apart(EMBEDDED / "docs", EMBEDDED / "docs") == 0
    assert apart(EMBEDDED / "docs", EMBEDDED / "code") < 0.3
    assert apart(EMBEDDED / "adamw-1", EMBEDDED / "muon-1") == pytest.approx(1.0, abs=0.02)


def test_against_the_definition(saved) -> None:
    a, b = saved("a"), saved("b", 1)
    first, second = ({n: v.double() for n, v in load_file(d / "model.safetensors").items()} for d in (a, b))
    names = [name for name, value in first.items() if value.ndim == 2]
    difference = sum((first[n] - second[n]).square().sum() for n in names)
    total = sum(first[n].square().sum() + second[n].square().sum() for n in names)
    # All are read: their number is below twice that of the sample, and none has more rows than it takes.
    assert len(names) < 16
    assert apart(a, b) == pytest.approx((difference / total).sqrt().item(), rel=1e-12)


def test_without_numbers_there_is_no_distance(saved) -> None:
    a, b = saved("a"), saved("b", 1)
    tensors = {n: torch.full_like(v, float("nan")) for n, v in load_file(b / "model.safetensors").items()}
    save_file(tensors, b / "model.safetensors")
    assert apart(a, b) is None
    assert check(a, b).mergeable  # no weight was looked at to find out


def test_another_dtype_is_noted(saved) -> None:
    found = check(saved("a"), saved("b", 1, dtype=torch.float16))
    assert any(
        str(finding) == "'a' is stored in F32, 'b' in F16: the merge is saved in float32, or in the dtype of --dtype"
        for finding in found.findings
    )


@pytest.mark.parametrize(
    ("replaced", "sentence"),
    [
        ((1,), "are relatives in layers 0, 2 to 3 (at most 0.0"),
        ((2, 3), "and strangers in layers 2 to 3 (at least 0.9"),
        ((0, 1, 3), "are relatives in layer 2 (at most 0.0"),
    ],
)
def test_layers_of_another_model_are_said(saved, replaced, sentence: str) -> None:
    a, b, other = saved("a", n_layer=4), saved("b", n_layer=4), saved("c", 1, n_layer=4)
    state, strange = (load_file(place / "model.safetensors") for place in (b, other))
    for name in state:
        moved = any(f".h.{layer}." in name for layer in replaced)
        state[name] = strange[name] if moved else state[name] + 0.01 * strange[name]
    save_file(state, b / "model.safetensors", metadata={"format": "pt"})
    findings = [str(finding) for finding in check(a, b).findings if finding.kind == "degrades"]
    assert any(sentence in finding for finding in findings), findings
    assert any("averaging those destroys the merge" in finding for finding in findings)


@pytest.mark.parametrize("layer", [0, 5, 11])
def test_one_layer_of_many_is_found(saved, layer: int) -> None:
    a, b = saved("a", n_layer=12), saved("b", n_layer=12)
    strange = load_file(saved("c", 1, n_layer=12) / "model.safetensors")
    state = load_file(b / "model.safetensors")
    state |= {name: value for name, value in strange.items() if f".h.{layer}." in name}
    save_file(state, b / "model.safetensors", metadata={"format": "pt"})
    assert any(f"and strangers in layer {layer} (" in str(finding) for finding in check(a, b).findings)


def test_layers_at_the_edge_of_being_relatives_are_no_strangers(saved) -> None:
    a, b = saved("a", n_layer=8), saved("b", n_layer=8)
    noise = torch.Generator().manual_seed(0)
    state = load_file(b / "model.safetensors")
    state = {n: v + 0.82 * v.std() * torch.randn(v.shape, generator=noise) for n, v in state.items()}
    save_file(state, b / "model.safetensors", metadata={"format": "pt"})
    assert not any("strangers in" in str(finding) for finding in check(a, b).findings)


def test_relatives_and_strangers_are_so_in_every_layer() -> None:
    for pair in (("docs", "code"), ("adamw-1", "muon-1")):
        findings = check(*(EMBEDDED / name for name in pair)).findings
        assert not any("strangers in" in str(finding) for finding in findings)
