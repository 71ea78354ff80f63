from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from transformers import GPT2Config, LlamaConfig

from isthmus.align.families import family
from isthmus.align.table_entries import Stack
from isthmus.merge.training.optimizers import Schedule, learning_rate_factor, make_optimizers


def leaves() -> dict[str, torch.Tensor]:
    shapes = {"q": (4, 4), "wte": (8, 4), "bias": (4,)}
    return {name: torch.ones(shape, requires_grad=True) for name, shape in shapes.items()}


def test_the_factor_rises_and_falls() -> None:
    factors = [learning_rate_factor(step, 100) for step in range(100)]
    assert factors[0] == pytest.approx(0.2)
    assert max(factors) == factors[4] == factors[5] == 1.0
    assert factors[-1] == pytest.approx(0.1, abs=0.01)
    assert all(later <= earlier for earlier, later in pairwise(factors[5:]))


def test_the_schedule_sets_every_group_of_every_optimizer() -> None:
    made = make_optimizers("muon", [leaves()], ["q"], lr=0.1, adamw_lr=0.01)
    Schedule(made, 100, floor=0.1).set(0)
    rates = [group["lr"] for optimizer in made for group in optimizer.param_groups]
    assert rates == pytest.approx([0.02, 0.002, 0.002])


@pytest.mark.parametrize("name", ["adamw", "muon", "lion"])
def test_every_leaf_is_trained_and_only_matrices_decay(name: str) -> None:
    """With gradients of zero, what moves is what decays."""
    state = leaves()
    for leaf in state.values():
        leaf.grad = torch.zeros_like(leaf)
    for optimizer in make_optimizers(name, [state], ["q"], lr=0.1, adamw_lr=0.1, weight_decay=0.5):  # type: ignore[arg-type]
        optimizer.step()
    assert state["q"].mean().item() == pytest.approx(0.95)
    assert state["wte"].mean().item() == pytest.approx(0.95)
    assert state["bias"].mean().item() == 1.0


def test_muon_gives_matrices_an_update_of_equal_singular_values() -> None:
    state = {"q": torch.zeros(8, 8, requires_grad=True), "wte": torch.zeros(8, 8, requires_grad=True)}
    for leaf in state.values():
        leaf.grad = torch.diag(torch.logspace(0, -1, 8))
    for optimizer in make_optimizers("muon", [state], ["q"], lr=0.1, adamw_lr=0.1):
        optimizer.step()
    sizes = torch.linalg.svdvals(state["q"].detach())
    assert sizes[0] / sizes[-1] < 2


@pytest.mark.parametrize("axis", [0, 1])
def test_muon_takes_a_step_of_its_own_for_every_matrix_of_a_stack(axis: int) -> None:
    """As if they were tensors of their own."""
    generator = torch.Generator().manual_seed(0)
    gradients = [torch.randn(4, 6, generator=generator) * scale for scale in (1.0, 100.0)]
    apart = {name: torch.ones(4, 6, requires_grad=True) for name in "ab"}
    for leaf, gradient in zip(apart.values(), gradients, strict=True):
        leaf.grad = gradient.clone()
    together = torch.cat([torch.ones(4, 6), torch.ones(4, 6)], axis).requires_grad_()
    together.grad = torch.cat(gradients, axis)
    plain = make_optimizers("muon", [apart], "ab", lr=0.1, adamw_lr=0.1, weight_decay=0.1)
    stacked = make_optimizers(
        "muon", [{"m": together}], "m", stacks={"m": Stack(axis, 2)}, lr=0.1, adamw_lr=0.1, weight_decay=0.1
    )
    for optimizer in (*plain, *stacked):
        optimizer.step()
    assert torch.allclose(together, torch.cat([*apart.values()], axis), atol=1e-6)


@pytest.mark.parametrize("shape", [(4, 16), (16, 4), (8, 8)])
def test_muon_takes_the_same_step_however_a_matrix_is_stored(shape: tuple[int, int]) -> None:
    """As Linear stores it, (outputs, inputs), or as Conv1D does, (inputs, outputs)."""
    gradient = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    stored = {"linear": torch.ones(shape, requires_grad=True), "conv1d": torch.ones(shape[::-1], requires_grad=True)}
    stored["linear"].grad, stored["conv1d"].grad = gradient.clone(), gradient.T.clone()
    for optimizer in make_optimizers("muon", [stored], stored, transposed=["conv1d"], lr=0.1, adamw_lr=0.1):
        optimizer.step()
    torch.testing.assert_close(stored["conv1d"].T, stored["linear"])


def test_tables_say_which_matrices_are_stored_inputs_first() -> None:
    table = family(GPT2Config(n_layer=1, n_embd=8, n_head=2))
    assert table.transposed == frozenset(table.matrices)
    assert not family(LlamaConfig(num_hidden_layers=1, hidden_size=8, num_attention_heads=2)).transposed


def test_lion_moves_every_entry_by_the_learning_rate() -> None:
    state = leaves()
    for leaf in state.values():
        leaf.grad = torch.randn(leaf.shape, generator=torch.Generator().manual_seed(0))
    for optimizer in make_optimizers("lion", [state], ["q"], lr=0.1, adamw_lr=0.0):
        optimizer.step()
    for leaf in state.values():
        assert torch.allclose(leaf.detach(), 1 - 0.1 * leaf.grad.sign())  # type: ignore[union-attr]
