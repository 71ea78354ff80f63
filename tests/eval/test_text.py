from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from token_blocks import blocks, labelled_blocks

from isthmus.checkpoint.errors import BadInput
from isthmus.eval.corpora import corpus
from isthmus.eval.text import SLICE, Text
from isthmus.eval.text_hashes import TextHashes


class Bytes:
    """A tokenizer of bytes: ids 1 to 256, and 0 for the end of a text."""

    eos_token_id: int | None = 0

    def encode(self, text: str, *, add_special_tokens: bool, verbose: bool) -> list[int]:
        return [byte + 1 for byte in text.encode()]


def write(path: Path, content: str | bytes) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


BAD = {
    "absent": (None, "no text at '.*absent': give a file"),
    "latin.txt": ("Stra\xdfe".encode("latin-1"), r"'latin\.txt' is not UTF-8 text \(byte 4 is 0xdf\)"),
    "empty.txt": ("", r"the text 'empty' \(empty\.txt\) is empty"),
    "spaces.txt": (" \n ", r"the text 'spaces' \(spaces\.txt\) is empty"),
    "short.txt": (
        "too short",
        r"'short' \(short\.txt\) has 10 tokens, too short: 2 disjoint parts of at least one block",
    ),
    "bad.jsonl": ('{"text": "a"}\n{"txt": "b"}\n', r"line 2 of 'bad\.jsonl' is not a JSON object with a 'text' field"),
    "number.jsonl": ('{"text": 3}\n', r"line 1 of 'number\.jsonl' is not a JSON object with a 'text' field"),
}


@pytest.mark.parametrize("name", BAD)
def test_text_that_cannot_be_used(tmp_path: Path, name: str) -> None:
    content, message = BAD[name]
    if content is not None:
        write(tmp_path / name, content)
    with pytest.raises(BadInput, match=message):
        blocks(corpus(str(tmp_path / name)), Bytes(), context=16)


def numbered(tmp_path: Path, count: int) -> str:
    """Words that never come twice, so that blocks can be told apart."""
    return write(tmp_path / "numbers.txt", "".join(f"{i:07d}" for i in range(count)))


def test_parts_are_disjoint_and_of_the_size_asked(tmp_path: Path) -> None:
    text = blocks(
        corpus(numbered(tmp_path, 1000)), Bytes(), context=16, fit_tokens=160, select_tokens=320, report_tokens=90
    )
    assert [part.shape for part in (text.fit, text.select, text.report)] == [(10, 16), (20, 16), (6, 16)]
    rows = [tuple(row) for part in (text.fit, text.select, text.report) for row in part.tolist()]
    assert len(set(rows)) == len(rows)


def test_short_text_is_shared_out(tmp_path: Path) -> None:
    source = corpus(numbered(tmp_path, 24))  # ten blocks
    for fit, sizes in ((None, (4, 4, 0)), (0, (2, 2, 0)), (16, (2, 2, 1)), (8192, (2, 2, 4))):
        text = blocks(source, Bytes(), context=16, fit_tokens=fit)
        assert (len(text.select), len(text.report), len(text.fit)) == sizes
    least = blocks(corpus(write(tmp_path / "x.txt", "x" * 33)), Bytes(), context=16)
    assert (len(least.select), len(least.report)) == (1, 1)


def test_text_that_training_has_seen_is_left_out(tmp_path: Path) -> None:
    source = corpus(numbered(tmp_path, 1000))  # 70 blocks of 100
    trained = blocks(source, Bytes(), context=100, fit_tokens=5000, select_tokens=500, report_tokens=500).fit
    seen = TextHashes.of([trained])
    for seed in (0, 1):
        later = blocks(source, Bytes(), context=100, select_tokens=500, report_tokens=500, seed=seed, seen=seen)
        rows = {tuple(row) for part in (later.select, later.report) for row in part.tolist()}
        assert len(rows) == 8
        assert not rows & {tuple(row) for row in trained.tolist()}
    more = blocks(source, Bytes(), context=100, fit_tokens=None, seen=seen)
    assert len(more.select) == len(more.report) == 9
    everything = TextHashes.of(
        [blocks(source, Bytes(), context=100, fit_tokens=None, select_tokens=0, report_tokens=7000).report]
    )
    with pytest.raises(BadInput, match="has 7001 tokens, 0 of them in blocks that training has not seen, too short"):
        blocks(source, Bytes(), context=100, seen=everything)


def spelt(row: list[int]) -> str:
    return bytes(token - 1 for token in row if token).decode()


AMOUNTS = {"fit_tokens": 5000, "select_tokens": 1000, "report_tokens": 1000}


def test_nothing_is_trained_on_that_repeats_what_is_measured_on(tmp_path: Path) -> None:
    """Two texts say the same seventy times, 66 characters each, in the middle of other words."""
    sentences = [f"<{i:02d}>" + f"{i:07d}" * 8 + "......" for i in range(70)]
    specs = [
        write(tmp_path / f"{name}.txt", "".join(f"{name}{i:02d}{before}{sentences[i]}{after}" for i in order))
        for name, before, after, order in (
            ("a", "-" * 9, "+" * 22, range(70)),
            ("b", "*" * 21, "=" * 10, range(69, -1, -1)),
        )
    ]
    texts = labelled_blocks(specs, Bytes(), context=100, vocabulary=256, seed=3, **AMOUNTS)
    assert [(len(part.select), len(part.report)) for part in texts] == [(10, 10)] * 2
    measured = [spelt(row) for part in texts for row in [*part.select.tolist(), *part.report.tolist()]]
    whole = {sentence for sentence in sentences if any(sentence in row for row in measured)}
    assert whole
    for part in texts:
        assert 10 < len(part.fit) < 50
        assert not any(sentence in spelt(row) for row in part.fit.tolist() for sentence in whole)


def test_text_that_only_repeats_itself_leaves_nothing_to_train_on(tmp_path: Path) -> None:
    source = write(tmp_path / "x.txt", "all work and no play " * 500)
    with pytest.raises(BadInput, match="the text 'x' repeats itself: nothing is left to train on"):
        labelled_blocks([source], Bytes(), context=100, vocabulary=256, **AMOUNTS)
    assert len(labelled_blocks([source], Bytes(), context=100, vocabulary=256)[0].report) > 1


def test_the_seed_decides(tmp_path: Path) -> None:
    source = corpus(numbered(tmp_path, 1000))
    first, again, other = (blocks(source, Bytes(), context=16, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(first.report, again.report)
    assert not torch.equal(first.report, other.report)


def test_long_text_is_tokenised_only_as_far_as_needed(tmp_path: Path) -> None:
    counted = []

    class Counting(Bytes):
        def encode(self, text: str, *, add_special_tokens: bool, verbose: bool) -> list[int]:
            counted.append(len(text))
            return super().encode(text, add_special_tokens=add_special_tokens, verbose=verbose)

    blocks(corpus(write(tmp_path / "long.txt", "x" * 10 * SLICE)), Counting(), context=16)
    assert sum(counted) < 2 * SLICE


def test_labels_must_differ_and_ids_must_fit(tmp_path: Path) -> None:
    path = numbered(tmp_path, 1000)
    with pytest.raises(BadInput, match="two texts have the label 'numbers': name them"):
        labelled_blocks([path, path], Bytes(), context=16, vocabulary=300)
    first, second = labelled_blocks([path, f"again={path}"], Bytes(), context=16, vocabulary=300)
    assert (first.label, second.label) == ("numbers", "again")
    with pytest.raises(BadInput, match="gives the id 58, beyond the vocabulary of 50: it belongs to another model"):
        labelled_blocks([path], Bytes(), context=16, vocabulary=50)


def library(directory: Path) -> list[str]:
    """Two corpora: many short documents with repetitions, and one file longer than what is tokenised at once."""
    rng = random.Random(0)
    words = ["".join(rng.choices("abcdefghij ", k=150)) for _ in range(150)]
    for index in range(120):
        write(directory / "short" / f"{index:03d}.txt", f"{index} " + " ".join(rng.choices(words, k=rng.randint(1, 9))))
    write(directory / "long.txt", "".join(rng.choices("klmnopqrst ", k=SLICE + 50_000)))
    return [str(directory / "short"), str(directory / "long.txt")]


REQUESTS = ((0, 900, 700), (30_000, 0, 0), (4_000, 1_000, 1_000), (0, 2_000, 500))  # fit, select, report


def test_text_that_is_read_once_is_what_it_is_when_read_anew(tmp_path: Path) -> None:
    specs = library(tmp_path)
    text = Text(specs, Bytes(), context=100, vocabulary=257, seed=3)
    seen: TextHashes | None = None
    for fit, select, report in REQUESTS:
        amounts = {"fit_tokens": fit, "select_tokens": select, "report_tokens": report, "seen": seen}
        parts = text.blocks(**amounts)
        again = labelled_blocks(specs, Bytes(), context=100, vocabulary=257, seed=3, **amounts)
        for one, other in zip(parts, again, strict=True):
            assert all(torch.equal(getattr(one, part), getattr(other, part)) for part in ("fit", "select", "report"))
            assert (len(one.select), len(one.report)) == (select // 100, report // 100)
        seen = seen or TextHashes.of((ids for part in parts for ids in (part.report, part.select)), every=1)
    assert any(len(part.fit) < 40 for part in text.blocks(fit_tokens=4000)), "repetitions were dropped"


def test_nothing_is_tokenised_twice(tmp_path: Path) -> None:
    tokenised: list[str] = []

    class Counting(Bytes):
        def encode(self, text: str, **options: Any) -> list[int]:
            tokenised.append(text)
            return super().encode(text, **options)

    text = Text(library(tmp_path), Counting(), context=100, vocabulary=257)
    text.blocks()
    first = len(tokenised)
    text.blocks()
    assert len(tokenised) == first
    text.blocks(fit_tokens=30_000)
    assert first < len(tokenised) == len(set(tokenised))


def test_text_that_could_not_be_read_is_read_from_its_beginning(tmp_path: Path) -> None:
    for index in range(9):
        write(tmp_path / "dir" / f"{index}.txt", f"{index}" * 1000)
    spoilt = tmp_path / "dir" / "4.txt"
    content = spoilt.read_bytes()
    spoilt.write_bytes(b"\xff")
    text = Text([str(tmp_path / "dir")], Bytes(), context=100, vocabulary=257)
    with pytest.raises(BadInput, match="not UTF-8"):
        text.blocks(select_tokens=4000, report_tokens=4000)
    spoilt.write_bytes(content)
    (part,) = text.blocks(select_tokens=4000, report_tokens=4000)
    (anew,) = labelled_blocks(
        [str(tmp_path / "dir")], Bytes(), context=100, vocabulary=257, select_tokens=4000, report_tokens=4000
    )
    assert torch.equal(part.report, anew.report)


MEASURED = {"select_tokens": 1000, "report_tokens": 1500}


def test_what_is_measured_on_is_the_same_whatever_is_fitted(tmp_path: Path) -> None:
    for spec in [*library(tmp_path), numbered(tmp_path, 300), numbered(tmp_path / "short-one", 60)]:
        texts = [
            blocks(corpus(spec), Bytes(), context=100, fit_tokens=fit, **MEASURED) for fit in (0, 100, 3000, 10**6)
        ]
        for text in texts:
            assert torch.equal(text.report, texts[0].report)
            assert torch.equal(text.select, texts[0].select)
        assert [len(text.fit) for text in texts[:2]] == [0, 1]
        assert len(texts[2].fit) <= len(texts[3].fit)


def test_parts_have_documents_of_their_own(tmp_path: Path) -> None:
    for index in range(90):
        write(tmp_path / "many" / f"{index:02d}.txt", chr(33 + index) * 320)
    text = blocks(corpus(str(tmp_path / "many")), Bytes(), context=20, fit_tokens=10**6, **MEASURED)
    documents = [set(spelt(part.flatten().tolist())) for part in (text.fit, text.select, text.report)]
    assert [len(part) for part in documents] == [81, 4, 5]
    assert len(set().union(*documents)) == 90


@pytest.mark.parametrize("count", [1, 2])
def test_regions_of_long_documents_are_far_apart(tmp_path: Path, count: int) -> None:
    """Numbers count on, so that every block tells where in its document it lies."""
    for index in range(count):
        write(tmp_path / "books" / f"{index}.txt", "".join(f"{index}{place:05d}," for place in range(4000)))
    text = blocks(corpus(str(tmp_path / "books")), Bytes(), context=70, fit_tokens=10**6, **MEASURED)
    places: dict[str, list[tuple[int, int]]] = {}
    for name, part in (("fit", text.fit), ("select", text.select), ("report", text.report)):
        rows = [spelt([token for token in row if token]) for row in part.tolist()]
        whole = [word for row in rows for word in row.split(",")[1:-1] if len(word) == 6]
        places[name] = [(int(word[0]), int(word[1:])) for word in whole]
    gap = 150  # of 4,000: nearly 5 %
    for one, other in (("fit", "select"), ("fit", "report"), ("select", "report")):
        for book in range(count):
            first = [place for where, place in places[one] if where == book]
            second = [place for where, place in places[other] if where == book]
            if first and second:
                assert max(first) + gap < min(second)
    assert max(place for _, place in places["report"]) > 3980
    assert min(place for _, place in places["fit"]) < 20


def test_text_that_only_reports(tmp_path: Path) -> None:
    specs = [f"{label}={numbered(tmp_path / label, 3000)}" for label in ("one", "other")]
    text = Text(specs, Bytes(), context=100, vocabulary=257)
    parts = {part.label: part for part in text.blocks(fit_tokens=3000, report_on=["other"], **MEASURED)}
    assert [len(parts["one"].fit), len(parts["one"].select), len(parts["one"].report)] == [30, 10, 15]
    assert [len(parts["other"].fit), len(parts["other"].select), len(parts["other"].report)] == [0, 0, 15]
