"""Alignment layer by layer from disk: the same numbers as in memory, and few layers in memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import pytest
import torch
from conftest import EMBEDDED, state_of, tiny_model
from torch import Tensor

from isthmus.align.canonical import canonical, linked
from isthmus.align.families import FAMILIES, family
from isthmus.align.pipeline import align_states
from isthmus.align.streamed import joined_state, stored_pieces, streamed_canonical
from isthmus.checkpoint.errors import AlignmentError, BadInput
from isthmus.checkpoint.loading import load
from isthmus.checkpoint.model import log_probs, streamed_log_probs

IDS = torch.randint(128, (2, 20), generator=torch.Generator().manual_seed(0))


class Watched(Mapping[str, Tensor]):
    """A state that counts what is looked up."""

    def __init__(self, state: Mapping[str, Tensor]):
        self.state, self.asked = state, []

    def __getitem__(self, name: str) -> Tensor:
        self.asked.append(name)
        return self.state[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.state)

    def __len__(self) -> int:
        return len(self.state)


@pytest.mark.parametrize("tied", [True, False])
def test_pieces_one_by_one_are_those_of_the_whole(tied: bool) -> None:
    model = tiny_model(0, tie_word_embeddings=tied)
    state, table = state_of(model), family(model.config)
    whole, lazy = canonical(state, table), streamed_canonical(state, table)
    for name in reversed(list(lazy)):
        assert torch.equal(lazy[name], table.untied().piece(whole, name)), name
    joined = joined_state(lazy, table.untied())
    assert joined.keys() == whole.keys()
    assert all(torch.equal(joined[name], whole[name]) for name in whole)


def test_a_piece_reads_nothing_but_what_it_depends_on() -> None:
    state, table = Watched(state_of(tiny_model(0))), family(tiny_model(0).config)
    pieces = streamed_canonical(state, table)
    _ = pieces["h.1.o.bias"], pieces["h.1.q"]
    assert sorted(state.asked) == sorted(
        f"transformer.h.1.{name}" for name in ("ln_1.weight", "ln_1.bias", "attn.c_attn.weight", "attn.c_attn.bias",
                                               "attn.c_proj.weight", "attn.c_proj.bias")
    ), "every parameter once, for both"  # fmt: skip
    _ = pieces["h.1.proj"]
    assert state.asked[-1] == "transformer.h.1.mlp.c_proj.weight"


def test_groups_are_symmetric() -> None:
    groups = linked(family(tiny_model(0).config).untied())
    assert all(groups[other] == group for group in groups.values() for other in group)
    assert all(name in group for name, group in groups.items())


@pytest.mark.parametrize("method", ["permutation", "orthogonal"])
def test_alignment_is_that_of_models_in_memory(method: str) -> None:
    a, b = (load(EMBEDDED / name, families=FAMILIES) for name in ("adamw-1", "muon-1"))
    lazy = align_states(a.state, b.state, a.config, method, stream=True)
    whole = align_states(dict(a.state), dict(b.state), a.config, method)
    assert lazy.alignment.score == pytest.approx(whole.alignment.score, abs=1e-6)
    for mine, theirs in ((lazy.a, whole.a), (lazy.b, whole.b)):
        assert mine.keys() == theirs.keys()
        assert all(torch.allclose(mine[name], theirs[name], atol=1e-5) for name in theirs)
    assert lazy.max_log_prob_error < 1e-4


def test_methods_that_look_at_whole_models() -> None:
    state = state_of(tiny_model(0))
    with pytest.raises(BadInput, match="take permutation or orthogonal"):
        align_states(state, state, tiny_model(0).config, "activations", ids=IDS, stream=True)


def test_a_wrong_element_is_found_without_the_model_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    model, other = tiny_model(0), tiny_model(1)
    from isthmus.align import pipeline

    monkeypatch.setattr(pipeline, "joined_state", lambda pieces, table, elements=None: state_of(tiny_model(2)))
    with pytest.raises(AlignmentError, match="the alignment changes the model"):
        align_states(state_of(model), state_of(other), model.config, "permutation", stream=True)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_streamed_log_probabilities(saved, tied: bool, dtype: torch.dtype) -> None:
    checkpoint = load(saved("model", tie_word_embeddings=tied, dtype=dtype))
    expected = log_probs(checkpoint.state, checkpoint.config, IDS)
    assert torch.equal(streamed_log_probs(checkpoint.state, checkpoint.config, IDS), expected)


def test_stored_pieces_are_views_of_the_state() -> None:
    model = tiny_model(0)
    state, table = state_of(model), family(model.config)
    pieces = stored_pieces(state, table)
    assert len(pieces) == len(list(pieces)) == len(table.pieces)
    assert torch.equal(pieces["h.0.k"], table.split(state)["h.0.k"])
