"""Recipes from options, and what they come to tensor by tensor."""

from __future__ import annotations

import pytest

from isthmus.checkpoint.errors import BadInput
from isthmus.checkpoint.layers import Stack
from isthmus.merge.recipes.recipe import Setting, recipe

NAMES = ["wte", "h.0.a", "h.1.a", "h.2.a", "ln_f"]


def test_weights_for_all_and_for_each() -> None:
    assert recipe("linear", ["a", "b"]).values(NAMES)["wte"] == {"weight": [1.0, 1.0], "normalize": True}
    one = recipe("linear", ["a", "b"], weights=[[0.3]])
    assert one.values(NAMES)["wte"]["weight"] == [0.3, 0.3]
    each = recipe("linear", ["a", "b"], weights=[[0.3], [0.1, 0.9]])
    assert [given["weight"] for given in each.values(NAMES).values()] == [
        [0.3, 0.1],
        [0.3, 0.1],
        [0.3, 0.5],
        [0.3, 0.9],
        [0.3, 0.1],
    ]


def test_a_model_of_one_layer_is_at_the_end_of_a_gradient() -> None:
    values = recipe("linear", ["a", "b"], weights=[[0.5, 1.0]]).values(["wte", "h.0.a"])
    assert (values["wte"]["weight"], values["h.0.a"]["weight"]) == ([0.5, 0.5], [1.0, 1.0])


def test_a_gradient_of_flags_takes_the_nearest_below() -> None:
    flags = Setting.of(True, False)
    assert [flags.at("x", depth) for depth in (0, 0.4, 1)] == [True, True, False]


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        ([[1.0], [3.0]], [0.25, 0.75]),
        ([[0.5]], [0.5, 0.5]),
        ([[1.0, 0.0]], None),
        ([[1.0], [-1.0]], None),
        ([[0.0]], None),
    ],
)
def test_shares_of_plain_weights(weights: list[list[float]], expected: list[float] | None) -> None:
    assert recipe("linear", ["a", "b"], weights=weights).plain_weights() == expected


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("average", {}, "there is no method 'average'"),
        ("ties", {}, "give --base"),
        ("linear", {"base": "c"}, "takes no --base"),
        ("slerp", {}, "needs --t"),
        ("slerp", {"t": 2.0}, "from 0 to 1"),
        ("karcher", {"weights": [[1.0]]}, "takes no --weight"),
        ("linear", {"scale": 1.0}, "takes no --lambda"),
        ("linear", {"densities": [[0.5]]}, "takes no --density"),
        ("linear", {"weights": [[1.0], [1.0], [1.0]]}, "once for each of the 2"),
        ("ties", {"base": "c", "densities": [[-1.0]]}, "from 0 to 1"),
    ],
)
def test_options_that_make_no_recipe(method: str, options: dict[str, object], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        recipe(method, ["a", "b"], **options)


def test_the_layer_of_a_tensor_is_the_number_in_the_largest_group_of_names() -> None:
    stack = Stack.of(["wte", *(f"h.{layer}.{part}.weight" for layer in range(12) for part in "ab"), "head.0.weight"])
    assert (stack.prefix, stack.count) == ("h.", 12)
    assert [stack.layer(name) for name in ("h.11.a.weight", "wte", "head.0.weight")] == [11, None, None]
    assert stack.at("h.3.a.weight", 7) == "h.7.a.weight"
    assert Stack.of(["wte", "ln_f"]).count == 0
