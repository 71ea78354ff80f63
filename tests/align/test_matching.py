from __future__ import annotations

import re
from itertools import pairwise, permutations

import pytest
import scipy.linalg
import torch
from conftest import state_of, tiny_config, tiny_model
from group import random_elements, rotation_that_keeps_ones
from hypothesis import given, settings
from hypothesis import strategies as st

from isthmus.align.alignment import Alignment
from isthmus.align.canonical import canonical
from isthmus.align.families import family
from isthmus.align.matching import INSIDE_HEADS, _Problem, assignment, match, procrustes, stream_rotation
from isthmus.align.symmetry import act_on_piece

UNTIED = family(tiny_config(tie_word_embeddings=False))


def random(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 5))
def test_assignment_is_the_best_of_all_permutations(seed: int, size: int) -> None:
    similarity = random(size, size, seed=seed)
    value = lambda p: sum(similarity[p[i], i].item() for i in range(size))  # noqa: E731
    assert value(assignment(similarity).tolist()) == pytest.approx(max(map(value, permutations(range(size)))))


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6))
def test_procrustes_is_scipys(seed: int) -> None:
    a, b = random(9, 4, seed=seed), random(9, 4, seed=seed + 1)
    expected, _ = scipy.linalg.orthogonal_procrustes(b.numpy(), a.numpy())
    assert torch.allclose(procrustes(b.T @ a), torch.from_numpy(expected), atol=1e-9)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6))
def test_stream_rotation_keeps_ones_and_beats_others_that_do(seed: int) -> None:
    cross = random(5, 5, seed=seed)
    found, ones = stream_rotation(cross), torch.ones(5, dtype=torch.float64)
    assert torch.allclose(found @ found.T, torch.eye(5, dtype=torch.float64), atol=1e-9)
    assert torch.allclose(found @ ones, ones, atol=1e-9)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(50):
        other = rotation_that_keeps_ones(5, generator)
        assert (other * cross).sum() <= (found * cross).sum() + 1e-9


def test_heads_and_their_rotations_are_jointly_best() -> None:
    """Against every permutation of the heads, each with its best rotations from scipy."""
    a, b = (UNTIED.split(canonical(state_of(tiny_model(seed)), family(tiny_config()))) for seed in (1, 2))
    problem = _Problem(a, b, UNTIED, rotate=True)
    stream = {"residual": random_elements(UNTIED, "orthogonal")["residual"]}
    solved, _ = problem.solve_heads("h.0.heads", stream)
    found = problem.objective(stream | solved)
    best = -1.0
    for order in permutations(range(4)):
        elements = {**stream, "h.0.heads": torch.tensor(order)}
        for inner in ("h.0.qk", "h.0.ov"):
            moved = problem.cross("h.0.heads", stream, acted_by=inner).double()
            blocks = [moved[8 * p : 8 * p + 8, 8 * i : 8 * i + 8] for i, p in enumerate(order)]
            rotations = [
                scipy.linalg.orthogonal_procrustes(block.T.numpy(), torch.eye(8).double().numpy())[0]
                for block in blocks
            ]
            elements[inner] = torch.stack([torch.from_numpy(r) for r in rotations])
        best = max(best, problem.objective(elements))
    assert found == pytest.approx(best, abs=1e-7)


@pytest.mark.parametrize("rotate", [True, False])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_moved_copy_is_matched_exactly(rotate: bool, seed: int) -> None:
    form = canonical(state_of(tiny_model(seed)), family(tiny_config()))
    kind = "orthogonal" if rotate else "permutation"
    moved = Alignment("permutation", random_elements(UNTIED, kind, seed), 0.0).apply(form, UNTIED)
    found = match(UNTIED.split(form), UNTIED.split(moved), UNTIED, rotate=rotate)
    assert found.score == pytest.approx(1.0, abs=1e-6)
    back = Alignment("permutation", found.elements, found.score).apply(moved, UNTIED)
    assert max((back[name] - form[name]).abs().max().item() for name in form) < 2e-5


def test_no_sweep_loses() -> None:
    a, b = (UNTIED.split(canonical(state_of(tiny_model(seed)), family(tiny_config()))) for seed in (1, 2))
    scores: list[float] = []
    found = match(a, b, UNTIED, tolerance=1e-6, on_sweep=lambda start, sweep, score: scores.append(score))
    assert len(scores) > 2
    assert all(later >= earlier - 1e-9 for earlier, later in pairwise(scores))
    assert found.score == scores[-1]
    slow = bound = 0.0
    for name in set(a) - {"h.0.ln_1", "h.0.ln_2", "h.1.ln_1", "h.1.ln_2", "ln_f"}:
        weight = INSIDE_HEADS if re.fullmatch(r"h\.\d\.([qkv](\.bias)?|o)", name) else 1.0
        slow += weight * (a[name] * act_on_piece(b[name], UNTIED.pieces[name], found.elements)).sum().item()
        bound += weight * (a[name].norm() * b[name].norm()).item()
    assert found.score == pytest.approx(slow / bound, abs=1e-6)


def test_the_most_promising_start_is_followed() -> None:
    """A copy whose embeddings were replaced by noise is only found from the identity; a rotated copy never is."""
    form = UNTIED.split(canonical(state_of(tiny_model(0)), family(tiny_config())))
    noise = {name: random(*form[name].shape, seed=1).float() * 0.01 for name in ("wte", "wpe", "lm_head")}
    assert match(form, form | noise, UNTIED).start == "identity"
    moved = Alignment("permutation", random_elements(UNTIED, "orthogonal", 3), 0.0)
    turned = UNTIED.split(moved.apply_to_pieces(dict(form), UNTIED))
    assert match(form, turned, UNTIED).start != "identity"


def test_matching_is_deterministic() -> None:
    a, b = (UNTIED.split(canonical(state_of(tiny_model(seed)), family(tiny_config()))) for seed in (1, 2))
    first, second = match(a, b, UNTIED), match(a, b, UNTIED)
    assert all(torch.equal(first.elements[name], second.elements[name]) for name in first.elements)
