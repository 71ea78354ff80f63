"""Blocks of text, as a merge reads them; and of one corpus, those that repeat others among them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from isthmus.eval.corpora import Corpus
from isthmus.eval.text import Blocks, Text, Tokenizer, _TokenizedCorpus
from isthmus.eval.text_hashes import TextHashes


def blocks(
    source: Corpus,
    tokenizer: Tokenizer,
    *,
    context: int,
    seed: int = 0,
    seen: TextHashes | None = None,
    **amounts: int | None,
) -> Blocks:
    """Fit, select and report blocks, of as many tokens as `Text.blocks` takes."""
    tokens = {"report_tokens": 8192, "select_tokens": 8192, "fit_tokens": 0} | amounts
    counts = {part.removesuffix("_tokens"): -(-(count or 0) // context) for part, count in tokens.items()}
    return _TokenizedCorpus(source, tokenizer, seed).cut(context, counts, seen, fits=tokens["fit_tokens"] is not None)


def labelled_blocks(
    specs: Sequence[str], tokenizer: Tokenizer, *, context: int, vocabulary: int, seed: int = 0, **amounts: Any
) -> tuple[Blocks, ...]:
    """The blocks of a `Text` that is read for them alone."""
    return Text(specs, tokenizer, context=context, vocabulary=vocabulary, seed=seed).blocks(**amounts)
