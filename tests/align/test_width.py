"""Wider MLPs for neurons that find no partner."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from conftest import state_of, tiny_config, tiny_model

from isthmus.align.families import family
from isthmus.align.universe import align_all
from isthmus.align.width import Neurons, mismatch, neurons_of, widening_of
from isthmus.checkpoint.loading import load
from isthmus.checkpoint.model import log_probs
from isthmus.lab.demo import CHECKPOINTS
from isthmus.merge.path import WeightPath

CONFIG = tiny_config()
STATES = state_of(tiny_model(0)), state_of(tiny_model(1))
ALIGNED = align_all(STATES, CONFIG, "orthogonal")
TABLE = family(ALIGNED.config)
HIDDEN = TABLE.spaces["h.0.mlp"].group.size
IDS = torch.arange(48).view(2, 24) % CONFIG.vocab_size


def test_the_neurons_of_every_mlp_are_found_with_all_that_they_touch() -> None:
    assert neurons_of(TABLE) == {
        f"h.{layer}.mlp": Neurons(((f"h.{layer}.fc", 1), (f"h.{layer}.fc.bias", 0)), (f"h.{layer}.proj", 0))
        for layer in range(CONFIG.n_layer)
    }


@pytest.mark.parametrize("budget", [1.25, 1.5, 2.0])
def test_both_ends_compute_what_they_computed(budget: float) -> None:
    wide = ALIGNED.with_room(ALIGNED.room_for(budget))
    hidden = HIDDEN
    assert wide.config.n_inner == round(budget * hidden)
    assert wide.facts({})["n_inner"] == round(budget * hidden)
    for state, there in zip(STATES, wide.states, strict=True):
        assert torch.allclose(log_probs(there, wide.config, IDS), log_probs(state, CONFIG, IDS), atol=1e-5)


def test_on_the_line_neurons_that_stay_twice_give_the_average_of_what_they_give() -> None:
    """Against two MLPs side by side, written out; with budget 2 that is all of them."""
    wide = ALIGNED.with_room(ALIGNED.room_for(2.0))
    a, b = map(TABLE.split, ALIGNED.states)
    middle = family(wide.config).split(WeightPath.line(wide.states)(0.3))
    x = torch.randn(7, CONFIG.n_embd, generator=torch.Generator().manual_seed(0))

    def mlp(pieces: dict[str, torch.Tensor]) -> torch.Tensor:
        hidden = torch.nn.functional.gelu(x @ pieces["h.0.fc"] + pieces["h.0.fc.bias"], approximate="tanh")
        return hidden @ pieces["h.0.proj"] + pieces["h.0.proj.bias"]

    assert torch.allclose(mlp(middle), 0.7 * mlp(a) + 0.3 * mlp(b), atol=1e-5)


def test_those_with_the_largest_error_stay_twice() -> None:
    """The error of linear neurons, averaged over normal inputs, one neuron at a time."""
    a, b = map(TABLE.split, ALIGNED.states)
    neurons = neurons_of(TABLE)["h.1.mlp"]
    x = torch.randn(20_000, CONFIG.n_embd + 1, generator=torch.Generator().manual_seed(0))
    errors = []
    for i in range(HIDDEN):
        w = [torch.cat([p["h.1.fc"][:, i], p["h.1.fc.bias"][i, None]]) for p in (a, b)]
        o = [p["h.1.proj"][i] for p in (a, b)]
        apart = sum((x @ w[k])[:, None] * o[k] for k in range(2)) / 2
        merged = (x @ ((w[0] + w[1]) / 2))[:, None] * (o[0] + o[1]) / 2
        errors.append((apart - merged).square().sum(1).mean())
    assert torch.allclose(torch.stack(errors), mismatch(a, b, neurons) / 16, rtol=0.1)
    twice = widening_of(a, b, TABLE, 1.5).twice["h.1.mlp"]
    costs = mismatch(a, b, neurons)
    rest = torch.ones(len(costs), dtype=torch.bool)
    rest[twice] = False
    assert len(twice) == len(costs) // 2
    assert costs[twice].min() >= costs[rest].max()


def test_a_wider_line_is_lower() -> None:
    """Of two trained models, the loss against what the ends predict together."""
    ends = [load(CHECKPOINTS / name) for name in ("adamw-1", "adamw-2")]
    tokenizer, config, states = ends[0].tokenizer(), ends[0].config, [dict(end.state) for end in ends]
    ids = torch.tensor(tokenizer(f"{Path.__doc__}\n{Path.glob.__doc__}")["input_ids"])[None, : config.n_positions]
    expected = sum(log_probs(state, config, ids).exp() for state in states) / 2
    aligned = align_all(states, config, "orthogonal")

    def distance(budget: float) -> float:
        wide = aligned.with_room(aligned.room_for(budget))
        middle = WeightPath.line(wide.states)(0.5)
        return (expected * (expected.log() - log_probs(middle, wide.config, ids))).sum(-1).mean().item()

    assert distance(2.0) < distance(1.5) < 0.8 * distance(1.0)
