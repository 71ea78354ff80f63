"""What operators want to know of a model's behaviour on text: Fisher information, second moments of hidden inputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.func import functional_call

from ...align.activations import captured
from ...align.symmetry import Family, State
from ...checkpoint.model import PADDING, arguments, empty_model, with_tied
from ...eval.targets import is_labelled, is_masked, scores, shown

if TYPE_CHECKING:
    from transformers import PretrainedConfig


def fisher_diagonal(
    state: Mapping[str, Tensor],
    config: PretrainedConfig,
    blocks: Tensor,
    *,
    seed: int = 0,
    device: str = "cpu",
    on_block: Callable[[], None] = lambda: None,
) -> State:
    """The diagonal of the Fisher information per token, tensor by tensor, float32, on blocks of text (blocks, context).

    F = E_x E_{y ~ p(·|x)} [(∂ log p(y|x) / ∂θ)²], with one y drawn for every token: given the text, the gradients of
    different tokens are independent and have mean 0, so that the squared gradient of a block's sum is an unbiased
    estimate of the sum over its tokens (Martens 2020, arXiv 1412.1193). Of masked language models, over those that are
    hidden in the blocks; of classifiers, over their labels.
    """
    model, generator = empty_model(config), torch.Generator().manual_seed(seed)
    weights = {name: state[name].detach().to(device, torch.float32).requires_grad_() for name in state}
    total = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    tokens = 0
    for block in blocks.split(1):
        given = arguments(model, shown(block).to(device))
        logits = functional_call(model, with_tied(weights, model), (), given).logits
        asked = is_masked(block) or is_labelled(block)
        logits = (scores(logits, block) if asked else logits)[0].float()
        tokens += len(logits)
        drawn = torch.multinomial(logits.detach().softmax(-1).cpu(), 1, generator=generator).to(device)
        log_likelihood = logits.log_softmax(-1).gather(1, drawn).sum()
        gradients = torch.autograd.grad(log_likelihood, list(weights.values()), allow_unused=True)
        for name, gradient in zip(weights, gradients, strict=True):
            if gradient is not None:  # else the model does not read it
                total[name].addcmul_(gradient, gradient)
        on_block()
    return {name: (squares / tokens).cpu() for name, squares in total.items()}


@dataclass(frozen=True)
class Inputs:
    """The inputs of a linear map: G = Σ over tokens xᵀ x / tokens, float64, along `axis` of its weight."""

    gram: Tensor
    axis: int


@torch.no_grad()
def input_moments(
    state: Mapping[str, Tensor],
    config: PretrainedConfig,
    table: Family,
    ids: Tensor,
    *,
    on_block: Callable[[], None] = lambda: None,
) -> dict[str, Inputs]:
    """Second moments of what goes into the linear maps that the table shows, by the name of their weight."""
    model = empty_model(config)
    full = with_tied({name: state[name] for name in state}, model)
    sums: dict[str, Inputs] = {}
    tokens = int((ids != PADDING).sum())
    with captured(model, table.maps) as seen:
        for block in ids:
            functional_call(model, dict(full), (), arguments(model, block[None]))
            for place, vectors in seen.items():
                before = sums[place.weight].gram if place.weight in sums else 0
                sums[place.weight] = Inputs(before + (vectors.mT @ vectors).double() / tokens, place.axis)
            on_block()
    return sums
