from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest
import torch
from conftest import EMBEDDED
from token_blocks import labelled_blocks
from torch import Tensor

from isthmus.checkpoint.loading import load
from isthmus.eval.barrier import profile
from isthmus.eval.loss import Losses, LossMeter
from isthmus.merge.path import WeightPath
from isthmus.merge.search import Search, grid

BLOCKS = 64


class Surface:
    """A loss with a known shape: loss(t) plus a level of every block's own plus noise of every block and t."""

    def __init__(self, shape: Callable[[float], float], noise: float, seed: int = 0):
        self.shape, self.noise, self.seed, self.passes = shape, noise, seed, 0
        numbers = torch.arange(BLOCKS)[:, None]
        self.blocks = {"x": numbers, "y": numbers + BLOCKS}

    def __call__(self, state: Mapping[str, Tensor], blocks: Mapping[str, Tensor] | None = None) -> Losses:
        t, losses = float(state["t"]), {}
        for label, numbers in (blocks or self.blocks).items():
            self.passes += numbers.shape[0]
            own = torch.randn(2 * BLOCKS, generator=torch.Generator().manual_seed(self.seed)).double()
            here = torch.Generator().manual_seed(int(1000 * t) + 7919 * (self.seed + 1))
            noise = self.noise * torch.randn(2 * BLOCKS, generator=here).double()
            losses[label] = self.shape(t) + (own + noise)[numbers.flatten()]
        return Losses(losses)


def along(t: float) -> dict[str, Tensor]:
    return {"t": torch.tensor(t, dtype=torch.float64)}


SHAPES: dict[str, Callable[[float], float]] = {
    "valley": lambda t: 3 + (t - 0.3) ** 2,
    "hill": lambda t: 3 + 2 * t * (1 - t) + 0.2 * t,
    "two valleys": lambda t: 3 + 0.3 * abs(abs(t - 0.5) - 0.25),
    "falls to the end": lambda t: 3 - t,
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("seed", range(5))
def test_the_choice_of_the_whole_grid_in_half_the_passes(shape: str, seed: int) -> None:
    surface = Surface(SHAPES[shape], noise=0.02, seed=seed)
    whole = {t: surface(along(t)).mean for t in grid()}
    everything, surface.passes = surface.passes, 0
    t = Search(along, surface).settle("mean", 0.1)  # type: ignore[arg-type]
    best = min(grid()[1:-1], key=whole.__getitem__)
    assert t == best or surface.shape(t) < surface.shape(best)  # half-way points may be lower still
    assert surface.passes < everything / 2


def test_a_flat_curve_is_settled_by_all_blocks_if_need_be() -> None:
    surface = Surface(lambda t: 3.0, noise=0.5)
    search = Search(along, surface)  # type: ignore[arg-type]
    t = search.settle("mean", 0.1)
    assert 0.1 <= t <= 0.9
    deepest = max(losses.per_block["x"].numel() for _, losses in search.profile.points)
    assert deepest > BLOCKS // 4


def test_the_barrier_is_that_of_the_whole_grid() -> None:
    surface = Surface(SHAPES["hill"], noise=0.0)
    search = Search(along, surface)  # type: ignore[arg-type]
    search.explore()
    assert search.barrier == pytest.approx(0.5, abs=1e-9)


def test_one_path_is_lower_than_another_only_beyond_the_noise() -> None:
    def begun(height: float, seed: int) -> Search:
        search = Search(along, Surface(lambda t: 3 + height * 4 * t * (1 - t), noise=0.1, seed=seed))  # type: ignore[arg-type]
        search.explore()
        return search

    assert begun(0.2, 0).lower_than(begun(0.8, 1))
    assert not begun(0.8, 0).lower_than(begun(0.2, 1))
    assert not begun(0.500, 0).lower_than(begun(0.501, 1))


def test_the_worst_objective_looks_at_both_ends() -> None:
    surface = Surface(SHAPES["valley"], noise=0.01)
    assert Search(along, surface).settle("worst", 0.1) in (0.4, 0.45, 0.5, 0.55, 0.6)  # type: ignore[arg-type]


def test_on_real_models_it_chooses_as_the_whole_grid_does() -> None:
    docs, code = load(EMBEDDED / "docs"), load(EMBEDDED / "code")
    text = labelled_blocks(
        ("stdlib:docs:heldout", "stdlib:code:heldout"),
        docs.tokenizer(),
        context=128,
        vocabulary=1024,
        select_tokens=4096,
        report_tokens=0,
    )
    passes = 0

    def count(blocks: int) -> None:
        nonlocal passes
        passes += blocks

    meter = LossMeter(docs.config, {part.label: part.select for part in text}, on_blocks=count)
    line = WeightPath("linear", dict(docs.state), dict(code.state))
    whole = profile(line, meter, grid())
    everything, passes = passes, 0
    t = Search(line, meter).settle("mean", 0.1)
    assert passes < everything / 2
    best = min((t for t in grid() if 0 < t < 1), key=lambda t: whole.at(t).mean)
    assert t == best


def test_flat_is_within_the_noise() -> None:
    flat, hill = (Search(along, Surface(SHAPES[shape], noise=0.02)) for shape in ("falls to the end", "hill"))  # type: ignore[arg-type]
    for search in (flat, hill):
        search.explore()
    assert flat.is_flat
    assert not hill.is_flat


@pytest.mark.parametrize("seed", range(5))
def test_which_barrier_is_higher_is_what_all_blocks_say(seed: int) -> None:
    """Two hills that a quarter of the blocks cannot tell apart; on all of them the comparison is exact, both ways."""
    shapes = [lambda t, h=h: 3 + h * t * (1 - t) for h in (0.4, 0.402)]  # type: ignore[misc]
    first, second = (Search(along, Surface(shape, 0.05, seed + n)) for n, shape in enumerate(shapes))  # type: ignore[arg-type]
    for search in (first, second):
        search.explore()
    ts = [[t for t, _ in search.profile.points] for search in (first, second)]
    exact = [profile(along, s.meter, points).barrier for s, points in zip((first, second), ts, strict=True)]  # type: ignore[arg-type]
    assert first.no_higher_than(second) == (exact[0] <= exact[1])
    assert second.no_higher_than(first) == (exact[1] <= exact[0])
