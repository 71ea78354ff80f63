from __future__ import annotations

import pytest
import torch

from isthmus.align.symmetry import act


def test_a_permutation_takes_blocks_by_index() -> None:
    x = torch.arange(6.0)
    assert act(x, 0, torch.tensor([2, 0, 1])).tolist() == [4.0, 5.0, 0.0, 1.0, 2.0, 3.0]
    assert act(x, 0, torch.arange(5, -1, -1)).tolist() == [5.0, 4.0, 3.0, 2.0, 1.0, 0.0]


@pytest.mark.parametrize("position", [0, 1])
def test_matrices_act_on_row_vectors(position: int) -> None:
    x, g = torch.randn(6, 6), torch.randn(6, 6)
    assert torch.allclose(act(x, position, g), x @ g if position else g.T @ x, atol=1e-6)


@pytest.mark.parametrize("shape", [(6, 6), (3, 2, 2)])
def test_a_dual_axis_keeps_inner_products(shape: tuple[int, ...]) -> None:
    x, y, g = torch.randn(4, 6).double(), torch.randn(5, 6).double(), torch.randn(shape).double()
    assert torch.allclose(act(x, 1, g) @ act(y, 1, g, dual=True).T, x @ y.T, atol=1e-9)


def test_blocks_have_a_matrix_each() -> None:
    x, g = torch.randn(4, 6), torch.randn(3, 2, 2)
    expected = torch.cat([x[:, 2 * i : 2 * i + 2] @ g[i] for i in range(3)], dim=1)
    assert torch.allclose(act(x, 1, g), expected, atol=1e-6)
