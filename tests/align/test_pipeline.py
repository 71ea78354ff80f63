from __future__ import annotations

import pytest
import torch
from conftest import EMBEDDED, state_of, tiny_config, tiny_model
from group import random_elements

import isthmus
from isthmus.align.alignment import Alignment
from isthmus.align.families import family
from isthmus.align.pipeline import align_states
from isthmus.checkpoint.errors import BadInput, IncompatibleModels
from isthmus.checkpoint.loading import load
from isthmus.eval.loss import LossMeter
from isthmus.merge.path import WeightPath


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("method", ["permutation", "orthogonal", "activations", "combined"])
def test_a_moved_copy_comes_back(method: str, tied: bool) -> None:
    config = tiny_config(tie_word_embeddings=tied)
    state, table = state_of(tiny_model(3, tie_word_embeddings=tied)), family(config)
    kind = "permutation" if method == "permutation" else "orthogonal"
    moved = Alignment(method, random_elements(table, kind, 5), 0.0).apply(state, table)
    moved_config = Alignment(method, {}, 0.0).config(config)
    if method != "permutation":
        state, config = Alignment(method, {}, 0.0).reference(state, table), moved_config
    ids = torch.randint(config.vocab_size, (64, 32), generator=torch.Generator().manual_seed(1))
    found = align_states(state, moved, config, method, ids=ids)
    assert found.alignment.score == pytest.approx(1.0, abs=1e-4)
    assert found.max_log_prob_error < 1e-4
    assert max((found.a[name] - found.b[name]).abs().max().item() for name in found.a) < 5e-5


def test_permutation_keeps_the_head_tied_and_a_as_it_was() -> None:
    a, b = state_of(tiny_model(0)), state_of(tiny_model(1))
    found = align_states(a, b, tiny_config(), "permutation")
    assert found.config.tie_word_embeddings
    assert found.a.keys() == found.b.keys() == a.keys()
    assert all(torch.equal(found.a[name], a[name]) for name in a)


@pytest.mark.parametrize("method", ["permutation", "orthogonal"])
def test_trained_strangers_keep_their_function(method: str) -> None:
    a, b = load(EMBEDDED / "adamw-1"), load(EMBEDDED / "muon-1")
    assert align_states(a.state, b.state, a.config, method).max_log_prob_error < 1e-4


def test_activations_need_text_and_learning_another_room() -> None:
    state = state_of(tiny_model(0))
    for method in ("activations", "combined"):
        with pytest.raises(BadInput, match=f"'{method}' matches what the models compute on text: give token ids"):
            align_states(state, state, tiny_config(), method)  # type: ignore[arg-type]
    with pytest.raises(BadInput, match="an alignment is learned on text"):
        align_states(state, state, tiny_config(), "learned")


def test_checkpoints_are_checked_first(saved) -> None:
    with pytest.raises(IncompatibleModels, match="number of heads differs"):
        isthmus.align_models(saved("a"), saved("b", n_head=2))


def test_from_python(saved) -> None:
    found = isthmus.align_models(saved("a"), str(saved("b", 1)), "permutation")
    assert found.alignment.method == "permutation"


def test_a_moved_copy_of_gpt2_small_comes_back() -> None:
    """Two layers of GPT-2 small, every space: MLP neurons, heads, the inside of heads, a rotated residual stream.

    The rows of the vocabulary are in no space: fewer make the same problem.
    """
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    config = GPT2Config(n_layer=2, vocab_size=4096, bos_token_id=0, eos_token_id=0)
    state, table = state_of(GPT2LMHeadModel(config)), family(config)
    form = Alignment("orthogonal", {}, 0.0).reference(state, table)
    untied = Alignment("orthogonal", {}, 0.0).config(config)
    elements = random_elements(table, "orthogonal", 1)
    moved = Alignment("orthogonal", elements, 0.0).apply_to_pieces(table.untied().split(form), table.untied())
    found = align_states(form, moved, untied)
    assert found.max_log_prob_error < 1e-4
    assert max((found.a[name] - found.b[name]).abs().max().item() for name in found.a) < 1e-5
    ids = torch.randint(config.vocab_size, (1, 64), generator=torch.Generator().manual_seed(0))
    losses = [LossMeter(untied, {"x": ids})(WeightPath("linear", found.a, found.b)(t)).mean for t in (0.0, 0.5, 1.0)]
    assert max(losses) - min(losses) < 1e-4
