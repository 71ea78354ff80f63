"""Least squares after averaging, `--refit`."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest
import torch
from conftest import EMBEDDED, state_of
from merging import combine, merge, plan_of
from tiny_models import tiny_bert, tiny_rotary
from transformers import BertForMaskedLM, GPT2LMHeadModel, LlamaForCausalLM

from isthmus.align.families import family
from isthmus.align.universe import Universe, align_all
from isthmus.checkpoint.errors import BadInput, UnsupportedFamily
from isthmus.checkpoint.loading import load
from isthmus.eval.sentences import sentences
from isthmus.merge.path import WeightPath, blend
from isthmus.merge.pipeline import merge_models
from isthmus.merge.plans import CurvePlan, SearchPlan
from isthmus.merge.recipes.recipe import recipe
from isthmus.merge.refit import RIDGE, refitted, stream_maps

PAIR = EMBEDDED / "adamw-1", EMBEDDED / "muon-1"
IDS = torch.randint(1024, (24, 64), generator=torch.Generator().manual_seed(0))
QUICK = {"data": ("stdlib:docs",), "tokens": 1024, "t": 0.5, "align": "orthogonal"}


@functools.cache
def aligned() -> Universe:
    first, second = map(load, PAIR)
    return align_all([dict(first.state), dict(second.state)], first.config, "orthogonal")


def fitted(t: float, state: dict[str, torch.Tensor] | None = None) -> dict[str, torch.Tensor]:
    universe = aligned()
    line = WeightPath.line(universe.states)
    return refitted(state or line(t), universe.states, (1 - t, t), universe.config, family(universe.config), IDS)


@pytest.mark.parametrize("t", [0.0, 1.0])
def test_the_ends_stay_as_they_are(t: float) -> None:
    end, there = aligned().states[int(t)], fitted(t)
    assert there.keys() == end.keys()
    assert max((there[name] - end[name]).abs().max().item() for name in end) < 1e-4


def test_the_first_two_maps_are_the_minima_of_their_problems() -> None:
    """Against lstsq on the problem written out, with the inputs and outputs of models of transformers."""
    universe, t = aligned(), 0.4
    middle, there = dict(WeightPath.line(universe.states)(t)), fitted(t)
    names = ("transformer.h.0.attn.c_proj", "transformer.h.0.mlp.c_proj")

    def seen(state: dict[str, torch.Tensor], name: str) -> tuple[torch.Tensor, torch.Tensor]:
        model, kept = GPT2LMHeadModel(universe.config).eval(), {}
        model.load_state_dict(dict(state))
        model.get_submodule(name).register_forward_hook(lambda _, x, y: kept.update(x=x[0], y=y))
        with torch.no_grad():
            model(IDS)
        return kept["x"].flatten(0, 1).double(), kept["y"].flatten(0, 1).double()

    error = torch.zeros(())
    for name in names:
        mean = sum(w * seen(state, name)[1] for w, state in zip((1 - t, t), universe.states, strict=True))
        x, _ = seen(middle, name)
        rows = torch.column_stack([x, torch.ones(len(x), dtype=torch.float64)])
        before = torch.cat([middle[f"{name}.weight"], middle[f"{name}.bias"][None]]).double()
        weight = (RIDGE * rows.square().sum(0).mean()).sqrt() * torch.eye(rows.shape[1], dtype=torch.float64)
        system, target = torch.cat([rows, weight]), torch.cat([mean - error, weight @ before])
        expected = torch.linalg.lstsq(system, target).solution
        got = torch.cat([there[f"{name}.weight"], there[f"{name}.bias"][None]]).double()
        assert (got - expected).norm() < 1e-3 * (expected - before).norm()
        middle |= {f"{name}.weight": there[f"{name}.weight"], f"{name}.bias": there[f"{name}.bias"]}
        error = error + rows @ got - mean


def test_it_halves_the_barrier_of_a_closed_form_and_is_what_is_saved(tmp_path: Path) -> None:
    plain, merged = merge(*PAIR, **QUICK), merge(*PAIR, refit=True, **QUICK)
    assert merged.report["merge_point"]["excess"] < 0.6 * plain.report["merge_point"]["excess"]
    report = merged.save(tmp_path / "out")
    assert report["refitted"]["kept"]
    assert "maps to the residual stream fitted by least squares: select loss" in "\n".join(sentences(report))
    assert "--refit" in report["reproduce"]
    assert plain.report["refitted"] is None


def test_where_the_loss_would_rise_the_average_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    spoiled = lambda state, *_, **__: {name: state[name] + 1.0 for name in state}  # noqa: E731
    monkeypatch.setattr("isthmus.merge.choosing.refitted", spoiled)
    plain, merged = merge(*PAIR, **QUICK), merge(*PAIR, refit=True, **QUICK)
    assert not merged.report["refitted"]["kept"]
    assert all(torch.equal(merged.state[name], plain.state[name]) for name in plain.state)
    assert "not fitted, the loss would rise" in "\n".join(sentences(merged.report))


def test_three_models_with_weights() -> None:
    models = [str(EMBEDDED / name) for name in ("adamw-1", "adamw-2", "muon-1")]
    plan = recipe("linear", models, weights=[[0.5], [0.25], [0.25]])
    options = {name: value for name, value in QUICK.items() if name != "t"}
    plain, merged = combine(plan, **options), combine(plan, refit=True, **options)
    assert merged.report["refitted"]["kept"]
    assert merged.report["merge_point"]["loss"] < plain.report["merge_point"]["loss"] - 0.2


def test_maps_that_are_stored_outputs_first_and_have_no_bias() -> None:
    """A Llama: with the average of two of its own copies nothing changes, between two others something does."""
    models = [tiny_rotary(LlamaForCausalLM, seed) for seed in range(2)]
    states, config = [state_of(model) for model in models], models[0].config
    table, ids = family(config), IDS % config.vocab_size
    same = refitted(states[0], [states[0], states[0]], (0.5, 0.5), config, table, ids)
    assert max((same[name] - states[0][name]).abs().max().item() for name in same) < 1e-4
    average = blend(states, (0.5, 0.5))
    there = refitted(average, states, (0.5, 0.5), config, table, ids)
    changed = {name for name in there if not torch.equal(there[name], average[name])}
    assert changed == {linear.weight for linear in stream_maps(table)}
    assert len(changed) == 2 * config.num_hidden_layers


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"path": "curve"}, "points of a curve are none"),
        ({"data": (), "align": "none", "t": 0.5}, "add --data"),
        ({"as_lora": 4}, "--refit and --as-lora change the same weights"),
        ({"restore": True}, "--refit and --restore-spectrum change the same weights"),
    ],
    ids=str,
)
def test_what_cannot_be_fitted(fields: dict[str, object], message: str) -> None:
    if fields.get("path") == "curve":
        fields = {"path": CurvePlan()}
    with pytest.raises(BadInput, match=message):
        merge_models(PAIR, plan_of(refit=True, **{"data": ("stdlib:docs",), **fields}))


def test_other_operators_and_other_architectures_are_refused_before_anything_is_read(tmp_path: Path) -> None:
    ties = recipe("ties", [str(PAIR[0]), str(PAIR[1])], base=str(EMBEDDED / "adamw-2"))
    with pytest.raises(BadInput, match="--refit is for plain averages"):
        combine(ties, refit=True, data=("stdlib:docs",))
    by_layer = recipe("linear", list(map(str, PAIR)), weights=[[0.2, 0.8], [0.8, 0.2]])
    with pytest.raises(BadInput, match="one weight for every model"):
        combine(by_layer, refit=True, data=("stdlib:docs",))
    search = SearchPlan("gradient", granularity="layer")
    with pytest.raises(BadInput, match="one weight for every model"):
        combine(recipe("linear", list(map(str, PAIR))), refit=True, search=search, data=("stdlib:docs",))
    with pytest.raises(UnsupportedFamily, match="write straight to the residual stream"):
        stream_maps(family(tiny_bert(BertForMaskedLM).config))
