"""Every figure of an explanation against loops over the entries; places of tensors; what the sentences say."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from conftest import state_of, tiny_model
from tiny_models import tiny_bert, tiny_neox, tiny_rotary
from torch import Tensor
from transformers import BertForMaskedLM, LlamaForCausalLM, Qwen3ForCausalLM

from isthmus.align.families import family
from isthmus.eval.explanation import Cell, Explanation, Moments, cell_of, moments, relations
from isthmus.eval.explanation_text import explained

State = dict[str, Tensor]


def models(count: int, seed: int = 0) -> list[State]:
    generator = torch.Generator().manual_seed(seed)
    return [
        {"w": torch.randn(7, 5, generator=generator), "b": torch.randn(5, generator=generator)} for _ in range(count)
    ]


def mixed(states: list[State], weights: list[float], base: State | None = None) -> State:
    zero = {name: torch.zeros_like(value) for name, value in states[0].items()} if base is None else base
    return {
        name: zero[name] + sum(w * (s[name] - zero[name]) for w, s in zip(weights, states, strict=True))
        for name in states[0]
    }


def whole(states: list[State], *, based: bool) -> Moments:
    first, second = (moments(states, name, based=based) for name in ("w", "b"))
    return first + second


def entries(state: State) -> list[float]:
    return [float(value) for name in ("w", "b") for value in state[name].flatten()]


def dot(x: list[float], y: list[float]) -> float:
    return math.fsum(a * b for a, b in zip(x, y, strict=True))


def less(x: list[float], y: list[float]) -> list[float]:
    return [a - b for a, b in zip(x, y, strict=True)]


def test_figures_with_a_base_are_those_of_loops() -> None:
    merge, a, b, base = states = models(4)
    facts = relations(whole(states, based=True))
    m, p, q, r = map(entries, (merge, a, b, base))
    norm, mine, first, second = math.sqrt(dot(m, m)), less(m, r), less(p, r), less(q, r)
    away = [math.sqrt(dot(less(m, x), less(m, x))) / norm for x in (p, q)]
    assert facts["distances"] == pytest.approx(away)
    assert facts["apart"] == pytest.approx([math.sqrt(dot(less(p, q), less(p, q))) / norm])
    assert facts["moved"] == pytest.approx([math.sqrt(dot(x, x)) / norm for x in (first, second)])
    assert facts["projections"] == pytest.approx([dot(mine, x) / dot(x, x) for x in (first, second)])
    assert facts["cosines"] == pytest.approx([dot(first, second) / math.sqrt(dot(first, first) * dot(second, second))])
    # Cramer's rule for the two least-squares coefficients
    aa, bb, ab, am, bm = (
        dot(*pair) for pair in ((first, first), (second, second), (first, second), (first, mine), (second, mine))
    )
    weights = [(am * bb - bm * ab) / (aa * bb - ab * ab), (bm * aa - am * ab) / (aa * bb - ab * ab)]
    assert facts["weights"] == pytest.approx(weights)
    rest = [x - weights[0] * y - weights[1] * z for x, y, z in zip(mine, first, second, strict=True)]
    assert facts["unexplained"] == pytest.approx(dot(rest, rest) / dot(mine, mine))
    opposed = [x * y < 0 for x, y in zip(first, second, strict=True)]
    assert facts["conflict"] == pytest.approx(sum(opposed) / len(opposed))
    sizes = [abs(x) + abs(y) for x, y in zip(first, second, strict=True)]
    share = sum(size for size, one in zip(sizes, opposed, strict=True) if one) / sum(sizes)
    assert facts["conflict_by_magnitude"] == pytest.approx(share, rel=1e-5)


def test_figures_without_a_base_are_those_of_loops() -> None:
    merge, a, b = states = models(3, seed=1)
    facts = relations(whole(states, based=False))
    m, p, q = map(entries, (merge, a, b))
    line = less(q, p)
    t = dot(less(m, p), line) / dot(line, line)
    assert facts["weights"] == pytest.approx([1 - t, t])
    rest = less(less(m, p), [t * x for x in line])
    assert facts["unexplained"] == pytest.approx(math.sqrt(dot(rest, rest) / dot(line, line)))


@pytest.mark.parametrize("based", [False, True])
def test_a_merge_that_is_a_parent(based: bool) -> None:
    a, b, base = models(3)
    facts = relations(whole([a, a, b, *([base] if based else [])], based=based))
    assert facts["distances"][0] == 0
    assert facts["weights"] == pytest.approx([1, 0], abs=1e-9)
    assert facts["unexplained"] == pytest.approx(0, abs=1e-7)


def test_coefficients_of_correlated_task_vectors_are_told_apart() -> None:
    """Where projections of one alone count the other, too."""
    a, b, base = models(3)
    b = mixed([a, b], [0.9, 0.4], base)
    facts = relations(whole([mixed([a, b], [0.3, 0.7], base), a, b, base], based=True))
    assert facts["weights"] == pytest.approx([0.3, 0.7], abs=1e-5)
    assert facts["projections"][0] > 0.8
    assert facts["unexplained"] < 1e-9


def test_orthogonal_task_vectors_have_the_coefficients_of_a_linear_merge() -> None:
    base = {"w": torch.ones(4, 2), "b": torch.zeros(2)}
    a = {"w": base["w"] + torch.tensor([[1.0, 0]] * 4), "b": base["b"]}
    b = {"w": base["w"] + torch.tensor([[0, 2.0]] * 4), "b": base["b"]}
    facts = relations(whole([mixed([a, b], [0.3, 0.7], base), a, b, base], based=True))
    assert facts["projections"] == pytest.approx([0.3, 0.7])
    assert facts["weights"] == pytest.approx([0.3, 0.7])
    assert facts["conflict"] == 0


def test_three_parents() -> None:
    states = models(3, seed=2)
    facts = relations(whole([mixed(states, [0.2, 0.3, 0.5]), *states], based=False))
    assert facts["weights"] == pytest.approx([0.2, 0.3, 0.5], abs=1e-6)
    assert len(facts["apart"]) == 3


def test_nothing_is_divided_by_zero() -> None:
    zero = {"w": torch.zeros(7, 5), "b": torch.zeros(5)}
    facts = relations(whole([zero, zero, zero, zero], based=True))
    assert facts["distances"] == [None, None]
    assert facts["weights"] is facts["unexplained"] is facts["conflict_by_magnitude"] is None
    assert relations(whole([zero, zero, zero], based=False))["weights"] is None


def test_equal_parents_share_a_weight() -> None:
    a, base = models(2)
    facts = relations(whole([mixed([a], [0.5], base), a, a, base], based=True))
    assert facts["weights"] == pytest.approx([0.25, 0.25], abs=1e-6)


def test_blocks_of_rows_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    states = models(4)
    at_once = whole(states, based=True)
    monkeypatch.setattr("isthmus.checkpoint.rows.BLOCK", 6)
    in_blocks = whole(states, based=True)
    torch.testing.assert_close(in_blocks.squares, at_once.squares)
    assert (in_blocks.entries, in_blocks.opposed) == (at_once.entries, at_once.opposed)


def test_cells_of_architectures_with_a_table() -> None:
    gpt2, llama = family(tiny_model().config), family(tiny_rotary(LlamaForCausalLM, tie_word_embeddings=False).config)
    assert cell_of("transformer.h.1.attn.c_attn.weight", gpt2) == Cell(1, "attention", "q+k+v")
    assert cell_of("transformer.h.1.attn.c_attn.bias", gpt2) == Cell(1, "attention", "q+k+v")
    assert cell_of("transformer.h.0.mlp.c_proj.weight", gpt2) == Cell(0, "MLP", "proj")
    assert cell_of("transformer.h.0.ln_1.bias", gpt2) == Cell(0, "norms", "norms")
    assert cell_of("transformer.wpe.weight", gpt2) == Cell(None, "embeddings", "embeddings")
    assert cell_of("model.layers.1.self_attn.k_proj.weight", llama) == Cell(1, "attention", "k")
    assert cell_of("model.layers.1.mlp.gate_proj.weight", llama) == Cell(1, "MLP", "gate")
    assert cell_of("lm_head.weight", llama) == Cell(None, "head", "head")


@pytest.mark.parametrize(
    "model",
    [
        tiny_model(),
        tiny_neox(),
        tiny_rotary(Qwen3ForCausalLM, head_dim=8),
        tiny_bert(BertForMaskedLM),
    ],
    ids=lambda model: model.config.model_type,
)
def test_by_name_the_parts_are_those_of_the_table(model: Any) -> None:
    """All but the last: names alone do not tell what a table knows of a head."""
    table = family(model.config)
    for name in table.schema().shapes:
        known, guessed = cell_of(name, table), cell_of(name)
        assert known.layer == guessed.layer
        if known.part != "other" and "cls" not in name:
            assert known.part == guessed.part, name


def report_of(states: list[State], *, based: bool = False) -> dict[str, Any]:
    table = family(tiny_model().config)
    sums: dict[Cell, Moments] = {}
    for name in states[0]:
        cell, one = cell_of(name, table), moments(states, name, based=based)
        sums[cell] = sums[cell] + one if cell in sums else one
    ends = [{"ref": name} for name in ("one", "two", "three")[: len(states) - 1 - based]]
    facts = {"endpoints": ends, "base": {"ref": "base"} if based else None, "swaps": None}
    return {**facts, "alignment": {"method": "none", "how": "as they are"}, **Explanation(sums).to_dict()}


def test_a_layer_of_the_other_parent_is_named() -> None:
    a, b = state_of(tiny_model(0, n_layer=3)), state_of(tiny_model(1, n_layer=3))
    merge = {name: b[name] if ".h.1." in name else a[name] for name in a}
    sentences = explained(report_of([merge, a, b]))
    assert "Layers 0 and 2 are those of A and layer 1 is that of B." in sentences
    mean = {name: (a[name] + b[name]) / 2 for name in a}
    blended = {name: b[name] if ".h.1." in name else mean[name] for name in a}
    assert "Layer 1 is that of B." in explained(report_of([blended, a, b]))


def test_a_merge_that_is_a_parent_is_named() -> None:
    a, b = state_of(tiny_model(0)), state_of(tiny_model(1))
    assert explained(report_of([b, a, b]))[0] == "The merge has the weights of B (two), to the last digit."


def test_layers_in_which_a_parent_counts_most() -> None:
    a, b = state_of(tiny_model(0)), state_of(tiny_model(1))
    merge = {name: torch.lerp(a[name], b[name], 0.25 if ".h.0." in name else 0.75) for name in a}
    assert "A counts most in layer 0 (0.75) and B counts most in layer 1 (0.75)." in explained(report_of([merge, a, b]))
    even = {name: torch.lerp(a[name], b[name], 0.5) for name in a}
    assert "The parents count alike in all layers." in explained(report_of([even, a, b]))


def test_the_worst_conflict_is_named() -> None:
    base = state_of(tiny_model(0))
    step = {name: 0.1 * torch.ones_like(value) for name, value in base.items()}
    a = {name: base[name] + step[name] for name in base}
    b = {name: base[name] + (-1 if name == "transformer.h.1.mlp.c_fc.weight" else 1) * step[name] for name in base}
    merge = {name: (a[name] + b[name]) / 2 for name in base}
    sentence = explained(report_of([merge, a, b, base], based=True))[-1]
    assert sentence.startswith("The task vectors of A and B agree least in layer 1, fc (MLP): cosine -0.9")
