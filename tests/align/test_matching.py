from __future__ import annotations

import re
from itertools import pairwise

import pytest
import torch
from conftest import state_of, tiny_config, tiny_model
from group import moved, random_elements

from isthmus.align.canonical import canonical
from isthmus.align.families import family
from isthmus.align.matching import match
from isthmus.align.objective import INSIDE_HEADS

UNTIED = family(tiny_config(tie_word_embeddings=False))


def random(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("rotate", [True, False])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_moved_copy_is_matched_exactly(rotate: bool, seed: int) -> None:
    form = canonical(state_of(tiny_model(seed)), family(tiny_config()))
    kind = "orthogonal" if rotate else "permutation"
    table = UNTIED if rotate else UNTIED.permuting()
    copy = moved(form, table, random_elements(UNTIED, kind, seed))
    found = match(UNTIED.split(form), UNTIED.split(copy), UNTIED if rotate else UNTIED.permuting())
    assert found.score == pytest.approx(1.0, abs=1e-6)
    back = moved(copy, table, found.elements)
    assert max((back[name] - form[name]).abs().max().item() for name in form) < 2e-5


def test_no_pass_loses() -> None:
    a, b = (UNTIED.split(canonical(state_of(tiny_model(seed)), family(tiny_config()))) for seed in (1, 2))
    scores: list[float] = []
    found = match(a, b, UNTIED, tolerance=1e-6, on_pass=lambda start, number, score: scores.append(score))
    assert len(scores) > 2
    assert all(later >= earlier - 1e-9 for earlier, later in pairwise(scores))
    assert found.score == scores[-1]
    slow = bound = 0.0
    for name in set(a) - {"h.0.ln_1", "h.0.ln_2", "h.1.ln_1", "h.1.ln_2", "ln_f"}:
        weight = INSIDE_HEADS if re.fullmatch(r"h\.\d\.([qkv](\.bias)?|o)", name) else 1.0
        slow += weight * (a[name] * UNTIED.act(name, b[name], found.elements)).sum().item()
        bound += weight * (a[name].norm() * b[name].norm()).item()
    assert found.score == pytest.approx(slow / bound, abs=1e-6)


def test_the_most_promising_start_is_followed() -> None:
    """A copy whose embeddings were replaced by noise is only found from the identity; a rotated copy never is."""
    form = UNTIED.split(canonical(state_of(tiny_model(0)), family(tiny_config())))
    noise = {name: random(*form[name].shape, seed=1).float() * 0.01 for name in ("wte", "wpe", "lm_head")}
    assert match(form, form | noise, UNTIED).start == "identity"
    turned = UNTIED.split(moved(UNTIED.join(form), UNTIED, random_elements(UNTIED, "orthogonal", 3)))
    assert match(form, turned, UNTIED).start != "identity"


def test_matching_is_deterministic() -> None:
    a, b = (UNTIED.split(canonical(state_of(tiny_model(seed)), family(tiny_config()))) for seed in (1, 2))
    first, second = match(a, b, UNTIED), match(a, b, UNTIED)
    assert all(torch.equal(first.elements[name], second.elements[name]) for name in first.elements)
