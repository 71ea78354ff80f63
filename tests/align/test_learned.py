from __future__ import annotations

import pytest
import torch
from conftest import state_of, tiny_config, tiny_model
from group import random_elements

from isthmus.align.alignment import Alignment
from isthmus.align.families import family
from isthmus.align.learned import LearnedAlignment

CONFIG = tiny_config()
TABLE = family(CONFIG)
STATE = state_of(tiny_model(1))
START = Alignment("orthogonal", random_elements(TABLE, "orthogonal", 3), 0.7)


def moved_somewhere(seed: int = 0, size: float = 0.2) -> LearnedAlignment:
    """With every parameter away from where it starts."""
    moving = LearnedAlignment(START, START.apply(STATE, TABLE), TABLE.untied())
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in moving.parameters():
            parameter.add_(size * torch.randn(parameter.shape, generator=generator))
    return moving


def test_it_starts_at_the_closed_form() -> None:
    begun = START.apply(STATE, TABLE)
    moving = LearnedAlignment(START, begun, TABLE.untied())
    now = TABLE.untied().join(moving())
    assert max((now[name] - begun[name]).abs().max().item() for name in begun) < 1e-5


@pytest.mark.parametrize("seed", range(3))
def test_wherever_it_is_the_function_is_the_same(seed: int) -> None:
    moving = moved_somewhere(seed)
    alignment = moving.alignment()
    aligned = alignment.apply(STATE, TABLE)
    assert alignment.verify(STATE, aligned, CONFIG) < 1e-4
    seen = TABLE.untied().join({name: piece.detach() for name, piece in moving().items()})
    assert max((seen[name] - aligned[name]).abs().max().item() for name in seen) < 1e-4
    rotation = alignment.elements["residual"]
    assert torch.allclose(rotation @ rotation.T, torch.eye(32, dtype=torch.float64), atol=1e-10)
    assert torch.allclose(rotation.sum(1), torch.ones(32, dtype=torch.float64), atol=1e-10)


def test_every_parameter_moves_b() -> None:
    moving = moved_somewhere()
    weights = {name: torch.randn_like(piece) for name, piece in moving().items()}
    sum((weights[name] * piece).sum() for name, piece in moving().items()).backward()
    still = [name for name, parameter in moving.named_parameters() if not parameter.grad.abs().sum() > 0]
    assert not still
    trained = {id(p) for optimizer in moving.optimizers() for group in optimizer.param_groups for p in group["params"]}
    assert trained == {id(parameter) for parameter in moving.parameters()}


def test_it_saves_composes_and_turns_back(tmp_path) -> None:
    alignment = moved_somewhere().alignment()
    aligned = alignment.apply(STATE, TABLE)
    alignment.save(tmp_path / "alignment.safetensors")
    again = Alignment.load(tmp_path / "alignment.safetensors").apply(STATE, TABLE)
    assert all(torch.equal(again[name], aligned[name]) for name in aligned)

    untied, form = TABLE.untied(), START.reference(STATE, TABLE)
    back = alignment.inverse(untied).apply(aligned, untied)
    assert max((back[name] - form[name]).abs().max().item() for name in form) < 1e-4

    then = moved_somewhere(5).alignment()
    both, one_by_one = alignment.compose(then, untied).apply(STATE, TABLE), then.apply(aligned, untied)
    assert max((both[name] - one_by_one[name]).abs().max().item() for name in both) < 1e-4
