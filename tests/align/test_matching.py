from __future__ import annotations

import re
from itertools import pairwise, permutations

import pytest
import scipy.linalg
import torch
from conftest import state_of, tiny_config, tiny_model
from group import moved, random_elements

from isthmus.align.canonical import canonical
from isthmus.align.families import family
from isthmus.align.matching import match
from isthmus.align.objective import INSIDE_HEADS, Objective, length

UNTIED = family(tiny_config(tie_word_embeddings=False))


def random(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def attained(problem: Objective, elements: dict[str, torch.Tensor]) -> float:
    """The objective, piece by piece."""
    moved = {name: UNTIED.act(name, problem.b[name], elements) for name in problem.names}
    return sum(problem.weights[name] * float((problem.a[name] * there).sum()) for name, there in moved.items())


def test_heads_and_their_rotations_are_jointly_best() -> None:
    """Against every permutation of the heads, each with its best rotations from scipy."""
    a, b = (UNTIED.split(canonical(state_of(tiny_model(seed)), family(tiny_config()))) for seed in (1, 2))
    problem = Objective(a, b, UNTIED)
    stream = {"residual": random_elements(UNTIED, "orthogonal")["residual"]}
    solved, _ = problem.solve_blocks("h.0.heads", stream)
    found = attained(problem, stream | solved)
    best = -torch.inf
    for order in permutations(range(4)):
        elements = {**stream, "h.0.heads": torch.tensor(order)}
        for inner in ("h.0.qk", "h.0.ov"):
            cross = problem.cross("h.0.heads", stream, {name for name, _ in UNTIED.occurrences(inner)}).double()
            blocks = [cross[8 * p : 8 * p + 8, 8 * i : 8 * i + 8] for i, p in enumerate(order)]
            rotations = [
                scipy.linalg.orthogonal_procrustes(block.T.numpy(), torch.eye(8).double().numpy())[0]
                for block in blocks
            ]
            elements[inner] = torch.stack([torch.from_numpy(r) for r in rotations])
        best = max(best, attained(problem, elements))
    assert found == pytest.approx(best, rel=1e-6)


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


def test_lengths_of_large_tensors_are_exact() -> None:
    """A copy of a model with a large vocabulary has a score of 1, and not of 1.001."""
    tensor = torch.full((5000, 5000), 0.1)
    assert length(tensor) == pytest.approx(500.0, rel=1e-6)
