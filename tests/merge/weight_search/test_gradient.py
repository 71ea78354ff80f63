"""The gradient of the loss by the weights of a merge, and what is learned along it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from classifiers import labelled, saved_classifier
from conftest import state_of, tiny_config, tiny_model
from torch import Tensor

from isthmus.align.families import family
from isthmus.checkpoint.errors import TooLittleText
from isthmus.checkpoint.loading import load
from isthmus.eval.labelled_text import LabelledText
from isthmus.eval.loss import LossMeter
from isthmus.eval.targets import shown
from isthmus.merge.operators.statistics import fisher_diagonal, input_moments
from isthmus.merge.plans import SearchPlan
from isthmus.merge.recipes.recipe import Recipe, recipe
from isthmus.merge.weight_search.gradient import LossGradient, batches, learn_weights, table_gradient
from isthmus.merge.weight_search.objective import Evaluations, MergeWithWeights
from isthmus.merge.weight_search.weight_table import WeightSpace

STEP = 5e-3
FACTORS = torch.tensor([0.5, 1.0, -4.0, -0.1])
BASED = ("task_arithmetic", "ties", "dare_linear", "dare_ties")


def close_models(count: int) -> list[dict[str, Tensor]]:
    """A random model, and others a little away from it, whose task vectors agree in sign or differ much in size.

    So no weights near to equal ones change a sign that TIES elects.
    """
    base, generator = state_of(tiny_model(0)), torch.Generator().manual_seed(7)
    first = {k: 0.1 * torch.randn(v.shape, generator=generator) for k, v in base.items()}
    states = [{k: v + first[k] for k, v in base.items()}]
    for _ in range(count - 1):
        factors = {k: FACTORS[torch.randint(4, v.shape, generator=generator)] for k, v in base.items()}
        states.append({k: v + factors[k] * first[k] for k, v in base.items()})
    return [base, *states]


def merge_of(method: str, granularity: Any, models: int = 2) -> MergeWithWeights:
    states = close_models(models)
    given = states if method in BASED else states[1:]
    names = [f"m{number}" for number in range(models)]
    densities = [[0.5]] if method in BASED[1:] else []
    t = 0.5 if method == "slerp" else None
    asked = recipe(method, names, base="base" if method in BASED else None, densities=densities, t=t)
    config, blocks = tiny_config(), torch.randint(0, 128, (3, 16), generator=torch.Generator().manual_seed(3))
    statistics: list[Mapping[str, Any]] = []
    if method == "fisher":
        statistics = [fisher_diagonal(state, config, blocks) for state in given]
    if method == "regmean":
        statistics = [input_moments(state, config, family(config), shown(blocks)) for state in given]
    return MergeWithWeights(WeightSpace.of(asked, list(states[0]), granularity), tuple(given), statistics)


@pytest.mark.parametrize("method", ["linear", "slerp", "fisher", "regmean", *BASED])
def test_the_gradient_is_what_differences_of_the_loss_are(method: str) -> None:
    """By layer; the signs that TIES elects and the entries that are kept change nowhere by so small a step."""
    merge, config = merge_of(method, "layer"), tiny_config()
    rows = torch.randint(0, 128, (4, 16), generator=torch.Generator().manual_seed(5))
    meter = LossMeter(config, {"text": rows})
    start = torch.tensor([[0.6, 0.4], [0.45, 0.55], [0.3, 0.7]], dtype=torch.float64)

    def loss(table: Tensor) -> float:
        return meter(merge(tuple(map(tuple, table.tolist())))).mean

    merged = merge(tuple(map(tuple, start.tolist())))
    mean, gradient = LossGradient(config, "cpu")({name: merged[name] for name in merged}, rows)
    assert mean == pytest.approx(loss(start), abs=1e-5)
    exact = table_gradient(merged, gradient, merge.space.groups, start.shape)
    for group in range(3):
        for model in range(2):
            if method == "slerp" and model == 0:
                assert exact[group, model] == 0
                continue
            step = torch.zeros_like(start)
            step[group, model] = STEP
            if method == "slerp":
                step[group, 0] = -STEP
            difference = (loss(start + step) - loss(start - step)) / (2 * STEP)
            assert exact[group, model].item() == pytest.approx(difference, rel=0.05, abs=2e-3)


def text_learned_by(state: Mapping[str, Tensor], blocks: int) -> Tensor:
    """Text of a model's own: its likeliest tokens after a random one."""
    ids = torch.randint(0, 128, (blocks, 1), generator=torch.Generator().manual_seed(blocks))
    model = tiny_model(0)
    model.load_state_dict(dict(state), strict=False)
    with torch.no_grad():
        for _ in range(15):
            ids = torch.cat([ids, model(ids).logits[:, -1:].argmax(-1)], 1)
    return ids


@pytest.mark.parametrize("method", ["linear", "task_arithmetic", "slerp"])
@pytest.mark.parametrize("granularity", ["model", "matrix"])
def test_weights_go_to_the_model_that_knows_the_text(method: str, granularity: Any) -> None:
    merge = merge_of(method, granularity)
    knows = merge.states[-1]
    fit, select = {"text": text_learned_by(knows, 40)}, {"text": text_learned_by(knows, 24)}
    meter = LossMeter(tiny_config(), select)
    plan = SearchPlan("gradient", granularity, steps=30, batch=8)
    tried = []
    for _ in range(2):
        evaluations = Evaluations(merge.scored(meter))
        learn_weights(merge, evaluations, fit, tiny_config(), plan, seed=1, device="cpu")
        tried.append(evaluations)
    first, again = tried
    assert first.scores.keys() == again.scores.keys(), "the same seed, the same weights"
    assert first(first.best).mean < first(merge.space.equal()).mean - 0.01
    means = torch.tensor(first.best).mean(0)
    assert means[1] > means[0] + 0.05
    if method != "task_arithmetic":
        assert torch.tensor(first.best).sum(1).tolist() == pytest.approx([1.0] * len(first.best), abs=1e-5)


def test_a_text_that_asks_for_nothing_keeps_equal_weights() -> None:
    """The start is among what is chosen from: nothing is taken that is worse on the select text."""
    merge = merge_of("linear", "matrix")
    fit = {"text": text_learned_by(merge.states[-1], 40)}
    meter = LossMeter(tiny_config(), {"text": text_learned_by(merge.states[0], 24)})
    evaluations = Evaluations(merge.scored(meter))
    learn_weights(
        merge, evaluations, fit, tiny_config(), SearchPlan("gradient", "matrix", steps=12), seed=0, device="cpu"
    )
    assert evaluations(evaluations.best).mean <= evaluations(merge.space.equal()).mean


def test_a_classifier_learns_weights_from_labels(tmp_path: Path) -> None:
    """Its loss and gradient are those of its labels, in blocks of any length."""
    models = [load(saved_classifier(tmp_path / name, seed=seed)) for seed, name in enumerate("ab")]
    config, tokenizer = models[0].config, models[0].tokenizer()
    text = LabelledText((str(labelled(tmp_path / "rows.jsonl")),), tokenizer, config, context=48, seed=0)
    (part,) = text.blocks(fit_tokens=400, select_tokens=400, report_tokens=400)
    states = [{name: model.state[name] for name in model.schema.shapes} for model in models]
    asked: Recipe = recipe("linear", ["a", "b"])
    merge = MergeWithWeights(WeightSpace.of(asked, list(states[0]), "model"), tuple(states))
    merged = merge(merge.space.equal())
    loss, gradient = LossGradient(config, "cpu")({name: merged[name] for name in merged}, part.fit)
    meter = LossMeter(config, {"rows": part.fit})
    assert loss == pytest.approx(meter(merged).mean, abs=1e-5)
    exact = table_gradient(merged, gradient, merge.space.groups, (1, 2))
    ahead, behind = (meter(merge(((0.5 + sign * STEP, 0.5),))).mean for sign in (1, -1))
    assert exact[0, 0].item() == pytest.approx((ahead - behind) / (2 * STEP), rel=0.05, abs=2e-3)


def test_batches_take_as_much_of_every_label() -> None:
    fit = {"a": torch.arange(10)[:, None], "b": 100 + torch.arange(3)[:, None]}
    drawn = list(batches(fit, 4, 5, 0))
    assert all(((rows < 100).sum(), (rows >= 100).sum()) == (2, 2) for rows in drawn)
    assert sorted(torch.cat(drawn)[torch.cat(drawn) < 100].tolist()) == list(range(10))
    again = list(batches(fit, 4, 5, 0))
    assert all(torch.equal(one, other) for one, other in zip(drawn, again, strict=True))


def test_a_text_without_a_block_to_learn_from_is_refused() -> None:
    with pytest.raises(TooLittleText, match="'b' is too short to learn weights from"):
        next(batches({"a": torch.zeros(3, 8), "b": torch.zeros(0, 8)}, 4, 5, 0))


def test_groups_are_those_of_the_filters_of_a_recipe() -> None:
    names = [f"transformer.h.{layer}.mlp.weight" for layer in range(12)] + ["transformer.wte.weight", "h.1.mlp.weight"]
    asked = replace(recipe("linear", ["a", "b"]))
    space = WeightSpace.of(asked, names, "layer")
    table = tuple((round(group / 100, 6), round(1 - group / 100, 6)) for group in range(len(space.filters)))
    values = space.weighed(table).values(names)
    for name in names:
        assert values[name]["weight"] == list(table[space.groups[name]])
    assert len({space.groups[name] for name in names}) == 14
    assert space.filters[space.groups["transformer.h.1.mlp.weight"]] == "transformer.h.1."
    assert space.filters[space.groups["h.1.mlp.weight"]] == "h.1."
