from __future__ import annotations

from functools import partial
from itertools import permutations

import pytest
import torch
from conftest import state_of
from group import random_elements
from scipy.optimize import linear_sum_assignment
from tiny_models import tiny_rotary
from transformers import MixtralForCausalLM

from isthmus.align.canonical import canonical
from isthmus.align.experts import Experts
from isthmus.align.families import family
from isthmus.align.symmetry import State

make = partial(tiny_rotary, MixtralForCausalLM, num_local_experts=3, intermediate_size=6, num_hidden_layers=1)
TABLE = family(make().config).untied()
EXPERTS = Experts.of(TABLE, "layers.0.experts", "layers.0.neurons")
NAMES = ("layers.0.experts.gate", "layers.0.experts.up", "layers.0.experts.down")


def pieces(seed: int) -> State:
    model = make(seed)
    return TABLE.split(canonical(state_of(model), family(model.config)))


def routed(a: State, b: State) -> torch.Tensor:
    return b["layers.0.router"] @ a["layers.0.router"].T


def attained(a: State, b: State, order: tuple[int, ...]) -> tuple[float, float]:
    """What experts of B attain in an order, by one assignment after another; and its upper bound."""
    total, most = 0.0, 0.0
    rows = {name: TABLE.pieces[name] for name in NAMES}
    for j, i in enumerate(order):
        likeness = {}
        for name in rows:
            axis = 0 if name != NAMES[2] else 1
            mine, other = (side[name].movedim(axis, 0).reshape(3, 6, -1) for side in (b, a))
            likeness[name] = mine[i] @ other[j].T
        similar = likeness[NAMES[0]] + (likeness[NAMES[1]] + likeness[NAMES[2]]).abs()
        chosen = linear_sum_assignment(-similar.double().numpy())
        total += float(similar[chosen].sum()) + float(routed(a, b)[i, j])
        most += float(similar.max(0).values.sum()) + float(routed(a, b)[i, j])
    return total, most


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_neurons_are_assigned_and_experts_chosen_by_the_bound(seed: int) -> None:
    """Against all orders of experts, each with scipy's assignments."""
    a, b = pieces(0), pieces(seed)
    elements, value = EXPERTS.solve(TABLE, a, b, routed(a, b))
    by_bound = max(permutations(range(3)), key=lambda order: attained(a, b, order)[1])
    assert tuple(elements["layers.0.experts"].tolist()) == by_bound
    assert value == pytest.approx(attained(a, b, by_bound)[0], rel=1e-5)
    moved = {name: TABLE.act(name, b[name], elements) for name in (*NAMES, "layers.0.router")}
    reached = sum(float((a[name] * moved[name]).sum()) for name in moved)
    assert reached == pytest.approx(value, rel=1e-5), "the elements attain it"


def test_a_moved_copy_is_found_again_without_the_router() -> None:
    a = pieces(0)
    there = random_elements(TABLE, "orthogonal", 3)
    inside = {name: there[name] for name in (EXPERTS.space, EXPERTS.neurons, *EXPERTS.scales)}
    b = {name: TABLE.act(name, a[name], inside) for name in NAMES}
    elements, _ = EXPERTS.solve(TABLE, {name: a[name] for name in NAMES}, b, None)
    for name in NAMES:
        assert torch.allclose(TABLE.act(name, b[name], elements), a[name], atol=1e-6)
