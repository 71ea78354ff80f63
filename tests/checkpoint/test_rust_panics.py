"""Tokenizers that make the library written in Rust panic: a sentence, and not a stack of its functions."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import EMBEDDED

from isthmus.checkpoint.errors import BadInput
from isthmus.checkpoint.loading import load
from isthmus.checkpoint.rust_panics import is_failure, is_panic, quiet_panics

BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
PANICS: dict[str, Callable[[dict], object]] = {
    "a table of characters that is none": lambda content: content.update(
        normalizer={"type": "Precompiled", "precompiled_charsmap": "AAAA"}
    ),
    "a prefix longer than its tokens": lambda content: content["model"].update(continuing_subword_prefix="é" * 8),
    "pieces of no length": lambda content: content.update(pre_tokenizer={"type": "FixedLength", "length": 0}),
    "pieces of no length, later": lambda content: content.update(
        pre_tokenizer={"type": "Sequence", "pretokenizers": [BYTES, {"type": "FixedLength", "length": 0}]}
    ),
}


@pytest.fixture
def panicking(saved) -> Callable[[str], tuple[Path, Path]]:
    def make(kind: str) -> tuple[Path, Path]:
        models = saved("a", 0, tokenizer=True, vocab_size=1024), saved("b", 1, tokenizer=True, vocab_size=1024)
        content = json.loads((EMBEDDED / "docs" / "tokenizer.json").read_text())
        PANICS[kind](content)
        for model in models:
            (model / "tokenizer.json").write_text(json.dumps(content))
        return models

    return make


@pytest.mark.parametrize("kind", PANICS)
def test_a_panic_is_a_sentence(panicking, isthmus, tmp_path: Path, kind: str) -> None:
    a, b = panicking(kind)
    (tmp_path / "text.txt").write_text("the sea was calm " * 200)
    text = ("--data", tmp_path / "text.txt", "--tokens", 64)
    found = isthmus("merge", a, b, "-o", tmp_path / "out", *text, "--align", "none")
    assert found.code == 2
    sentences = ("'a' has no tokenizer that transformers can read", "transformers cannot build the tokenizer of 'a'")
    assert found.error.startswith(tuple(f"isthmus: {sentence}" for sentence in sentences))
    assert found.error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_panic_is_an_error_of_the_library(panicking) -> None:
    with pytest.raises(BadInput, match="no tokenizer that transformers can read"):
        load(panicking("pieces of no length")[0]).tokenizer()


def test_a_panic_is_no_exception_and_an_interrupt_is_no_failure() -> None:
    from tokenizers.pre_tokenizers import FixedLength

    with pytest.raises(BaseException, match="non-zero") as caught, quiet_panics():
        FixedLength(0).pre_tokenize_str("text")
    assert not isinstance(caught.value, Exception)
    assert is_panic(caught.value)
    assert is_failure(caught.value)
    assert is_failure(ValueError())
    assert not is_failure(KeyboardInterrupt())


def test_only_a_panic_is_not_shown(capfd) -> None:
    with quiet_panics():
        os.write(2, b"a warning\n")

    def fail() -> None:
        os.write(2, b"another\n")
        raise ValueError("x")

    with pytest.raises(ValueError, match="x"), quiet_panics():
        fail()
    assert capfd.readouterr().err == "a warning\nanother\n"
