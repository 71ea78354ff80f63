from __future__ import annotations

from pathlib import Path

import pytest
import torch
from conftest import state_of, tiny_config, tiny_model
from group import random_elements
from torch import Tensor

import isthmus.align.alignment as alignment_module
from isthmus.align.alignment import Alignment
from isthmus.align.families import family
from isthmus.checkpoint.errors import AlignmentError, BadInput

CONFIG = tiny_config()
TABLE = family(CONFIG)
METHODS = ["permutation", "orthogonal"]


def distance(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    return max((a[name] - b[name]).abs().max().item() for name in a)


def alignment(method: str, seed: int = 0) -> Alignment:
    return Alignment(method, random_elements(TABLE, method, seed), 0.5)  # type: ignore[arg-type]


@pytest.mark.parametrize("method", METHODS)
def test_inverse(method: str) -> None:
    there = alignment(method)
    back = there.inverse(TABLE)
    table = TABLE.untied() if there.folds else TABLE
    reference = there.reference(state_of(tiny_model()), TABLE)
    moved = there.apply_to_pieces(table.split(reference), table)
    assert distance(moved, reference) > 0.1
    assert distance(back.apply_to_pieces(table.split(moved), table), reference) < 1e-5


@pytest.mark.parametrize("method", METHODS)
def test_composition_is_one_after_the_other(method: str) -> None:
    first, second = alignment(method, 1), alignment(method, 2)
    table = TABLE.untied() if first.folds else TABLE
    start = first.reference(state_of(tiny_model()), TABLE)
    stepwise = second.apply_to_pieces(table.split(first.apply_to_pieces(table.split(start), table)), table)
    assert distance(first.compose(second, TABLE).apply_to_pieces(table.split(start), table), stepwise) < 1e-5


def test_only_alignments_of_one_method_compose() -> None:
    with pytest.raises(BadInput, match="only alignments of one method compose: these are permutation and orthogonal"):
        alignment("permutation").compose(alignment("orthogonal"), TABLE)


@pytest.mark.parametrize("method", METHODS)
def test_saved_and_loaded(method: str, tmp_path: Path) -> None:
    there = alignment(method)
    there.save(tmp_path / "alignment.safetensors")
    again = Alignment.load(tmp_path / "alignment.safetensors")
    assert (again.method, again.score) == (there.method, there.score)
    assert all(torch.equal(again.elements[name], there.elements[name]) for name in there.elements)


def test_another_file_is_not_an_alignment(saved, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"'model\.safetensors' is not an alignment"):
        Alignment.load(saved("m") / "model.safetensors")
    with pytest.raises(BadInput, match="'absent' is not an alignment"):
        Alignment.load(tmp_path / "absent")


@pytest.mark.parametrize("method", METHODS)
def test_verify_passes_what_keeps_the_function(method: str) -> None:
    there, state = alignment(method), state_of(tiny_model())
    assert there.verify(state, there.apply(state, TABLE), CONFIG) < 1e-4


@pytest.mark.parametrize("space", ["residual", "h.1.qk", "h.0.ov"])
def test_verify_names_what_changes_the_function(space: str) -> None:
    """A stream rotation that moves the all-ones vector, and head maps that are no numbers."""
    there = alignment("orthogonal")
    broken = there.elements | {space: there.elements[space].clone()}
    if space == "residual":
        broken[space] = torch.linalg.qr(torch.randn(32, 32, generator=torch.Generator().manual_seed(0)).double())[0]
    else:
        broken[space][0] = float("nan")
    state = state_of(tiny_model())
    wrong = Alignment("orthogonal", broken, 0.0)
    with pytest.raises(AlignmentError, match=rf"the alignment changes the model: .* found in the element of '{space}'"):
        wrong.verify(state, wrong.apply(state, TABLE), CONFIG)


def test_orthogonal_alignment_unties_the_configuration() -> None:
    assert alignment("permutation").config(CONFIG).tie_word_embeddings
    assert not alignment("orthogonal").config(CONFIG).tie_word_embeddings
    assert CONFIG.tie_word_embeddings


def test_verify_allows_what_the_model_rounds_itself_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """A change of some 1e-4 nats is refused of a shallow model, and passes where float32 rounds about as much."""
    model = tiny_model()
    state, nothing = state_of(model), Alignment("permutation", family(model.config).permuting().identity(), 0.0)
    changed = {**state, "transformer.ln_f.weight": state["transformer.ln_f.weight"] * 1.0002}
    nothing.verify(state, state, model.config)
    with pytest.raises(AlignmentError, match="they only do together"):
        nothing.verify(state, changed, model.config)
    exact = alignment_module.streamed_log_probs

    def coarse(state: dict[str, Tensor], config: object, ids: Tensor, dtype: torch.dtype) -> Tensor:
        assert dtype == torch.float64
        return exact(state, config, ids, dtype) + 1e-3  # type: ignore[arg-type]

    monkeypatch.setattr(alignment_module, "streamed_log_probs", coarse)
    assert 1e-4 < nothing.verify(state, changed, model.config) < 4e-3
    swapped = {**state, "transformer.wte.weight": state["transformer.wte.weight"].flip(0)}
    monkeypatch.setattr(alignment_module, "ROUNDINGS", 1e9)
    with pytest.raises(AlignmentError, match=r"allowed 1e-02"):
        nothing.verify(state, swapped, model.config)
