"""Tokenizers transplanted: which tokens are the same, and what rows of the others are made of."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from conftest import EMBEDDED
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from isthmus.checkpoint.tokenizer import Tokenizer
from isthmus.checkpoint.transplant import matching_pursuit, shared_tokens, transplanted


def slow_pursuit(target: Tensor, atoms: Tensor, count: int) -> tuple[list[int], Tensor]:
    """One target, an atom at a time, by least squares."""
    chosen: list[int] = []
    residual, coefficients = target, torch.empty(0, dtype=torch.float64)
    for _ in range(count):
        fits = [
            abs(float(residual @ atom)) / float(atom.norm()) if i not in chosen else -1.0
            for i, atom in enumerate(atoms)
        ]
        chosen.append(max(range(len(atoms)), key=lambda i: fits[i]))
        coefficients = torch.linalg.lstsq(atoms[chosen].T, target[:, None]).solution[:, 0]
        residual = target - coefficients @ atoms[chosen]
    return chosen, coefficients


def test_matching_pursuit_is_that_of_a_plain_loop() -> None:
    torch.manual_seed(0)
    atoms, targets = torch.randn(40, 12).double(), torch.randn(7, 12).double()
    chosen, coefficients = matching_pursuit(targets, atoms, 5)
    for target, own, values in zip(targets, chosen, coefficients, strict=True):
        expected, expected_values = slow_pursuit(target, atoms, 5)
        assert own.tolist() == expected
        torch.testing.assert_close(values, expected_values, atol=1e-7, rtol=1e-6)


def test_a_sparse_combination_is_found_and_carried_over() -> None:
    torch.manual_seed(0)
    anchors = torch.linalg.qr(torch.randn(32, 32).double())[0]
    turn = torch.linalg.qr(torch.randn(32, 32).double())[0]
    weights = torch.zeros(5, 32).double()
    for row in weights:
        row[torch.randperm(32)[:3]] = torch.randn(3).double()
    made = transplanted(weights @ anchors, anchors, (anchors @ turn).float(), atoms=3)
    torch.testing.assert_close(made, (weights @ anchors @ turn).float(), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("count", [0, 1, 300])
def test_few_anchors_and_many_rows(count: int) -> None:
    torch.manual_seed(0)
    made = transplanted(torch.randn(count, 8), torch.randn(4, 8), torch.randn(4, 6))
    assert made.shape == (count, 6)
    assert bool(torch.isfinite(made).all())


def test_rows_of_zeros_are_no_obstacle() -> None:
    anchors, donor = torch.randn(6, 4), torch.randn(3, 4)
    anchors[0] = donor[1] = 0
    made = transplanted(donor, anchors, torch.randn(6, 4))
    assert bool(torch.isfinite(made).all())
    assert not made[1].any()


def test_equal_anchors_are_no_obstacle() -> None:
    anchors = torch.ones(6, 4)
    assert bool(torch.isfinite(transplanted(torch.randn(3, 4), anchors, torch.randn(6, 4))).all())


def byte_level(*words: str, **special: str) -> Tokenizer:
    """As GPT-2's: Ġ for a space."""
    vocabulary = {word: row for row, word in enumerate([*special.values(), *words])}
    backend = Backend(models.BPE(vocabulary, []))
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    return of(PreTrainedTokenizerFast(tokenizer_object=backend, **special))


def pieces(*words: str, **special: str) -> Tokenizer:
    """As Llama's: ▁ for a space, <0x0A> for a byte."""
    vocabulary = {word: row for row, word in enumerate([*special.values(), *words])}
    backend = Backend(models.BPE(vocabulary, []))
    backend.decoder = decoders.Metaspace()
    return of(PreTrainedTokenizerFast(tokenizer_object=backend, **special))


def word_pieces(*words: str, **special: str) -> Tokenizer:
    """As BERT's: ## for the rest of a word."""
    vocabulary = {word: row for row, word in enumerate([*special.values(), *words])}
    backend = Backend(models.WordPiece(vocabulary, unk_token="[UNK]"))
    return of(PreTrainedTokenizerFast(tokenizer_object=backend, **special))


def of(built: Any) -> Tokenizer:
    special = {
        role: str(getattr(built, role)) for role in built.special_tokens_map if isinstance(getattr(built, role), str)
    }
    return Tokenizer(built.get_vocab(), special=special, built=built)


def test_tokens_are_the_same_that_stand_for_the_same_text() -> None:
    bytes_ = byte_level("the", "Ġthe", "Ċ", "ing", "Ã©", "only", eos_token="<|end|>")
    other = pieces("▁the", "the", "<0x0A>", "é", "▁other", eos_token="</s>", unk_token="<unk>")
    found = shared_tokens(bytes_, other)
    rows = other.tokens
    assert found == {
        "the": rows["the"],
        "Ġthe": rows["▁the"],
        "Ċ": rows["<0x0A>"],
        "Ã©": rows["é"],
        "<|end|>": rows["</s>"],
    }
    back = shared_tokens(other, bytes_)
    assert back["▁the"] == bytes_.tokens["Ġthe"]
    assert back["</s>"] == bytes_.tokens["<|end|>"]
    assert "▁other" not in back
    assert "<unk>" not in back


def test_a_token_of_several_roles_keeps_its_name() -> None:
    own = byte_level("a", eos_token="<|end|>", pad_token="<|end|>", unk_token="<|end|>")
    other = byte_level("a", eos_token="<|end|>", pad_token="<pad>", unk_token="<unk>")
    assert shared_tokens(own, other)["<|end|>"] == other.tokens["<|end|>"]
    renamed = byte_level("a", eos_token="</s>", pad_token="<pad>", unk_token="<unk>")
    assert shared_tokens(own, renamed)["<|end|>"] == renamed.tokens["</s>"]


def test_pieces_of_words() -> None:
    words = word_pieces("the", "##ing", "cat", unk_token="[UNK]", cls_token="[CLS]")
    found = shared_tokens(byte_level("the", "Ġthe", "ing", "Ġcat", eos_token="<end>"), words)
    assert found == {"Ġthe": words.tokens["the"], "ing": words.tokens["##ing"], "Ġcat": words.tokens["cat"]}


def test_a_tokenizer_and_itself_share_all() -> None:
    own = of(AutoTokenizer.from_pretrained(EMBEDDED / "code"))
    assert shared_tokens(own, own) == own.tokens
