"""Losses through accelerate's device map are those of the model in memory, wherever its layers lie."""

from __future__ import annotations

import pytest
import torch
from conftest import tiny_config

from isthmus.checkpoint.errors import BadInput
from isthmus.checkpoint.loading import load
from isthmus.eval.loss import LossMeter
from isthmus.eval.offloaded_loss import bytes_of, offloaded_token_losses

BLOCKS = {
    label: torch.randint(tiny_config().vocab_size, (3, 32), generator=torch.Generator().manual_seed(seed))
    for seed, label in enumerate(("a", "b"))
}


@pytest.mark.parametrize("memory", [10**9, 60_000, 1_000])
def test_losses_do_not_depend_on_where_layers_lie(saved, memory: int) -> None:
    """All in memory, some of them, and none but the one whose turn it is."""
    checkpoint = load(saved("model"))
    seen = []
    losses = offloaded_token_losses(checkpoint.directory, BLOCKS, memory, on_blocks=seen.append)
    expected = LossMeter(checkpoint.config, BLOCKS).token_losses(checkpoint.state)
    assert all(torch.allclose(losses[label], expected[label], atol=1e-5) for label in BLOCKS)
    assert sum(seen) == 6


@pytest.mark.parametrize(
    ("size", "expected"), [("6GB", 6 * 10**9), ("1.5 g", 1_500_000_000), ("500MiB", 500 * 10**6), ("123", 123)]
)
def test_sizes(size: str, expected: int) -> None:
    assert bytes_of(size) == expected


@pytest.mark.parametrize("size", ["", "much", "-1GB", "6 giga"])
def test_what_is_no_size(size: str) -> None:
    with pytest.raises(BadInput, match="a size such as 6GB"):
        bytes_of(size)
