from __future__ import annotations

import torch
from conftest import state_of, tiny_config, tiny_model
from group import random_elements
from torch import Tensor

from isthmus.align.alignment import Alignment
from isthmus.align.canonical import canonical
from isthmus.align.families import family
from isthmus.align.gauge import balanced, free_gauge, neutral, regauge
from isthmus.checkpoint.model import log_probs

CONFIG = tiny_config()
TABLE = family(CONFIG)
UNTIED = TABLE.untied()
STATE = state_of(tiny_model(1))
FORM = UNTIED.split(canonical(STATE, TABLE))
UNTIED_CONFIG = Alignment("orthogonal", {}, 0.0).config(CONFIG)
IDS = torch.randint(CONFIG.vocab_size, (2, 32), generator=torch.Generator().manual_seed(0))


def some_gauge(seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    found = {}
    for name, free in free_gauge(UNTIED).items():
        noise = 0.5 * torch.randn(free.shape, generator=generator)
        found[name] = noise.exp() if free.max() == 1 else noise
    return found


def difference(pieces: dict[str, Tensor]) -> float:
    expected = log_probs(STATE, CONFIG, IDS)
    return (log_probs(UNTIED.join(pieces), UNTIED_CONFIG, IDS) - expected).abs().max().item()


def test_every_part_of_the_gauge_changes_weights_and_not_the_function() -> None:
    gauge = some_gauge()
    assert len(gauge) == 2 * 2 * 2 + 1 + 2  # scale and shift of every norm in a layer, the last scale, value biases
    for name, vector in gauge.items():
        moved = regauge(FORM, UNTIED, {name: vector})
        assert any(not torch.equal(moved[piece], FORM[piece]) for piece in FORM), name
        assert difference(moved) < 1e-4, name
    assert difference(regauge(FORM, UNTIED, gauge)) < 1e-4


def test_the_free_gauge_moves_nothing() -> None:
    moved = regauge(FORM, UNTIED, free_gauge(UNTIED))
    assert all(torch.equal(moved[name], FORM[name]) for name in FORM)


def test_a_gauge_is_another_line() -> None:
    """Half-way between two forms of one model is a worse model: the gauge is no symmetry of the line."""
    moved = regauge(FORM, UNTIED, some_gauge())
    assert difference({name: (FORM[name] + moved[name]) / 2 for name in FORM}) > 1e-2


def test_canonical_takes_the_gauge_out() -> None:
    moved = UNTIED.join(regauge(FORM, UNTIED, some_gauge()))
    back = UNTIED.split(canonical(moved, UNTIED))
    assert max((back[name] - FORM[name]).abs().max().item() for name in FORM) < 1e-5


def test_balanced_heads_have_equal_factors_and_the_same_circuits() -> None:
    pieces = balanced(regauge(FORM, UNTIED, some_gauge()), UNTIED)
    assert difference(pieces) < 1e-4
    for layer in range(2):
        for head in range(4):
            columns = slice(8 * head, 8 * head + 8)
            query, key = (
                torch.cat([pieces[f"h.{layer}.{side}"], pieces[f"h.{layer}.{side}.bias"][None]])[:, columns]
                for side in "qk"
            )
            assert torch.allclose(query.T @ query, key.T @ key, atol=1e-4)


def test_neutral_is_one_form_for_every_gauge_of_the_heads() -> None:
    """Singular values inside heads no longer depend on the maps and the gauge that were applied."""
    elements = random_elements(UNTIED, "invertible", 2)
    inside = {name: value for name, value in elements.items() if name.endswith((".qk", ".ov"))}
    heads = {f"h.{layer}.heads": torch.arange(4) for layer in range(2)}
    moved = Alignment("learned", inside | heads, 0.0, some_gauge()).apply(STATE, TABLE)
    first, second = (neutral(state, table) for state, table in ((STATE, TABLE), (moved, UNTIED)))
    for name in UNTIED.matrices:
        values = [torch.linalg.svdvals(UNTIED.piece(state, name).double()) for state in (first, second)]
        assert torch.allclose(*values, rtol=1e-4, atol=1e-4), name
