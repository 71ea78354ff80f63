"""Least squares after averaging: the maps that write to the residual stream, fitted to what the models write there.

Averaged weights do not compute the average of what the weights computed, and every layer reads what the ones before it
got wrong. For every linear map that writes to the stream, from the first to the last, with the inputs X (tokens, n)
that it has in the merge,

    W = argmin ‖X W − T‖² + ridge · m ‖W − W₀‖²,   T = Σ w_i Y_i − E,

where W₀ is the average, with its bias as one more row; Y_i (tokens, width) is what the same map of model i writes for
the same text; E is the error of all maps before, X W − Σ w_i Y_i summed over them, so that a map makes up for those; m
is the mean of the diagonal of XᵀX. At an end of a path nothing is left to fit, and the end stays as it is.

Fitting a merge's maps by least squares is RegMean (Jin et al. 2023, arXiv 2212.09849), on the merge's own inputs
RegMean++ (Nguyen et al. 2025, arXiv 2508.03121); theirs have a target for each map by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.func import functional_call

from ..align.groups import Orthogonal
from ..align.symmetry import Family
from ..align.table_entries import LinearMap
from ..checkpoint.errors import UnsupportedFamily
from ..checkpoint.model import arguments, empty_model, with_tied
from ..checkpoint.task import CAUSAL

if TYPE_CHECKING:
    from transformers import PretrainedConfig

RIDGE = 0.01


def refitted(
    state: Mapping[str, Tensor],
    ends: Sequence[Mapping[str, Tensor]],
    shares: Sequence[float],
    config: PretrainedConfig,
    table: Family,
    ids: Tensor,
    *,
    on_pass: Callable[[], None] = lambda: None,
) -> dict[str, Tensor]:
    """The average `state` of aligned `ends`, weighted by `shares`, fitted on token ids (blocks, context); float32.

    One forward pass of every end and one of the average, all blocks at once; `on_pass` is called after each.

    Raises UnsupportedFamily where layers do not write straight to the stream, or what is read is no plain text.
    """
    maps, means = stream_maps(table), dict[str, Tensor]()
    for end, share in zip(ends, shares, strict=True):

        def sum_up(linear: LinearMap, _: Tensor, output: Tensor, share: float = share) -> None:
            name = linear.module
            means[name] = means[name].add_(output, alpha=share) if name in means else share * output

        _read(end, config, table, ids, maps, sum_up)
        on_pass()
    fitted = {name: state[name] for name in state}
    error = torch.zeros(())

    def fit(linear: LinearMap, inputs: Tensor, output: Tensor) -> Tensor:
        nonlocal error
        mean, bias = means.pop(linear.module), f"{linear.module}.bias"
        weight = fitted[linear.weight] if linear.axis == 0 else fitted[linear.weight].T  # (inputs, outputs)
        change = _ridge(inputs, mean - error - output, with_bias=bias in fitted)
        if bias in fitted:
            fitted[bias] = fitted[bias] + change[-1]
            output = output + change[-1]
        change = change[: len(weight)]
        moved = weight + change
        fitted[linear.weight] = (moved if linear.axis == 0 else moved.T).contiguous()
        output = output + inputs @ change
        error = error + output - mean
        return output

    _read(state, config, table, ids, maps, fit)
    on_pass()
    return fitted


def _ridge(inputs: Tensor, residual: Tensor, *, with_bias: bool) -> Tensor:
    """The change D of a map, (inputs, outputs), that minimises ‖X D − residual‖² + ridge m ‖D‖²; solved in float64."""
    x = inputs.double()
    if with_bias:
        x = torch.column_stack([x, torch.ones(len(x), dtype=x.dtype)])
    gram = x.T @ x
    gram.diagonal().add_(RIDGE * gram.diagonal().mean())
    return torch.cholesky_solve(x.T @ residual.double(), torch.linalg.cholesky(gram)).float()


@torch.no_grad()
def _read(
    state: Mapping[str, Tensor],
    config: PretrainedConfig,
    table: Family,
    ids: Tensor,
    maps: Sequence[LinearMap],
    on_output: Callable[[LinearMap, Tensor, Tensor], Tensor | None],
) -> None:
    """Run a state on all blocks at once, without its head: what goes into every map and comes out, (tokens, n), in the
    order of the layers. A tensor that `on_output` returns is what the layers after it read.
    """
    model = empty_model(config)
    full = with_tied(state, model)

    def hook(linear: LinearMap, _: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
        changed = on_output(linear, inputs[0].flatten(0, -2), output.flatten(0, -2))
        return None if changed is None else changed.view_as(output)

    handles = [model.get_submodule(one.module).register_forward_hook(partial(hook, one)) for one in maps]
    try:
        prefix = f"{table.prefix}."
        body = model.get_submodule(table.prefix)
        own = {name.removeprefix(prefix): tensor for name, tensor in full.items() if name.startswith(prefix)}
        functional_call(body, own, (), arguments(model, ids))
    finally:
        for handle in handles:
            handle.remove()


def stream_maps(table: Family) -> tuple[LinearMap, ...]:
    """The linear maps that write to the residual stream; raises UnsupportedFamily as `refitted` does."""
    if not isinstance(table.spaces[table.stream].group, Orthogonal) or table.task != CAUSAL:
        raise UnsupportedFamily("--refit is for language models whose layers write straight to the residual stream")
    written = {table.pieces[name].parameter for name, _ in table.writers}
    return tuple(linear for linear in table.maps if linear.weight in written)
