from __future__ import annotations

from itertools import permutations

import pytest
import scipy.linalg
import torch
from conftest import state_of, tiny_config, tiny_model
from group import random_elements

from isthmus.align.canonical import canonical
from isthmus.align.families import family
from isthmus.align.objective import Objective, length

UNTIED = family(tiny_config(tie_word_embeddings=False))


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


def test_lengths_of_large_tensors_are_exact() -> None:
    """A copy of a model with a large vocabulary has a score of 1, and not of 1.001."""
    tensor = torch.full((5000, 5000), 0.1)
    assert length(tensor) == pytest.approx(500.0, rel=1e-6)
