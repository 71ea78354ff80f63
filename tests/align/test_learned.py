from __future__ import annotations

import pytest
import torch
from conftest import state_of, tiny_config, tiny_model
from group import random_elements

from isthmus.align.alignment import Alignment
from isthmus.align.families import family
from isthmus.align.gauge import balanced
from isthmus.align.learned import LearnedAlignment, common_basis
from isthmus.align.universe import Universe

CONFIG = tiny_config()
TABLE = family(CONFIG)
OTHER, STATE = state_of(tiny_model(0)), state_of(tiny_model(1))
START = Alignment("orthogonal", random_elements(TABLE, "orthogonal", 3), 0.7)


def moved_somewhere(seed: int = 0, size: float = 0.2) -> LearnedAlignment:
    """With every parameter away from where it starts."""
    start = START.in_basis(common_basis(torch.randn(32, 32), TABLE), TABLE.untied())
    moving = LearnedAlignment((start,), TABLE.untied())
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in moving.parameters():
            parameter.add_(size * torch.randn(parameter.shape, generator=generator))
    return moving


def begun(moving: LearnedAlignment) -> list[dict[str, torch.Tensor]]:
    """The pieces of both states where it found them."""
    (start,) = moving._starts
    return [TABLE.untied().split(state) for state in (start.reference(OTHER, TABLE), start.apply(STATE, TABLE))]


def test_it_starts_at_the_closed_form() -> None:
    form = START.apply(STATE, TABLE)
    first, second = LearnedAlignment((START,), TABLE.untied())([TABLE.untied().split(form)] * 2)
    now = TABLE.untied().join(second)
    assert all(torch.allclose(first[name], second[name], atol=1e-6) for name in first)
    assert max((now[name] - form[name]).abs().max().item() for name in form) < 1e-5


@pytest.mark.parametrize("seed", range(3))
def test_wherever_it_is_the_function_is_the_same(seed: int) -> None:
    moving = moved_somewhere(seed)
    (alignment,) = moving.alignments()
    universe = Universe.learned((OTHER, STATE), CONFIG, (alignment,))
    assert universe.max_log_prob_error < 1e-4
    for pieces, expected in zip(moving(begun(moving)), universe.states, strict=True):
        seen = TABLE.untied().join({name: piece.detach() for name, piece in pieces.items()})
        assert max((seen[name] - expected[name]).abs().max().item() for name in seen) < 1e-4
    assert alignment.basis.keys() == {"residual"}
    rotation = alignment.elements["residual"]
    assert torch.allclose(rotation @ rotation.T, torch.eye(32, dtype=torch.float64), atol=1e-10)
    assert torch.allclose(rotation.sum(1), torch.ones(32, dtype=torch.float64), atol=1e-10)


def test_without_its_gauge_it_takes_b_next_to_a_canonical_a() -> None:
    (alignment,) = moved_somewhere(1).alignments()
    (a, b), form = Universe.learned((OTHER, STATE), CONFIG, (alignment,)).states, START.reference(OTHER, TABLE)
    back, plain = alignment.neutral(a, TABLE), balanced_state(form)
    assert max((back[name] - plain[name]).abs().max().item() for name in form) < 1e-4
    there = balanced_state(alignment.without_gauge(TABLE).apply(STATE, TABLE))
    moved = alignment.neutral(b, TABLE)
    assert max((moved[name] - there[name]).abs().max().item() for name in there) < 1e-3


def balanced_state(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    untied = TABLE.untied()
    return untied.join(balanced(untied.split(state), untied))


def test_every_parameter_moves_an_end() -> None:
    moving = moved_somewhere()
    sum((torch.randn_like(piece) * piece).sum() for end in moving(begun(moving)) for piece in end.values()).backward()
    still = [name for name, parameter in moving.named_parameters() if not parameter.grad.abs().sum() > 0]
    assert not still
    trained = {id(p) for optimizer in moving.optimizers() for group in optimizer.param_groups for p in group["params"]}
    assert trained == {id(parameter) for parameter in moving.parameters()}


def test_it_saves_composes_and_turns_back(tmp_path) -> None:
    (alignment,) = moved_somewhere().alignments()
    aligned = alignment.apply(STATE, TABLE)
    alignment.save(tmp_path / "alignment.safetensors")
    loaded = Alignment.load(tmp_path / "alignment.safetensors")
    again, reference = loaded.apply(STATE, TABLE), loaded.reference(OTHER, TABLE)
    assert all(torch.equal(again[name], aligned[name]) for name in aligned)
    assert all(torch.equal(reference[name], end) for name, end in alignment.reference(OTHER, TABLE).items())

    untied, form = TABLE.untied(), START.reference(STATE, TABLE)
    plain = alignment.without_gauge(TABLE).apply(STATE, TABLE)
    back = alignment.inverse(untied).apply(plain, untied)
    assert max((back[name] - form[name]).abs().max().item() for name in form) < 1e-4

    (then,) = moved_somewhere(5).alignments()
    both, one_by_one = alignment.compose(then, untied).apply(STATE, TABLE), then.apply(plain, untied)
    assert max((both[name] - one_by_one[name]).abs().max().item() for name in both) < 1e-4
