"""Labelled examples in, blocks out: what classifiers are measured on, fitted to and chosen by.

An example is a line of a `.jsonl` file: a `text`, with a `text_pair` or without, and its `label`; or a list of words,
`tokens`, and as many `labels`. A label is a name of the model's, or its number. Examples are cut into three disjoint
parts as text is (`isthmus.eval.text`): **fit**, **select** and **report**.
"""

from __future__ import annotations

import json
import random
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..checkpoint.errors import BadInput, TooLittleText, one_line
from ..checkpoint.model import PADDING, SEGMENT
from ..checkpoint.reference import require_path, shown_name
from ..checkpoint.rust_panics import is_failure
from ..checkpoint.task import TEXTS, task_of
from ..checkpoint.untrusted_text import plain
from .corpora import label_and_source, lines_of
from .targets import labelled
from .text import Blocks
from .text_hashes import TextHashes

if TYPE_CHECKING:
    from transformers import PretrainedConfig

WORD_LABELS = ("labels", "ner_tags", "tags", "pos_tags", "chunk_tags")
SHOWN = 6
DIGITS = 10  # fewer than these has the number of a label
UNLABELLED = -100  # what datasets give words that have no label


@dataclass(frozen=True)
class Labels:
    """The labels of a classifier: of whole texts, or of their tokens."""

    names: tuple[str, ...]
    of_texts: bool

    @classmethod
    def of(cls, config: PretrainedConfig) -> Labels:
        """Those of a configuration. Raises BadInput for a classifier that has no accuracy."""
        rows: Mapping[Any, str] = config.id2label or {}
        names = tuple(str(rows[row]) for row in sorted(rows))
        if len(names) < 2:
            raise BadInput(
                "these models give a number, not one of several labels: there is no accuracy to measure, so leave "
                "--data out and give --t, and --align orthogonal or none"
            )
        if config.problem_type == "regression":
            raise BadInput(
                "these models give numbers (regression), not one of several labels: there is no accuracy to measure, "
                "so leave --data out and give --t, and --align orthogonal or none"
            )
        if config.problem_type == "multi_label_classification":
            raise BadInput(
                "these models give several labels at once (multi_label_classification), for which no accuracy is "
                "measured yet: leave --data out and give --t, and --align orthogonal or none"
            )
        return cls(names, task_of(config) == TEXTS)

    def row(self, label: object, where: str) -> int:
        """The number of a label that an example has. Raises BadInput for one that the models do not have."""
        if isinstance(label, str):
            by_name = {name.casefold(): row for row, name in enumerate(self.names)}
            row = self.names.index(label) if label in self.names else by_name.get(label.casefold())
            if row is None and label.isascii() and label.isdecimal() and len(label) < DIGITS:
                row = int(label)
        elif type(label) is int and abs(label) < 10**DIGITS and str(label) in self.names:  # a name that is a number
            row = self.names.index(str(label))
        else:
            row = label if type(label) is int else None
        if row is None or not 0 <= row < len(self.names):
            listed = ", ".join(plain(name, 40) for name in self.names[:SHOWN]) + ", ..." * (len(self.names) > SHOWN)
            raise BadInput(
                f"{where} has the label {plain(json.dumps(label), 60)}, which these models do not have: {listed}, or a "
                f"number from 0 to {len(self.names) - 1}"
            )
        return row


class LabelledText:
    """The labelled examples that `specs` name (`[label=]file.jsonl`) as blocks of at most `context` tokens.

    Every example is a block (`isthmus.eval.targets`), its text with the tokens that its tokenizer puts around it, cut
    where it is longer than the context. An example that is there twice counts once.

    Raises BadInput for what is not labelled examples of the labels of `config`.
    """

    def __init__(self, specs: Sequence[str], tokenizer: Any, config: PretrainedConfig, *, context: int, seed: int = 0):
        self.context, self._labels = context, Labels.of(config)
        self._segments = (getattr(config, "type_vocab_size", None) or 0) > 1
        self._rows: dict[str, list[Tensor]] = {}
        taken: set[bytes] = set()
        for spec in specs:
            label, source = label_and_source(spec)
            path = require_path(source, "the text")
            if path.suffix.lower() != ".jsonl" or not path.is_file():
                raise BadInput(
                    f"'{shown_name(path)}' holds no labelled examples, which classifiers are measured on: give a "
                    f".jsonl file with {self._form}"
                )
            label = label or PurePath(path).stem
            if label in self._rows:
                raise BadInput(
                    f"two texts have the label '{label}': name them, as in --data first=a.jsonl --data second=b.jsonl"
                )
            rows = list(self._read(path, tokenizer))
            random.Random(seed).shuffle(rows)
            self._rows[label] = [row for row in rows if not _is_among(row, taken)]
            highest = max((int((row % SEGMENT * (row >= 0)).max()) for row in self._rows[label]), default=0)
            lowest = max((int(-2 - row.min()) // 2**24 for row in self._rows[label]), default=0)
            if max(highest, lowest) >= int(config.vocab_size):
                raise BadInput(
                    f"the tokenizer gives the id {max(highest, lowest)}, beyond the vocabulary of {config.vocab_size}: "
                    "it belongs to another model"
                )

    @property
    def labels(self) -> list[str]:
        """The labels of the files, in the order in which they were given."""
        return list(self._rows)

    @property
    def _form(self) -> str:
        return "'text' and 'label' in every line" if self._labels.of_texts else "'tokens' and 'labels' in every line"

    def blocks(
        self,
        *,
        fit_tokens: int | None = 0,
        select_tokens: int = 8192,
        report_tokens: int = 8192,
        seen: TextHashes | None = None,
        report_on: Collection[str] = (),
    ) -> tuple[Blocks, ...]:
        """The blocks of every file, examples of these numbers of tokens in each part, as `isthmus.eval.text.Text`.

        What is reported and selected on is at most half of the examples where anything is ever fitted.

        Raises TooLittleText where a part would be empty.
        """
        cut = []
        for label, rows in self._rows.items():
            shown = label in report_on
            unseen = rows
            if seen is not None and rows:
                within = seen.within(_padded(rows)).tolist()
                unseen = [row for row, repeats in zip(rows, within, strict=True) if not repeats]
            fits = fit_tokens is not None and not shown
            wanted = {"report": report_tokens, "select": 0 if shown else select_tokens}
            parts = 1 + (wanted["select"] > 0) + (bool(fit_tokens) and fits)
            if len(unseen) < parts:
                raise TooLittleText(
                    f"the text '{label}' has {len(unseen)} different labelled examples, too few: {parts} disjoint "
                    "parts of at least one are needed"
                )
            room = max(1 + (wanted["select"] > 0), len(unseen) // 2 if fits else len(unseen))
            report = _first(unseen, wanted["report"], room - (wanted["select"] > 0))
            if wanted["select"]:
                report = report[: max(1, room * report_tokens // (report_tokens + select_tokens))]
            select = _first(unseen[len(report) :], wanted["select"], room - len(report))
            fit = _first(unseen[len(report) + len(select) :], 0 if shown else fit_tokens or 0, len(unseen))
            cut.append(Blocks(label, *(_padded(part) for part in (fit, select, report))))
        return tuple(cut)

    def _read(self, path: Path, tokenizer: Any) -> Iterator[Tensor]:
        name = shown_name(path)
        for number, content in lines_of(path):
            where = f"line {number} of '{name}'"
            if not isinstance(content, dict):
                raise BadInput(f"{where} is not a JSON object with {self._form}")
            try:
                row = self._of_text(content, tokenizer, where) if self._labels.of_texts else None
                row = self._of_words(content, tokenizer, where) if row is None else row
            except BadInput:
                raise
            except BaseException as error:
                if not is_failure(error) or isinstance(error, MemoryError):
                    raise
                raise BadInput(
                    f"the tokenizer of these models fails on {where} ({type(error).__name__}: {one_line(error)}): it "
                    "is damaged, or has no way to do this; fetch its files again"
                ) from None
            if len(row):
                yield row

    def _of_text(self, content: Mapping[str, Any], tokenizer: Any, where: str) -> Tensor:
        text, pair = content.get("text"), content.get("text_pair")
        if not isinstance(text, str) or not (pair is None or isinstance(pair, str)) or "label" not in content:
            raise BadInput(f"{where} is not a JSON object with {self._form}")
        label = self._labels.row(content["label"], where)
        encoded = tokenizer(text, pair, truncation=True, max_length=self.context)
        ids = torch.tensor(encoded["input_ids"], dtype=torch.int64)
        if self._segments and "token_type_ids" in encoded:
            ids += SEGMENT * torch.tensor(encoded["token_type_ids"], dtype=torch.int64)
        if len(ids):
            ids[0] = labelled(int(ids[0]), label)
        return ids

    def _of_words(self, content: Mapping[str, Any], tokenizer: Any, where: str) -> Tensor:
        words: Any = content.get("tokens")
        labels: Any = next((content[key] for key in WORD_LABELS if key in content), None)
        fits = isinstance(words, list) and isinstance(labels, list) and len(words) == len(labels)
        if not fits or not all(isinstance(word, str) for word in words):
            raise BadInput(f"{where} is not a JSON object with {self._form}: words, and as many labels")
        encoded = tokenizer(words, is_split_into_words=True, truncation=True, max_length=self.context)
        ids, before, any_label = torch.tensor(encoded["input_ids"], dtype=torch.int64), None, False
        for place, word in enumerate(encoded.word_ids()):
            label = None if word is None or word == before else labels[word]
            before = word
            if label is not None and label != UNLABELLED:
                ids[place] = labelled(int(ids[place]), self._labels.row(label, where))
                any_label = True
        return ids if any_label else ids[:0]


def _first(rows: Sequence[Tensor], tokens: int, most: int) -> list[Tensor]:
    """The first examples, until they have so many tokens, and at most so many of them."""
    part: list[Tensor] = []
    for row in rows[:most]:
        if tokens <= 0:
            break
        part.append(row)
        tokens -= len(row)
    return part


def _padded(rows: Sequence[Tensor]) -> Tensor:
    """Blocks (examples, the longest), int64."""
    if not rows:
        return torch.empty(0, 1, dtype=torch.int64)
    return torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True, padding_value=PADDING)


def _is_among(row: Tensor, taken: set[bytes]) -> bool:
    """Whether the text of an example was there before, whatever its labels; it is from now on."""
    tokens = torch.where(row < PADDING, (-2 - row) // 2**24, row)
    key = tokens.numpy().tobytes()
    before = key in taken
    taken.add(key)
    return before
