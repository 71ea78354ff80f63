from __future__ import annotations

import pytest
import torch
from conftest import state_of, tiny_config, tiny_model
from tiny_models import tiny_rotary
from transformers import MixtralForCausalLM

from isthmus.align.families import family
from isthmus.merge.path import WeightPath
from isthmus.merge.spectra import restored_spectrum

TABLE = family(tiny_config())
A, B = state_of(tiny_model(0)), state_of(tiny_model(1))


@pytest.mark.parametrize("t", [0.0, 0.3, 0.5, 1.0])
def test_singular_values_lie_between_the_endpoints_and_vectors_stay(t: float) -> None:
    middle = dict(WeightPath("linear", A, B)(t))
    restored = restored_spectrum(middle, (A, B), (1 - t, t), TABLE)
    assert restored.keys() == middle.keys()
    for name in TABLE.matrices:
        before, after = TABLE.piece(middle, name).double(), TABLE.piece(restored, name).double()
        a, b = (torch.linalg.svdvals(TABLE.piece(end, name).double()) for end in (A, B))
        expected = torch.exp((1 - t) * a.log() + t * b.log())
        assert torch.allclose(torch.linalg.svdvals(after), expected, rtol=1e-4)
        left, _, right = torch.linalg.svd(before, full_matrices=False)
        assert torch.allclose(left.T @ after @ right.T, torch.diag(expected), atol=1e-4)


def test_of_experts_every_matrix_has_values_of_its_own() -> None:
    a, b = (tiny_rotary(MixtralForCausalLM, seed, num_local_experts=3) for seed in (0, 1))
    table, states = family(a.config), [state_of(model) for model in (a, b)]
    restored = restored_spectrum(dict(WeightPath("linear", *states)(0.5)), states, (0.5, 0.5), table)
    ends = [table.measured(table.split(state)) for state in states]
    for name, matrix in table.measured(table.split(restored)).items():
        logs = [torch.linalg.svdvals(end[name].double()).log() for end in ends]
        assert torch.allclose(torch.linalg.svdvals(matrix.double()).log(), (logs[0] + logs[1]) / 2, atol=1e-4), name
    assert torch.equal(table.measured(table.split(restored))["layers.0.experts.2.down"], by_hand(restored, "down_proj"))


def by_hand(state: dict[str, torch.Tensor], name: str) -> torch.Tensor:
    return state[f"model.layers.0.mlp.experts.{name}"][2]


def test_everything_but_matrices_stays() -> None:
    middle = dict(WeightPath("linear", A, B)(0.5))
    restored = restored_spectrum(middle, (A, B), (0.5, 0.5), TABLE)
    matrices = {TABLE.pieces[name].parameter for name in TABLE.matrices}
    for name in middle.keys() - matrices:
        assert torch.equal(restored[name], middle[name])


def test_null_directions_stay_null() -> None:
    """A canonical form has a zero singular value, whose logarithm would be no number."""
    flat = {name: value.clone() for name, value in A.items()}
    weight = flat["transformer.h.0.mlp.c_fc.weight"]
    weight -= weight.mean(0)
    restored = restored_spectrum(flat, (flat, B), (0.5, 0.5), TABLE)["transformer.h.0.mlp.c_fc.weight"]
    assert torch.isfinite(restored).all()
    assert restored.mean(0).abs().max() < 1e-6
