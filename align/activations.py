"""Activation matching: how the hidden activations of two models go together on the same text.

For every space, C = Σ over tokens of (h_B − mean)ᵀ (h_A − mean), rows B, columns A: what weight matching takes from
products of weights, taken from what the weights do (Li et al. 2015, arXiv 1511.07543; Ainsworth et al. 2023, arXiv
2209.04836). Only these sums are kept, no activation is stored.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from operator import add
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor
from torch.func import functional_call

from ..checkpoint.model import arguments, empty_model, streamed_model, unpadded, with_tied
from .symmetry import Family
from .table_entries import Activation, LinearMap

if TYPE_CHECKING:
    from transformers import PretrainedConfig

TOKENS_AT_ONCE = 1024


def cross_correlations(
    a: Mapping[str, Tensor],
    b: Mapping[str, Tensor],
    config: PretrainedConfig,
    table: Family,
    ids: Tensor,
    *,
    stream: bool = False,
) -> dict[str, Tensor]:
    """C of every space, divided by the root of the product of both models' total variances: a share of at most 1.

    `a` and `b` are states of configuration `config`, in canonical form where the stream is to be rotated; `ids` token
    ids (blocks, context). For a space that is seen in several places, C and its bound are sums over them. Returns
    space → (n, n), float64; zeros for a space without variance. With `stream`, weights are looked up when their module
    runs, and dropped.
    """
    sums: dict[Activation, tuple[int | Tensor, ...]] = {}
    models = [streamed_model(state, config) if stream else empty_model(config) for state in (a, b)]
    full = [{} if stream else with_tied(state, model) for state, model in zip((a, b), models, strict=True)]
    rows = max(1, TOKENS_AT_ONCE // ids.shape[1])
    places = table.activations
    with captured(models[0], places) as seen_a, captured(models[1], places) as seen_b, torch.no_grad():
        for part in unpadded(ids, rows):
            for model, state in zip(models, full, strict=True):
                functional_call(model, dict(state), (), arguments(model, part))
            for place in places:
                new = _sums(seen_a.pop(place), seen_b.pop(place))
                sums[place] = tuple(map(add, sums[place], new)) if place in sums else new
    crosses: dict[str, Tensor] = {}
    bounds: dict[str, float] = {}
    for place, totals in sums.items():
        cross, bound = _covariance(totals)
        crosses[place.space] = crosses.get(place.space, 0) + cross
        bounds[place.space] = bounds.get(place.space, 0.0) + bound
    return {space: cross / (bounds[space] or 1.0) for space, cross in crosses.items()}


def _sums(a: Tensor, b: Tensor) -> tuple[int | Tensor, ...]:
    """Of vectors (tokens, n) of A and of B: their number, their products, their sums, and the sums of their squares."""
    exact = a.double(), b.double()
    return a.shape[0], b.mT @ a, *(one.sum(0) for one in exact), *(one.square().sum() for one in exact)


def _covariance(totals: Sequence[int | Tensor]) -> tuple[Tensor, float]:
    """C, and the root of the product of the variances, from the totals of `_sums`."""
    count, products, *moments = map(torch.as_tensor, totals)
    sums, squares = moments[:2], moments[2:]
    cross = products.double() - torch.outer(sums[1], sums[0]) / count
    variances = [
        (square - total.square().sum() / count).clamp_min(0) for square, total in zip(squares, sums, strict=True)
    ]
    return cross, float((variances[0] * variances[1]).sqrt())


P = TypeVar("P", Activation, LinearMap)


@contextmanager
def captured(model: torch.nn.Module, places: Iterable[P]) -> Iterator[dict[P, Tensor]]:
    """While it lasts, every forward pass leaves its vectors, (tokens, n) by place, in the dictionary."""
    seen: dict[P, Tensor] = {}

    def keep(place: P, module: torch.nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        vectors = (inputs[0] if place.side == "input" else output).flatten(0, -2)
        seen[place] = vectors if place.view is None else place.view.of(vectors)

    handles = [model.get_submodule(place.module).register_forward_hook(partial(keep, place)) for place in places]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()
