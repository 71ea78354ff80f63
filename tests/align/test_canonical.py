from __future__ import annotations

import pytest
import torch
from conftest import state_of, tiny_config, tiny_model
from group import moved, random_elements

from isthmus.align.canonical import canonical
from isthmus.align.families import family
from isthmus.checkpoint.errors import CorruptCheckpoint
from isthmus.checkpoint.model import log_probs

IDS = torch.randint(128, (2, 32), generator=torch.Generator().manual_seed(7))
UNTIED = tiny_config(tie_word_embeddings=False)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("seed", [0, 1])
def test_the_function_is_unchanged(tied: bool, seed: int) -> None:
    config = tiny_config(tie_word_embeddings=tied)
    state = state_of(tiny_model(seed, tie_word_embeddings=tied))
    form = canonical(state, family(config))
    assert (log_probs(form, UNTIED, IDS) - log_probs(state, config, IDS)).abs().max() < 2e-5


def test_the_gauge_is_fixed() -> None:
    table = family(UNTIED)
    pieces = table.split(canonical(state_of(tiny_model()), family(tiny_config())))
    for norm in table.norms:
        assert (pieces[norm.weight] == 1).all()
        assert norm.weight == "ln_f" or (pieces[norm.bias] == 0).all()
    assert len(table.vanishing) == len(table.attentions) == 2
    for bias in table.vanishing:
        assert (pieces[bias.piece] == 0).all()
    for attention in table.attentions:
        assert (pieces[attention.value_bias] == 0).all()
    for name, axis in table.writers:
        assert pieces[name].mean(axis).abs().max() < 1e-6, name
    for layer in range(2):
        for reader in ("q", "k", "v", "fc"):
            assert pieces[f"h.{layer}.{reader}"].mean(0).abs().max() < 1e-6
    assert pieces["wpe"].mean(0).abs().max() < 1e-6
    assert pieces["lm_head"].mean(0).abs().max() < 1e-6


def test_the_canonical_form_of_a_canonical_form_is_itself() -> None:
    form = canonical(state_of(tiny_model()), family(tiny_config()))
    again = canonical(form, family(UNTIED))
    assert max((again[name] - form[name]).abs().max().item() for name in form) < 1e-6


def test_only_on_canonical_states_are_rotations_symmetries() -> None:
    """Why there is a canonical form at all."""
    state, table = state_of(tiny_model(tie_word_embeddings=False)), family(UNTIED)
    rotation = {"residual": random_elements(table, "orthogonal")["residual"]}
    for start, kept in ((canonical(state, table), True), (state, False)):
        change = (log_probs(moved(start, table, rotation), UNTIED, IDS) - log_probs(start, UNTIED, IDS)).abs().max()
        assert bool(change < 1e-4) is kept


def test_a_final_norm_of_scale_zero_is_refused() -> None:
    state = state_of(tiny_model())
    state["transformer.ln_f.weight"][3] = 0.0
    with pytest.raises(CorruptCheckpoint, match=r"'transformer\.ln_f\.weight' has a scale of exactly zero"):
        canonical(state, family(tiny_config()))
