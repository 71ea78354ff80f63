"""Fisher information and moments of inputs against slow computations."""

from __future__ import annotations

import torch
from conftest import state_of, tiny_model
from torch.func import functional_call

from isthmus.align.families import family
from isthmus.checkpoint.model import empty_model, with_tied
from isthmus.merge.operators.statistics import fisher_diagonal, input_moments

SMALL = {"vocab_size": 11, "n_positions": 6, "n_embd": 8, "n_layer": 1, "n_head": 2, "n_inner": 8}


def test_fisher_is_that_of_the_definition() -> None:
    """Σ_y p(y|x) (∂ log p(y|x))² over every token and every y, against the mean of many draws."""
    model = tiny_model(0, **SMALL)
    state, config = state_of(model), model.config
    ids = torch.randint(11, (1, 6), generator=torch.Generator().manual_seed(1))
    weights = {name: value.clone().requires_grad_() for name, value in state.items()}
    empty = empty_model(config)
    log_probabilities = (
        functional_call(empty, with_tied(weights, empty), (ids,), {"use_cache": False}).logits[0].log_softmax(-1)
    )
    exact = dict.fromkeys(weights, torch.zeros(()))
    for row in log_probabilities:
        for one in row:
            gradients = torch.autograd.grad(one, list(weights.values()), retain_graph=True)
            for name, gradient in zip(weights, gradients, strict=True):
                exact[name] = exact[name] + one.exp().detach() * gradient.square() / 6
    draws = [fisher_diagonal(state, config, ids, seed=seed) for seed in range(300)]
    for name, value in exact.items():
        drawn = torch.stack([draw[name] for draw in draws])
        error = drawn.std(0) / 300**0.5
        assert ((drawn.mean(0) - value).abs() <= 6 * error + 1e-7).all(), name


def test_fisher_is_the_same_for_the_same_seed_and_per_token() -> None:
    model = tiny_model(0, **SMALL)
    ids = torch.randint(11, (4, 6), generator=torch.Generator().manual_seed(1))
    one, again, other = (fisher_diagonal(state_of(model), model.config, ids, seed=seed) for seed in (0, 0, 1))
    assert all(torch.equal(one[name], again[name]) for name in one)
    assert any(not torch.equal(one[name], other[name]) for name in one)
    assert all(value.isfinite().all() and (value >= 0).all() for value in one.values())


def test_moments_are_those_of_what_goes_into_the_modules() -> None:
    model = tiny_model(0)
    state, ids = state_of(model), torch.randint(128, (3, 16), generator=torch.Generator().manual_seed(1))
    seen: dict[str, list[torch.Tensor]] = {}
    for name, module in model.named_modules():
        if type(module).__name__ in ("Conv1D", "Linear"):
            module.register_forward_hook(
                lambda module, inputs, output, name=name: seen.setdefault(name, []).append(inputs[0].flatten(0, -2))
            )
    with torch.no_grad():
        model(ids)
    moments = input_moments(state, model.config, family(model.config), ids)
    wanted = {f"{name}.weight" for name in seen if name != "lm_head"}
    assert wanted <= moments.keys(), "every map between hidden vectors"
    for name in wanted:
        vectors = torch.cat(seen[name.removesuffix(".weight")]).double()
        assert torch.allclose(moments[name].gram, vectors.T @ vectors / 48, atol=1e-5)
        assert moments[name].axis == 0, "Conv1D has its inputs first"
        assert moments[name].gram.shape[0] == state[name].shape[0]
