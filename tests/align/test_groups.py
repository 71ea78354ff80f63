"""Every kind of group by the same laws, and its closed form against brute force or a library."""

from __future__ import annotations

from itertools import permutations, product

import pytest
import scipy.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from isthmus.align.groups import (
    Group,
    Matrices,
    NestedPermutation,
    Orthogonal,
    OrthogonalKeepingOnes,
    OrthogonalMatrices,
    Permutation,
    PermutationMatrices,
    SignedPermutation,
    assignment,
    procrustes,
)
from isthmus.align.rotary import RotaryMatrices, RotaryOrthogonalMatrices, RotaryPermutationMatrices, RotarySigns
from isthmus.align.scales import Scales, Signs

GROUPS: list[Group] = [
    Permutation(6),
    SignedPermutation(6),
    Orthogonal(6),
    OrthogonalKeepingOnes(6),
    Matrices(2, 3),
    OrthogonalMatrices(2, 3),
    PermutationMatrices(2, 3),
    RotaryMatrices(6, 1, rotated=2),
    RotaryMatrices(3, 2, rotated=2),
    RotaryMatrices(2, 3, rotated=2),
    RotaryOrthogonalMatrices(6, 1, rotated=4),
    RotaryPermutationMatrices(6, 1, rotated=2),
    RotarySigns(6, 1, rotated=6),
    RotarySigns(2, 3, rotated=2),
    NestedPermutation(3, 2),
    Scales(1, 6),
    Signs(1, 6),
]
BLOCKED = (Matrices, NestedPermutation)  # with an element for every block
every_group = pytest.mark.parametrize("group", GROUPS, ids=str)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def elements(group: Group, count: int, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [group.random(generator) for _ in range(count)]


def cross_of(group: Group, seed: int) -> Tensor:
    return (
        random(group.blocks, group.size, group.size, seed=seed)
        if isinstance(group, BLOCKED)
        else random(6, 6, seed=seed)
    )


def value(group: Group, cross: Tensor, element: Tensor) -> float:
    """tr(gᵀ C), of which every block has a part."""
    if isinstance(group, BLOCKED):
        cross = torch.block_diag(*cross)
    return group.act(cross, 0, element).trace().item()


@every_group
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_composition_inverse_and_identity(group: Group, axis: int) -> None:
    x = random(6, 6, 6)
    first, then = elements(group, 2)
    moved = group.act(x, axis, first)
    assert not torch.allclose(moved, x)
    assert torch.allclose(group.act(moved, axis, group.inverse(first)), x)
    assert torch.allclose(group.act(x, axis, group.compose(first, then)), group.act(moved, axis, then))
    assert torch.equal(group.act(x, axis, group.identity()), x)
    assert torch.allclose(group.compose(first, group.inverse(first)), group.identity(), atol=1e-12)


@every_group
def test_it_is_linear_and_a_dual_axis_keeps_inner_products(group: Group) -> None:
    x, y, (element,) = random(4, 6), random(5, 6, seed=1), elements(group, 1)
    assert torch.allclose(group.act(2 * x, 1, element), 2 * group.act(x, 1, element))
    assert torch.allclose(group.act(x, 1, element) @ group.act(y, 1, element, dual=True).T, x @ y.T)


@every_group
def test_a_scale_is_a_diagonal_matrix(group: Group) -> None:
    """Of any scale where only the order changes, and of equal ones under rotations."""
    scale = torch.full((6,), 3.0, dtype=torch.float64)
    if isinstance(group, (Permutation, SignedPermutation)):
        scale = scale + random(6)
    if isinstance(group, Matrices):
        return
    (element,) = elements(group, 1)
    whole = group.act(group.act(torch.diag(scale), 0, element), 1, element, dual=True)
    assert torch.allclose(group.act_on_scale(scale, 0, element), whole.diagonal())


@every_group
def test_its_permutations_are_among_its_elements(group: Group) -> None:
    x = random(6, 4)
    (order,) = elements(group.permutations(), 1)
    assert torch.allclose(group.act(x, 0, group.lifted(order)), group.permutations().act(x, 0, order))
    assert group.permutations().permutations() == group.permutations()


@every_group
@pytest.mark.parametrize("seed", range(3))
def test_the_closed_form_beats_others_and_attains_what_it_promises(group: Group, seed: int) -> None:
    cross = cross_of(group, seed)
    best = value(group, cross, group.solve(cross))
    assert best == pytest.approx(float(group.attained(cross).sum()))
    assert best <= float(group.bound(cross).sum()) + 1e-9
    for other in elements(group.compact(), 50, seed):
        assert value(group, cross, other) <= best + 1e-9


@every_group
def test_of_a_moved_copy_it_finds_the_element(group: Group) -> None:
    b, (element,) = random(40, 6), elements(group.compact(), 1)
    cross = b.T @ group.act(b, 1, element)
    if isinstance(group, BLOCKED):
        starts = range(0, 6, group.size)
        cross = torch.stack([cross[i : i + group.size, i : i + group.size] for i in starts])
    assert torch.allclose(group.solve(cross), element)


@every_group
def test_its_motion_starts_at_the_identity_and_stays_inside(group: Group) -> None:
    motion = group.motion()
    if motion is None:
        return
    assert torch.allclose(motion().double(), group.identity(), atol=1e-6)
    with torch.no_grad():
        for number, parameter in enumerate(motion.parameters()):
            parameter.add_(0.3 * random(*parameter.shape, seed=number))
    element = motion.double()()
    assert not torch.allclose(element, group.identity(), atol=1e-2)
    if isinstance(group, Orthogonal):
        assert torch.allclose(element @ element.T, torch.eye(6).double(), atol=1e-9)
    if isinstance(group, OrthogonalKeepingOnes):
        assert torch.allclose(element.sum(1), torch.ones(6).double(), atol=1e-9)
    assert set(motion.matrices()) <= set(motion.parameters())


def test_a_permutation_takes_blocks_by_index() -> None:
    x = torch.arange(6.0)
    assert Permutation(3).act(x, 0, torch.tensor([2, 0, 1])).tolist() == [4.0, 5.0, 0.0, 1.0, 2.0, 3.0]
    assert Permutation(6).act(x, 0, torch.arange(5, -1, -1)).tolist() == [5.0, 4.0, 3.0, 2.0, 1.0, 0.0]


def test_a_signed_permutation_takes_entries_by_index_and_sign() -> None:
    assert SignedPermutation(3).act(torch.tensor([5.0, 6.0, 7.0]), 0, torch.tensor([-3, 1, 2])).tolist() == [-7, 5, 6]


@pytest.mark.parametrize("axis", [0, 1])
def test_matrices_act_on_row_vectors(axis: int) -> None:
    x, g = torch.randn(6, 6), torch.randn(6, 6)
    assert torch.allclose(Orthogonal(6).act(x, axis, g), x @ g if axis else g.T @ x, atol=1e-6)


def test_blocks_have_a_matrix_each() -> None:
    x, g = torch.randn(4, 6), torch.randn(3, 2, 2)
    expected = torch.cat([x[:, 2 * i : 2 * i + 2] @ g[i] for i in range(3)], dim=1)
    assert torch.allclose(Matrices(2, 3).act(x, 1, g), expected, atol=1e-6)


def test_balanced_factors_have_equal_singular_values_and_the_same_product() -> None:
    p, d = random(3, 9, 2), random(3, 7, 2, seed=1)
    left, right = Matrices(2, 3).balanced(p, d)
    assert torch.allclose(left @ right.mT, p @ d.mT)
    assert torch.allclose(torch.linalg.svdvals(left), torch.linalg.svdvals(right))
    again = Matrices(2, 3).balanced(left, right)
    assert torch.allclose(again[0], left)
    assert torch.allclose(again[1], right)


@pytest.mark.parametrize("group", [RotaryMatrices(6, 1, 4), RotaryMatrices(3, 2, 2)], ids=str)
def test_rotary_elements_commute_with_rotations_of_positions(group: RotaryMatrices) -> None:
    """Against transformers' own rotation, at every position; on keys by the inverse transpose."""
    from transformers.models.gpt_neox.modeling_gpt_neox import apply_rotary_pos_emb

    half = group.rotated // 2
    angles = torch.outer(torch.arange(5.0), 1 / 100 ** (torch.arange(half) / half)).double()
    cos, sin = (torch.cat([values, values], -1)[None] for values in (angles.cos(), angles.sin()))

    def turned(x: Tensor) -> Tensor:
        heads = x.unflatten(-1, (group.blocks, group.size)).transpose(1, 2)
        return apply_rotary_pos_emb(heads, heads, cos, sin)[0].transpose(1, 2).flatten(2)

    query, key, (element,) = random(1, 5, 6), random(1, 5, 6, seed=1), elements(group, 1)
    moved = group.act(query, 2, element), group.act(key, 2, element, dual=True)
    assert torch.allclose(turned(moved[0]), group.act(turned(query), 2, element))
    scores = [turned(q) @ turned(k).mT for q, k in ((query, key), moved)]
    assert torch.allclose(*scores)


def test_balanced_pairs_have_equal_norms_and_the_same_products() -> None:
    group, p, d = RotaryMatrices(6, 3, 4), random(3, 9, 6), random(3, 7, 6, seed=1)
    left, right = group.balanced(p, d)
    assert torch.allclose(left @ right.mT, p @ d.mT)
    pairs = [side[..., :4].unflatten(-1, (2, 2)).square().sum((1, 2)) for side in (left, right)]
    assert torch.allclose(*pairs)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 5))
def test_assignment_is_the_best_of_all_permutations(seed: int, size: int) -> None:
    similarity = random(size, size, seed=seed)
    total = lambda p: sum(similarity[p[i], i].item() for i in range(size))  # noqa: E731
    assert total(assignment(similarity).tolist()) == pytest.approx(max(map(total, permutations(range(size)))))


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 4))
def test_signed_assignment_is_the_best_of_all_signed_permutations(seed: int, size: int) -> None:
    cross, group = random(size, size, seed=seed), SignedPermutation(size)
    best = max(
        sum(sign * cross[p[i], i].item() for i, sign in enumerate(signs))
        for p in permutations(range(size))
        for signs in product((1, -1), repeat=size)
    )
    assert group.act(cross, 0, group.solve(cross)).trace().item() == pytest.approx(best)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6))
def test_procrustes_is_scipys(seed: int) -> None:
    a, b = random(9, 4, seed=seed), random(9, 4, seed=seed + 1)
    expected, _ = scipy.linalg.orthogonal_procrustes(b.numpy(), a.numpy())
    assert torch.allclose(procrustes(b.T @ a), torch.from_numpy(expected), atol=1e-9)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6))
def test_a_rotation_that_keeps_ones_beats_others_that_do(seed: int) -> None:
    cross, group = random(5, 5, seed=seed), OrthogonalKeepingOnes(5)
    best, ones = group.solve(cross), torch.ones(5, dtype=torch.float64)
    assert torch.allclose(best @ best.T, torch.eye(5, dtype=torch.float64), atol=1e-9)
    assert torch.allclose(best @ ones, ones, atol=1e-9)
    for other in elements(group, 50, seed):
        assert torch.allclose(other @ ones, ones, atol=1e-9)
        assert (other * cross).sum() <= (best * cross).sum() + 1e-9
