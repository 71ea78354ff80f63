"""Text in, token blocks out.

The text of every label is cut into three disjoint parts: **fit** trains (bends, learned alignment), **select** chooses
(t, alignment), **report** is what is shown. No token serves two. Parts have documents of their own, or regions of a
long one with a gap between them: what was fitted to a document says too much about the rest of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from ..checkpoint.errors import BadInput, TooLittleText, one_line
from ..checkpoint.rust_panics import is_failure
from ..checkpoint.task import MASKED, task_of
from .corpora import Corpus, corpus
from .masking import Masking
from .text_hashes import TextHashes

if TYPE_CHECKING:
    from transformers import PretrainedConfig

SLICE = 2**17  # characters tokenised at once, so that a large file is only tokenised as far as it is needed
CHARACTERS = 4  # of a token, at first
MARGIN = 16  # tokens: the first may be a part of a word
SPARE = 2.5  # times what is measured on: with less text, parts are scaled down
GAP = 0.05  # of a document, between two parts of it
LONG = 20  # blocks of what is left of a document that has two parts
SPACIOUS = 10  # blocks, from which on a short text has gaps


class Tokenizer(Protocol):
    """What isthmus needs of a tokenizer; those of `transformers` satisfy it."""

    eos_token_id: int | None

    def encode(self, text: str, *, add_special_tokens: bool, verbose: bool) -> list[int]:
        """Token ids of a text."""


@dataclass(frozen=True)
class Blocks:
    """The three parts of one label: token ids, each (blocks, context), int64; for masked language models and
    classifiers as `isthmus.eval.targets` says.
    """

    label: str
    fit: Tensor
    select: Tensor
    report: Tensor


class Text:
    """The corpora that `specs` name (`isthmus.eval.corpora.corpus`) as token blocks of one length.

    Every corpus is read and tokenised once, and only as far as the largest request needs: a later request goes on where
    reading stopped, and returns what it would return as the first one.

    For a masked language model, tokens of every block are hidden (`masked`).

    Raises BadInput for two corpora of one label, for a masked language model whose tokenizer has no mask, and as
    `corpus` does.
    """

    def __init__(
        self,
        specs: Sequence[str],
        tokenizer: Tokenizer,
        *,
        context: int,
        vocabulary: int,
        seed: int = 0,
        masked: bool = False,
    ) -> None:
        self._masking = Masking.of(tokenizer, vocabulary, seed) if masked else None
        self.context = context - (self._masking.around if self._masking else 0)
        if self.context < 1:
            raise BadInput(f"a block of {context} tokens has no room for text beside those that begin and end it")
        self.vocabulary = vocabulary
        self._corpora: dict[str, _TokenizedCorpus] = {}
        for source in map(corpus, specs):
            if source.label in self._corpora:
                raise BadInput(
                    f"two texts have the label '{source.label}': "
                    "name them, as in --data first=a.txt --data second=b.txt"
                )
            self._corpora[source.label] = _TokenizedCorpus(source, tokenizer, seed)

    @classmethod
    def of_model(
        cls, specs: Sequence[str], tokenizer: Tokenizer, config: PretrainedConfig, *, context: int, seed: int
    ) -> Text:
        """The corpora for a model of this configuration, in blocks of `context` tokens."""
        vocabulary, masked = int(config.vocab_size), task_of(config) == MASKED
        return cls(specs, tokenizer, context=context, vocabulary=vocabulary, seed=seed, masked=masked)

    @property
    def labels(self) -> list[str]:
        """The labels of the corpora, in the order in which they were given."""
        return list(self._corpora)

    def blocks(
        self,
        *,
        fit_tokens: int | None = 0,
        select_tokens: int = 8192,
        report_tokens: int = 8192,
        seen: TextHashes | None = None,
        report_on: Collection[str] = (),
    ) -> tuple[Blocks, ...]:
        """The blocks of every corpus, with these numbers of tokens in each part.

        Documents are taken in an order drawn from the seed, joined by the end-of-text token and tokenised until there
        is enough: the first to report on, the next to select on, the others to fit on. A long document, or one of two,
        is cut: report and select are ends, fit is the beginning, with gaps of `GAP` of the document. Report and select
        are the same whatever is fitted; of a short text they get half, or all where nothing is ever fitted
        (`fit_tokens` None). Labels `report_on` have a report part only. Blocks that hold text that was `seen` before
        are left out. Many corpora repeat themselves: a fit block that repeats text of a select or report block, of any
        label, is dropped (`TextHashes`).

        Raises BadInput for token ids outside the vocabulary; TooLittleText when a text is empty, too short for one
        block in every part that is not empty, or only repeats itself.
        """
        tokens = {"report": report_tokens, "select": select_tokens, "fit": fit_tokens or 0}
        counts = {part: -(-count // self.context) for part, count in tokens.items()}
        cut: list[Blocks] = []
        for label, source in self._corpora.items():
            shown = label in report_on
            parts = {**counts, "fit": 0, "select": 0} if shown else counts
            cut.append(source.cut(self.context, parts, seen, fits=fit_tokens is not None and not shown))
            highest = max(int(ids.max()) for ids in (cut[-1].fit, cut[-1].select, cut[-1].report) if ids.numel())
            if highest >= self.vocabulary:
                raise BadInput(
                    f"the tokenizer gives the id {highest}, beyond the vocabulary of {self.vocabulary}: "
                    "it belongs to another model"
                )
        measured = TextHashes.of((ids for part in cut for ids in (part.report, part.select)), every=1)
        varied = tuple(_without_repeats(part, measured) for part in cut)
        return tuple(map(self._as_read, varied)) if self._masking else varied

    def _as_read(self, part: Blocks) -> Blocks:
        assert self._masking is not None
        hide = self._masking.hide
        return Blocks(part.label, fit=hide(part.fit), select=hide(part.select), report=hide(part.report))


class _Document:
    """A document, tokenised in pieces, each once; the end-of-text token follows it where the tokenizer has one."""

    def __init__(self, text: str, encode: Callable[[str], list[int]], end: int | None) -> None:
        self.text, self._encode, self._end = text, encode, end
        self._pieces: dict[tuple[int, int], Tensor] = {}

    def first(self, stop: int) -> Iterator[Tensor]:
        """The token ids of all before a character, in pieces."""
        for start in range(0, stop, SLICE):
            yield self._between(start, min(start + SLICE, stop))

    def last(self, stop: int, tokens: int) -> tuple[Tensor, int]:
        """The last `tokens` token ids before a character, or all there are, and a character that is before them."""
        characters = CHARACTERS * tokens
        while True:
            start = max(0, stop - characters)
            ids = self._between(start, stop)
            if start and len(ids) <= tokens:
                characters *= 2
                continue
            nearer = stop - characters * (tokens + MARGIN) // max(1, len(ids))
            if nearer > start and len(self._between(nearer, stop)) > tokens:
                start, ids = nearer, self._between(nearer, stop)
            return ids[max(0, len(ids) - tokens) :], start

    def _between(self, start: int, stop: int) -> Tensor:
        if (start, stop) not in self._pieces:
            ids = self._encode(self.text[start:stop])
            if stop == len(self.text) and self._end is not None:
                ids = [*ids, self._end]
            self._pieces[start, stop] = torch.tensor(ids, dtype=torch.int64)
        return self._pieces[start, stop]


class _Part:
    """The blocks of one part, (blocks, context), those left out that were `seen`."""

    def __init__(self, context: int, count: int, seen: TextHashes | None) -> None:
        self._context, self._count, self._seen = context, count, seen
        self._rest = torch.empty(0, dtype=torch.int64)
        self.blocks = torch.empty(0, context, dtype=torch.int64)

    @property
    def missing(self) -> int:
        """How many tokens it takes to fill it."""
        return max(0, (self._count - len(self.blocks)) * self._context - len(self._rest))

    def add(self, ids: Tensor, *, ends: bool = False) -> None:
        """Add the tokens that follow; what comes after those of a piece that `ends` does not belong to them."""
        ids = torch.cat([self._rest, ids])
        whole = len(ids) // self._context * self._context
        blocks, self._rest = ids[:whole].view(-1, self._context), ids[whole : None if not ends else whole]
        unseen = blocks[~self._seen.within(blocks)] if self._seen else blocks
        self.blocks = torch.cat([self.blocks, unseen])[: self._count]


class _TokenizedCorpus:
    """A corpus, its documents read and tokenised as far as they were needed, in the order of a seed."""

    def __init__(self, source: Corpus, tokenizer: Tokenizer, seed: int) -> None:
        self._source, self._tokenizer, self._seed = source, tokenizer, seed
        self._read: list[_Document] = []
        self._unread = source.documents(seed)

    def cut(self, context: int, counts: Mapping[str, int], seen: TextHashes | None, *, fits: bool) -> Blocks:
        """Its blocks, `counts` in each part (`Text.blocks`)."""
        label, origin = self._source.label, self._source.origin
        parts = sum(1 for count in counts.values() if count)
        measured = counts["report"] + counts["select"]
        everything = _Part(context, max(parts, math.ceil(SPARE * measured) if fits else measured), seen)
        tokens = 0
        for document in self._documents():
            for ids in document.first(len(document.text)):
                tokens += len(ids)
                everything.add(ids)
                if not everything.missing:
                    break
            if not everything.missing:
                break
        available = len(everything.blocks)
        if not tokens:
            raise TooLittleText(f"the text '{label}' ({origin}) is empty")
        if available < parts:
            unseen = f", {available * context} of them in blocks that training has not seen" if seen else ""
            raise TooLittleText(
                f"the text '{label}' ({origin}) has {tokens} tokens{unseen}, too short: {parts} disjoint "
                f"parts of at least one block of {context} tokens are needed ({parts * context} tokens)"
            )
        cut = None if everything.missing else self._by_documents(context, counts, seen)
        report, select, fit = cut or _by_regions(everything.blocks, counts, fits=fits)
        generator = torch.Generator().manual_seed(self._seed)
        report, select = (rows[torch.randperm(len(rows), generator=generator)] for rows in (report, select))
        return Blocks(label, fit=fit, select=select, report=report)

    def _by_documents(self, context: int, counts: Mapping[str, int], seen: TextHashes | None) -> list[Tensor] | None:
        """The blocks to report on, to select on and to fit on, of other documents each; None where these run out.

        Where there are too few documents, parts share one: what is measured on is its end, what is fitted on its
        beginning, and between two parts `GAP` of it is left out.
        """
        report, select, fit = parts = [_Part(context, counts[part], seen) for part in ("report", "select", "fit")]
        left: list[int] = []  # of every document that a part has some of, the characters before the gap
        for part in (report, select):
            for number, document in enumerate(self._documents()):
                if not part.missing:
                    break
                if number == len(left):
                    left.append(len(document.text))
                    self._take_end(part, number, left)
            while part.missing and any(left):
                for number, stop in enumerate(left):
                    if stop and part.missing:
                        self._take_end(part, number, left)
            if part.missing:
                return None
        for number, document in enumerate(self._documents()):
            if not fit.missing:
                break
            if number >= len(left):
                for ids in document.first(len(document.text)):
                    fit.add(ids)
        for document, stop in zip(self._read, left, strict=False):
            shared = stop >= LONG * CHARACTERS * context or len(left) == len(self._read)
            for ids in document.first(stop) if fit.missing and shared else ():
                fit.add(ids)
            fit.add(torch.empty(0, dtype=torch.int64), ends=True)
        return [part.blocks for part in parts]

    def _take_end(self, part: _Part, number: int, left: list[int]) -> None:
        document = self._read[number]
        ids, start = document.last(left[number], part.missing)
        part.add(ids, ends=left[number] < len(document.text))
        left[number] = max(0, start - int(GAP * len(document.text)))

    def _documents(self) -> Iterator[_Document]:
        """All documents: those that were read before, then more."""
        end, place = self._tokenizer.eos_token_id, 0
        while True:
            if place == len(self._read):
                try:
                    self._read.append(_Document(next(self._unread), self._encoded, end))
                except StopIteration:
                    return
                except BaseException:
                    self._read, self._unread = [], self._source.documents(self._seed)  # a generator that raised is over
                    raise
            yield self._read[place]
            place += 1

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


def _by_regions(blocks: Tensor, counts: Mapping[str, int], *, fits: bool) -> list[Tensor]:
    """All blocks of a short text cut into report (the last), select and fit, a block between two parts where it can be.

    With `fits`, the two that are measured on have at most half of them, whatever is fitted; both are scaled down alike.
    """
    available, wanted = len(blocks), {part: counts[part] for part in ("report", "select")}
    parts = sum(1 for count in counts.values() if count)
    gap = int(available >= SPACIOUS and parts > 1)
    least = sum(1 for count in wanted.values() if count)
    room = max(least, available // 2 if fits else available) - gap * (least > 1)
    total = sum(wanted.values())
    scaled = {part: min(count, max(1, count * room // total)) if count else 0 for part, count in wanted.items()}
    while sum(scaled.values()) > room:
        scaled[max(scaled, key=lambda part: scaled[part])] -= 1
    first = available - scaled["report"]
    second = first - gap - scaled["select"]
    fit = blocks[: max(0, second - gap)][: counts["fit"]]
    return [blocks[first:], blocks[second : second + scaled["select"]], fit]


def _without_repeats(part: Blocks, measured: TextHashes) -> Blocks:
    """One label's blocks without the fit blocks that repeat what is `measured` on."""
    fit = part.fit[~measured.within(part.fit)]
    if len(part.fit) and not len(fit):
        raise TooLittleText(
            f"the text '{part.label}' repeats itself: nothing is left to train on that is not measured on, too; "
            "give more varied text"
        )
    return replace(part, fit=fit)
