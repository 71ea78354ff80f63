"""Text in, token blocks out.

The text of every label is cut into three disjoint parts: **fit** trains (bends, learned alignment), **select** chooses
(t, alignment), **report** is what is shown. No token serves two.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from ..checkpoint.errors import BadInput, TooLittleText, one_line
from ..checkpoint.rust_panics import is_failure
from .corpora import Corpus, corpus
from .text_hashes import TextHashes

SLICE = 2**17  # characters tokenised at once, so that a large file is only tokenised as far as it is needed


class Tokenizer(Protocol):
    """What isthmus needs of a tokenizer; those of `transformers` satisfy it."""

    eos_token_id: int | None

    def encode(self, text: str, *, add_special_tokens: bool, verbose: bool) -> list[int]:
        """Token ids of a text."""


@dataclass(frozen=True)
class Blocks:
    """The three parts of one label: token ids, each (blocks, context), int64."""

    label: str
    fit: Tensor
    select: Tensor
    report: Tensor


class Text:
    """The corpora that `specs` name (`isthmus.eval.corpora.corpus`) as token blocks of one length.

    Every corpus is read and tokenised once, and only as far as the largest request needs: a later request goes on where
    reading stopped, and returns what it would return as the first one.

    Raises BadInput for two corpora of one label, and as `corpus` does.
    """

    def __init__(
        self, specs: Sequence[str], tokenizer: Tokenizer, *, context: int, vocabulary: int, seed: int = 0
    ) -> None:
        self.context, self.vocabulary = context, vocabulary
        self._corpora: dict[str, _TokenizedCorpus] = {}
        for source in map(corpus, specs):
            if source.label in self._corpora:
                raise BadInput(
                    f"two texts have the label '{source.label}': "
                    "name them, as in --data first=a.txt --data second=b.txt"
                )
            self._corpora[source.label] = _TokenizedCorpus(source, tokenizer, seed)

    def blocks(
        self,
        *,
        fit_tokens: int = 0,
        select_tokens: int = 8192,
        report_tokens: int = 8192,
        seen: TextHashes | None = None,
    ) -> tuple[Blocks, ...]:
        """The blocks of every corpus, with these numbers of tokens in each part.

        Documents are taken in an order drawn from the seed, joined by the end-of-text token and tokenised until there
        is enough; the blocks are then shuffled and dealt out, report first. Where the text is shorter than that, fit
        gets what the other two leave, and these are scaled down alike to the whole text, or to half of it where there
        is to be a fit part. Blocks that hold text that was `seen` before are left out. Many corpora repeat themselves:
        a fit block that repeats text of a select or report block, of any label, is dropped (`TextHashes`).

        Raises BadInput for token ids outside the vocabulary; TooLittleText when a text is empty, too short for one
        block in every part that is not empty, or only repeats itself.
        """
        tokens = {"report": report_tokens, "select": select_tokens, "fit": fit_tokens}
        counts = {part: -(-count // self.context) for part, count in tokens.items()}
        cut: list[Blocks] = []
        for source in self._corpora.values():
            cut.append(source.cut(self.context, counts, seen))
            highest = max(int(ids.max()) for ids in (cut[-1].fit, cut[-1].select, cut[-1].report) if ids.numel())
            if highest >= self.vocabulary:
                raise BadInput(
                    f"the tokenizer gives the id {highest}, beyond the vocabulary of {self.vocabulary}: "
                    "it belongs to another model"
                )
        measured = TextHashes.of((ids for part in cut for ids in (part.report, part.select)), every=1)
        return tuple(_without_repeats(part, measured) for part in cut)


def labelled_blocks(
    specs: Sequence[str],
    tokenizer: Tokenizer,
    *,
    context: int,
    vocabulary: int,
    fit_tokens: int = 0,
    select_tokens: int = 8192,
    report_tokens: int = 8192,
    seed: int = 0,
    seen: TextHashes | None = None,
) -> tuple[Blocks, ...]:
    """The blocks of a `Text` that is read for them alone. Raises as `Text` and `Text.blocks` do."""
    text = Text(specs, tokenizer, context=context, vocabulary=vocabulary, seed=seed)
    return text.blocks(fit_tokens=fit_tokens, select_tokens=select_tokens, report_tokens=report_tokens, seen=seen)


class _TokenizedCorpus:
    """A corpus and its token ids, as far as they were read: in pieces of a document, in the order of a seed."""

    def __init__(self, source: Corpus, tokenizer: Tokenizer, seed: int) -> None:
        self._source, self._tokenizer, self._seed = source, tokenizer, seed
        self._pieces: list[Tensor] = []
        self._unread = self._read()

    def cut(self, context: int, counts: Mapping[str, int], seen: TextHashes | None) -> Blocks:
        """Its blocks, `counts` in each part (`Text.blocks`)."""
        label, origin = self._source.label, self._source.origin
        needed = sum(counts.values())
        table, tokens = _unseen_blocks(self.pieces(), context, needed, seen)
        if not tokens:
            raise TooLittleText(f"the text '{label}' ({origin}) is empty")
        available, parts = len(table), sum(1 for count in counts.values() if count)
        if available < parts:
            unseen = f", {available * context} of them in blocks that training has not seen" if seen else ""
            raise TooLittleText(
                f"the text '{label}' ({origin}) has {tokens} tokens{unseen}, too short: {parts} disjoint "
                f"parts of at least one block of {context} tokens are needed ({parts * context} tokens)"
            )
        if available < needed:
            counts = _scaled(counts, available)
        shuffled = table[torch.randperm(available, generator=torch.Generator().manual_seed(self._seed))]
        sizes = [counts["report"], counts["select"], counts["fit"]]
        report, select, fit = torch.split(shuffled[: sum(sizes)], sizes)
        return Blocks(label, fit=fit, select=select, report=report)

    def pieces(self) -> Iterator[Tensor]:
        """All pieces, int64: those that were read before, then more."""
        place = 0
        while True:
            if place == len(self._pieces):
                try:
                    self._pieces.append(next(self._unread))
                except StopIteration:
                    return
                except BaseException:
                    self._pieces, self._unread = [], self._read()  # a generator that raised is at its end
                    raise
            yield self._pieces[place]
            place += 1

    def _read(self) -> Iterator[Tensor]:
        """The token ids of all documents in pieces, the end-of-text token after every document."""
        end = self._tokenizer.eos_token_id
        for document in self._source.documents(self._seed):
            for start in range(0, len(document), SLICE):
                yield torch.tensor(self._encoded(document[start : start + SLICE]), dtype=torch.int64)
            if end is not None:
                yield torch.tensor([end], dtype=torch.int64)

    def _encoded(self, text: str) -> list[int]:
        try:
            return self._tokenizer.encode(text, add_special_tokens=False, verbose=False)
        except BaseException as error:
            if not is_failure(error) or isinstance(error, MemoryError):
                raise
            raise BadInput(
                f"the tokenizer of these models fails on the text '{self._source.label}' "
                f"({type(error).__name__}: {one_line(error)}): it is damaged; fetch its files again"
            ) from None


def _unseen_blocks(pieces: Iterator[Tensor], context: int, needed: int, seen: TextHashes | None) -> tuple[Tensor, int]:
    """At least `needed` unseen blocks, (blocks, context), or all there are; and the number of tokens read for them."""
    tables = [torch.empty(0, context, dtype=torch.int64)]
    rest = torch.empty(0, dtype=torch.int64)
    tokens = available = 0
    for piece in pieces:
        tokens += piece.numel()
        rest = torch.cat([rest, piece])
        whole = rest.numel() // context * context
        table, rest = rest[:whole].view(-1, context), rest[whole:]
        tables.append(table[~seen.within(table)] if seen else table)
        available += len(tables[-1])
        if available >= needed:
            break
    return torch.cat(tables), tokens


def _scaled(counts: Mapping[str, int], available: int) -> dict[str, int]:
    """Fewer blocks in every part, to share out those that there are; at least one in every part that is not empty."""
    fit = counts["fit"]
    measured = {part: count for part, count in counts.items() if part != "fit"}
    room = min(sum(measured.values()), max(len(measured), available // 2) if fit else available)
    scaled = {
        part: max(1, count * room // max(1, sum(measured.values()))) if count else 0 for part, count in measured.items()
    }
    while sum(scaled.values()) > room:
        scaled[max(scaled, key=lambda part: scaled[part])] -= 1
    return {**scaled, "fit": min(fit, available - sum(scaled.values()))}


def _without_repeats(part: Blocks, measured: TextHashes) -> Blocks:
    """One label's blocks without the fit blocks that repeat what is `measured` on."""
    fit = part.fit[~measured.within(part.fit)]
    if len(part.fit) and not len(fit):
        raise TooLittleText(
            f"the text '{part.label}' repeats itself: nothing is left to train on that is not measured on, too; "
            "give more varied text"
        )
    return replace(part, fit=fit)
