"""Any number of states in one universe: permuted and rotated copies come back, function unchanged, cycles closed."""

from __future__ import annotations

import pytest
import torch
from conftest import state_of, tiny_model
from group import random_elements

from isthmus.align.alignment import Alignment
from isthmus.align.canonical import canonical
from isthmus.align.families import family
from isthmus.align.pipeline import align_states
from isthmus.align.universe import align_all
from isthmus.checkpoint.errors import BadInput
from isthmus.checkpoint.model import log_probs
from isthmus.checkpoint.rows import ComputedState

MODEL = tiny_model(0)
CONFIG, STATE = MODEL.config, state_of(MODEL)
TABLE = family(CONFIG)


def scrambled(seed: int, method: str) -> dict[str, torch.Tensor]:
    """The same function under random elements of all spaces."""
    return Alignment(method, random_elements(TABLE, method, seed), 1.0).apply(STATE, TABLE)


@pytest.mark.parametrize("method", ["permutation", "orthogonal"])
def test_scrambled_copies_come_back(method: str) -> None:
    """Three copies, each scrambled in its own way, end at the first, and their average computes what it does."""
    states = [STATE, scrambled(1, method), scrambled(2, method)]
    config = Alignment(method, {}, 1.0).config(CONFIG)
    if method == "orthogonal":
        states[0] = canonical(STATE, TABLE)
    found = align_all(states, config, method)
    assert found.scores[-1] == pytest.approx(1, abs=1e-5)
    average = {name: sum(state[name] for state in found.states) / 3 for name in found.states[0]}
    ids = torch.randint(CONFIG.vocab_size, (2, 16), generator=torch.Generator().manual_seed(0))
    assert (log_probs(average, found.config, ids) - log_probs(STATE, CONFIG, ids)).abs().max() < 1e-3
    assert found.max_log_prob_error < 1e-4


def test_the_first_stays_and_two_are_aligned_as_a_pair() -> None:
    other = state_of(tiny_model(1))
    found = align_all([STATE, other], CONFIG)
    pair = align_states(STATE, other, CONFIG)
    assert all(torch.equal(found.states[0][name], pair.a[name]) for name in pair.a)
    assert all(torch.allclose(found.states[1][name], pair.b[name], atol=1e-6) for name in pair.b)


@pytest.mark.parametrize("method", ["permutation", "orthogonal"])
def test_streamed_it_is_the_same(method: str) -> None:
    """No state is asked for more than a few of its tensors at a time, and none is kept."""
    states = [state_of(tiny_model(seed)) for seed in range(3)]
    whole = align_all(states, CONFIG, method)
    streamed = align_all([ComputedState(state, state.__getitem__) for state in states], CONFIG, method, stream=True)
    assert all(isinstance(state, ComputedState) for state in streamed.states)
    assert streamed.scores == pytest.approx(whole.scores, abs=1e-6)
    for one, other in zip(whole.states, streamed.states, strict=True):
        assert list(one) == list(other)
        assert all(torch.allclose(one[name], other[name], atol=1e-6) for name in one)
    with pytest.raises(BadInput, match="take permutation or orthogonal"):
        align_all(states, CONFIG, "combined", ids=torch.zeros(1, 4, dtype=torch.long), stream=True)


def test_rounds_only_raise_the_agreement_and_cycles_close() -> None:
    states = [state_of(tiny_model(seed)) for seed in range(4)]
    found = align_all(states, CONFIG, "orthogonal")
    assert len(found.scores) >= 2
    assert all(later >= earlier - 1e-6 for earlier, later in zip(found.scores, found.scores[1:], strict=False))
    # Round the cycle B → A → C → B: the composition moves nothing.
    table = TABLE.untied()
    to_a, c_to_a = found.alignments[0], found.alignments[1]
    there = to_a.compose(c_to_a.inverse(table), table)
    back = there.compose(c_to_a, table).compose(to_a.inverse(table), table)
    assert back.elements.keys() == TABLE.spaces.keys()
    for name, element in back.elements.items():
        assert torch.allclose(element, TABLE.spaces[name].group.identity(), atol=1e-9), name


def test_functions_are_unchanged() -> None:
    states = [state_of(tiny_model(seed)) for seed in range(3)]
    ids = torch.randint(CONFIG.vocab_size, (2, 16), generator=torch.Generator().manual_seed(0))
    for method in ("permutation", "orthogonal", "combined"):
        found = align_all(states, CONFIG, method, ids=torch.randint(CONFIG.vocab_size, (8, 32)))
        for before, after in zip(states, found.states, strict=True):
            difference = log_probs(after, found.config, ids) - log_probs(before, CONFIG, ids)
            assert difference.abs().max() < 1e-4


def test_what_it_does_not_do() -> None:
    with pytest.raises(BadInput, match="aligned by a closed form"):
        align_all([STATE, STATE, STATE], CONFIG, "learned")
    with pytest.raises(BadInput, match="give token ids"):
        align_all([STATE, STATE, STATE], CONFIG, "combined")
