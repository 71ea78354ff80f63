"""The largest entries of tensors in blocks against a sort, and masks that are made once or twice."""

from __future__ import annotations

import pytest
import torch
from operating import cut, run, tensors

from isthmus.merge.operators import masks
from isthmus.merge.operators.masks import cuts, in_order, keep


def rounded(*shape: int) -> torch.Tensor:
    """Numbers of both signs and zeros, many of them equal, beside some that differ in their last bits only."""
    (numbers,) = tensors(1, *shape)
    numbers[::2] = (numbers[::2] * 4).round() / 4
    numbers[1::4] = 0.3 + numbers[1::4] * 1e-6
    return numbers


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.5, 0.99, 1.0])
def test_cuts_keep_the_largest_magnitudes_exactly(share: float) -> None:
    numbers = rounded(40, 9)
    blocks = cut([numbers, numbers.neg()], 7)
    several = [[lambda entries, _: int(share * entries), lambda _, filled: filled]] * 2
    for (first, filled), place in zip(cuts(blocks, several), (0, 1), strict=True):
        tied, kept, at_least = 0, [], []
        for parts in blocks:
            mask, tied = first.mask(parts[place], tied)
            kept.append(mask)
            at_least.append(filled.mask(parts[place], 0)[0])
        chosen = torch.cat(kept)
        assert int(chosen.sum()) == int(share * numbers.numel())
        expected = numbers.abs().flatten().sort(descending=True).values[: int(share * numbers.numel())]
        assert torch.equal(numbers[chosen].abs().sort(descending=True).values, expected)
        assert torch.equal(torch.cat(at_least), numbers != 0)


def test_values_of_numbers_of_both_signs_by_rank() -> None:
    numbers = rounded(31, 8)
    ranks = (1, 60, 124, 200, 248)
    (chosen,) = cuts(cut([numbers], 3), [[lambda _, __, rank=rank: rank for rank in ranks]], in_order)
    ordered = numbers.flatten().sort(descending=True).values
    assert [one.value for one in chosen] == [float(ordered[rank - 1]) for rank in ranks]
    assert chosen[0].value > 0 > chosen[-1].value


def test_keep_sets_the_others_to_zero_in_place() -> None:
    block, mask = torch.tensor([[1.0, -2.0], [3.0, 4.0]]), torch.tensor([[True, False], [False, True]])
    assert keep(block, mask) is block
    assert torch.equal(block, torch.tensor([[1.0, 0.0], [0.0, 4.0]]))


@pytest.mark.parametrize("name", ["dare_linear", "dare_ties", "della", "della_linear", "ties", "breadcrumbs", "sce"])
@pytest.mark.parametrize("shape", [(12, 7), (6, 5, 3), (90,)])
def test_masks_that_are_too_many_to_keep_are_made_again(
    name: str, shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = tensors(4, *shape)
    values = {"weight": [0.5, 0.3, 1.0], "density": [0.4, 1.0, 0.6], "select_topk": 0.4, "rescale": True}
    once = run(name, parts, 4, **values)
    for most in (0, parts[0].numel() - 5):  # none are kept, and those of the first blocks until they are too many
        monkeypatch.setattr(masks, "WORTH_KEEPING", most)
        assert torch.equal(run(name, parts, 4, **values), once)
