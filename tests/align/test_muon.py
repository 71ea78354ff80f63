"""The float32 Muon against torch's, and its iteration against what it does to singular values."""

from __future__ import annotations

import pytest
import torch

from isthmus.align.muon import Muon, orthogonalised

QUINTIC = (3.4445, -4.7750, 2.0315)


@pytest.mark.parametrize("shape", [(6, 6), (12, 5), (5, 12)])
def test_the_iteration_acts_on_singular_values_alone(shape: tuple[int, int]) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    left, values, right = torch.linalg.svd(matrix / matrix.norm(), full_matrices=False)
    for _ in range(5):
        values = QUINTIC[0] * values + QUINTIC[1] * values**3 + QUINTIC[2] * values**5
    expected = left @ torch.diag(values) @ right
    assert torch.allclose(orthogonalised(matrix, QUINTIC, 5, 1e-7), expected, atol=1e-12)


@pytest.mark.parametrize("nesterov", [True, False])
@pytest.mark.parametrize("shape", [(6, 6), (12, 5), (5, 12)])
def test_steps_are_those_of_torch_to_the_digits_of_bfloat16(shape: tuple[int, int], nesterov: bool) -> None:
    generator = torch.Generator().manual_seed(1)
    ours, theirs = (torch.ones(shape, requires_grad=True) for _ in range(2))
    options = {"lr": 0.1, "weight_decay": 0.3, "momentum": 0.9, "nesterov": nesterov}
    made = [Muon([ours], **options), torch.optim.Muon([theirs], **options)]
    for _ in range(4):
        ours.grad = torch.randn(shape, generator=generator)
        theirs.grad = ours.grad.clone()
        for optimizer in made:
            optimizer.step()
    moved = (ours - 1).norm()
    assert (ours - theirs).norm() < 0.02 * moved


def test_a_closure_gives_the_loss_and_what_has_no_gradient_stays() -> None:
    trained, other = torch.ones(3, 3, requires_grad=True), torch.ones(3, 3, requires_grad=True)
    optimizer = Muon([trained, other], lr=0.1, weight_decay=0.5)

    def closure() -> float:
        loss = (trained**2).sum()
        loss.backward()
        return loss.item()

    assert optimizer.step(closure) == 9.0
    assert not torch.equal(trained, torch.ones(3, 3))
    assert torch.equal(other, torch.ones(3, 3))
