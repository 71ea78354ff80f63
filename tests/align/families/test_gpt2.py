from __future__ import annotations

import pytest
import torch
from conftest import state_of, tiny_config, tiny_model
from group import random_elements

from isthmus.align.alignment import Alignment
from isthmus.align.families import family
from isthmus.align.symmetry import act_on_piece
from isthmus.checkpoint.errors import UnsupportedFamily
from isthmus.checkpoint.model import log_probs, schema

IDS = torch.randint(128, (2, 32), generator=torch.Generator().manual_seed(7))


@pytest.mark.parametrize("tied", [True, False])
def test_covers_every_parameter_once(tied: bool) -> None:
    config = tiny_config(tie_word_embeddings=tied)
    table = family(config)
    assert table.schema() == schema(config), "the table and the module of transformers have the same tensors"
    state = state_of(tiny_model(tie_word_embeddings=tied))
    again = table.join(table.split(state))
    assert all(torch.equal(again[name], state[name]) for name in state)


@pytest.mark.parametrize("kind", ["permutation", "invertible"])
@pytest.mark.parametrize("tied", [True, False])
def test_the_group_leaves_the_function_alone(kind: str, tied: bool) -> None:
    """In any form of the state: permutations of everything, any invertible map inside heads."""
    config, state = tiny_config(tie_word_embeddings=tied), state_of(tiny_model(tie_word_embeddings=tied))
    moved = Alignment("permutation", random_elements(family(config), kind), 0.0).apply(state, family(config))
    assert all(not torch.equal(moved[name], state[name]) for name in state)
    assert (log_probs(moved, config, IDS) - log_probs(state, config, IDS)).abs().max() < 2e-5


@pytest.mark.parametrize("space", ["residual", "h.1.heads", "h.0.qk", "h.1.ov", "h.0.mlp"])
def test_a_space_missing_on_one_piece_changes_the_function(space: str) -> None:
    """The table cannot be right by accident: leave out a single occurrence of an element, and the function changes."""
    config, state = tiny_config(), state_of(tiny_model())
    table = family(config)
    element = {space: random_elements(table, "invertible")[space]}
    pieces = table.split(state)
    for left_out, _ in table.occurrences(space):
        moved = {n: p if n == left_out else act_on_piece(p, table.pieces[n], element) for n, p in pieces.items()}
        change = (log_probs(table.join(moved), config, IDS) - log_probs(state, config, IDS)).abs().max()
        if left_out.endswith("k.bias"):  # which no score sees
            assert change < 2e-5
        else:
            assert change > 1e-3, left_out


def test_other_families_are_refused_with_the_list() -> None:
    from transformers import LlamaConfig

    with pytest.raises(UnsupportedFamily, match=r"'llama' are not supported .*; supported: gpt2"):
        family(LlamaConfig())
    with pytest.raises(UnsupportedFamily, match="cross-attention"):
        family(tiny_config(add_cross_attention=True))
