from __future__ import annotations

import pytest
import torch
from conftest import state_of, tiny_config, tiny_model
from group import moved, random_elements
from torch import Tensor

from isthmus.align.canonical import canonical, linked
from isthmus.align.families import family
from isthmus.align.gauge import free_gauge, regauge
from isthmus.align.groups import Permutation, SignedPermutation
from isthmus.align.matching import match
from isthmus.align.symmetry import Family
from isthmus.align.table_entries import Axis, Head, LinearMap, Norm, Piece, Reader, Space
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


WIDTH, TOKENS, HIDDEN = 12, 20, 16


def toy(tied: bool = True) -> Family:
    """RMSNorm that stores its scale less 1, a norm that writes to the stream, no positions, one bias, the head's."""
    stream, scale, tokens = Axis(("stream",)), Axis(("stream",), scale=True), Axis(size=TOKENS)
    table = Family(
        prefix="",
        stream="stream",
        spaces={"stream": Space(SignedPermutation(WIDTH)), "mlp": Space(Permutation(HIDDEN))},
        pieces={
            "embed": Piece("embed", (tokens, stream)),
            "before": Piece("before", (scale,)),
            "up": Piece("up", (Axis(("mlp",)), stream)),
            "down": Piece("down", (stream, Axis(("mlp",)))),
            "after": Piece("after", (scale,)),
            "last": Piece("last", (scale,)),
            "head.bias": Piece("head.bias", (tokens,)),
        },
        norms=(
            Norm("before", None, (Reader("up", 1),), centres=False, neutral=0.0),
            Norm("after", None, (), centres=False, neutral=0.0),
            Norm("last", None, (Reader("head", 1, "head.bias"),), centres=False, neutral=0.0),
        ),
        attentions=(),
        vanishing=(),
        writers=(("embed", 1),),
        embedding="embed",
        positions=None,
        unembedding=Head("head", Piece("head", (tokens, stream)), LinearMap("head", 1)),
        tied=True,
        matrices=("up", "down"),
        activations=(),
        maps=(),
    )
    return table if tied else table.untied()


def toy_log_probs(state: dict[str, Tensor], ids: Tensor) -> Tensor:
    def norm(x: Tensor, name: str) -> Tensor:
        return x / x.square().mean(-1, keepdim=True).sqrt() * (1 + state[name])

    x = state["embed"][ids]
    x = x + norm((norm(x, "before") @ state["up"].T).tanh() @ state["down"].T, "after")
    logits = norm(x, "last") @ state.get("head", state["embed"]).T + state["head.bias"]
    return logits.log_softmax(-1)


@pytest.mark.parametrize("tied", [True, False])
def test_norms_that_do_not_centre_or_that_write(tied: bool) -> None:
    """Their canonical form computes the same, under the stream's group, too, and keeps what cannot be folded."""
    table, generator = toy(tied), torch.Generator().manual_seed(0)
    state = {name: torch.randn(shape, generator=generator) for name, shape in table.schema().shapes.items()}
    ids = torch.arange(TOKENS)
    form, whole = canonical(state, table), table.untied()
    assert (toy_log_probs(form, ids) - toy_log_probs(state, ids)).abs().max() < 1e-5
    assert not form["before"].any()
    assert not form["last"].any()
    assert torch.equal(form["after"], state["after"])
    assert torch.equal(form["embed"], state["embed"]), "nothing is centred"
    assert form["head"].mean(0).abs().max() < 1e-6
    assert form["head.bias"].mean().abs() < 1e-6
    assert all(torch.allclose(canonical(form, whole)[name], form[name], atol=1e-6) for name in form)
    elements = whole.random(generator)
    assert (elements["stream"] < 0).any()
    assert (toy_log_probs(moved(form, whole, elements), ids) - toy_log_probs(state, ids)).abs().max() < 1e-5
    gauge = {name: torch.rand(WIDTH, generator=generator) + 0.5 for name in free_gauge(whole)}
    assert gauge.keys() == {"before", "last"}
    other = whole.join(regauge(whole.split(form), whole, gauge))
    assert (toy_log_probs(other, ids) - toy_log_probs(state, ids)).abs().max() < 1e-5
    linked_pieces = linked(whole)
    assert linked_pieces["up"] == {"before", "up"}
    assert linked_pieces["after"] == {"after"}


def test_a_signed_copy_is_matched() -> None:
    whole, generator = toy(tied=False), torch.Generator().manual_seed(1)
    state = {name: torch.randn(shape, generator=generator) for name, shape in whole.schema().shapes.items()}
    form = whole.split(canonical(state, whole))
    copy = whole.split(moved(whole.join(form), whole, whole.random(generator)))
    found = match(form, copy, whole)
    assert found.score == pytest.approx(1.0, abs=1e-6)
    back = moved(whole.join(copy), whole, found.elements)
    assert all(torch.equal(back[name], form[name]) for name in form)
