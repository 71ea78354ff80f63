from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from isthmus.checkpoint.errors import BadInput
from isthmus.eval.seen import Seen
from isthmus.eval.text import SLICE, blocks, corpus, held_out, labelled_blocks


class Bytes:
    """A tokenizer of bytes: ids 1 to 256, and 0 for the end of a text."""

    eos_token_id: int | None = 0

    def encode(self, text: str, *, add_special_tokens: bool, verbose: bool) -> list[int]:
        return [byte + 1 for byte in text.encode()]


def write(path: Path, content: str | bytes) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


def test_a_file_a_directory_and_jsonl(tmp_path: Path) -> None:
    one = write(tmp_path / "dir" / "one.txt", "first")
    write(tmp_path / "dir" / "deep" / "two.md", "second")
    write(tmp_path / "dir" / "picture.png", b"\x89PNG")
    lines = write(tmp_path / "lines.jsonl", '{"text": "third"}\n\n{"text": "fourth", "more": 1}\n')
    assert list(corpus(one).documents()) == ["first"]
    assert sorted(corpus(str(tmp_path / "dir")).documents()) == ["first", "second"]
    assert sorted(corpus(lines).documents()) == ["fourth", "third"]


def test_labels(tmp_path: Path) -> None:
    path = write(tmp_path / "cases.txt", "x")
    assert corpus(path).label == "cases"
    assert corpus(f"law={path}").label == "law"
    assert corpus("stdlib:docs").label == "docs"
    assert corpus("python=stdlib:code:heldout").label == "python"


def test_a_file_with_an_equals_sign_in_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "a=b.txt", "x")
    monkeypatch.chdir(tmp_path)
    assert list(corpus("a=b.txt").documents()) == ["x"]


@pytest.mark.parametrize("kind", ["docs", "code"])
def test_the_standard_library_is_split_by_module(kind: str) -> None:
    train, heldout, everything = (len(corpus(f"stdlib:{kind}{part}").readers) for part in (":train", ":heldout", ""))
    assert train + heldout == everything
    assert 0.05 < heldout / everything < 0.2
    assert held_out("json/decoder.py") == held_out("json/decoder.py")


def test_docs_and_code_of_the_standard_library_share_nothing() -> None:
    docs, code = (next(iter(corpus(f"stdlib:{kind}").readers[50:51]))() for kind in ("docs", "code"))
    assert "\n" in docs[0].strip()
    assert not any(line.strip() in code[0] for line in docs[0].splitlines() if len(line.strip()) > 40)
    assert "def " in code[0]


def test_code_without_its_docstrings_keeps_everything_else(tmp_path: Path) -> None:
    from isthmus.eval.text import _docstrings, _source

    path = Path(
        write(
            tmp_path / "m.py",
            '"""Module."""\nx = 1\n\n\ndef f():\n    """One.\n\n    Two é.\n    """; y = 2\n    return "kept"\n',
        )
    )
    code = _source(path)[0]
    assert code == 'x = 1\n\n\ndef f():\n    ; y = 2\n    return "kept"\n'
    assert _docstrings(path) == ["Module.\n\nOne.\n\nTwo é."]
    assert _source(Path(write(tmp_path / "broken.py", "def (:\n"))) == ["def (:\n"]


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


@pytest.mark.parametrize("spec", ["stdlib:poems", "stdlib:docs:half", "stdlib:docs:train:x", "stdlib:"])
def test_no_such_built_in_corpus(spec: str) -> None:
    with pytest.raises(BadInput, match="no built-in corpus"):
        corpus(spec)


def test_an_empty_directory(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no text files in the directory"):
        corpus(str(tmp_path))


def numbered(tmp_path: Path, count: int) -> str:
    """Words that never come twice, so that blocks can be told apart."""
    return write(tmp_path / "numbers.txt", "".join(f"{i:07d}" for i in range(count)))


def test_parts_are_disjoint_and_of_the_size_asked(tmp_path: Path) -> None:
    found = blocks(
        corpus(numbered(tmp_path, 1000)), Bytes(), context=16, fit_tokens=160, select_tokens=320, report_tokens=90
    )
    assert [part.shape for part in (found.fit, found.select, found.report)] == [(10, 16), (20, 16), (6, 16)]
    rows = [tuple(row) for part in (found.fit, found.select, found.report) for row in part.tolist()]
    assert len(set(rows)) == len(rows)


def test_short_text_is_shared_out(tmp_path: Path) -> None:
    found = blocks(corpus(numbered(tmp_path, 24)), Bytes(), context=16, select_tokens=8192, report_tokens=8192)
    assert (len(found.select), len(found.report), len(found.fit)) == (5, 5, 0)
    least = blocks(corpus(write(tmp_path / "x.txt", "x" * 33)), Bytes(), context=16)
    assert (len(least.select), len(least.report)) == (1, 1)


def test_text_that_training_has_seen_is_left_out(tmp_path: Path) -> None:
    source = corpus(numbered(tmp_path, 1000))  # 70 blocks of 100
    trained = blocks(source, Bytes(), context=100, fit_tokens=5000, select_tokens=500, report_tokens=500).fit
    seen = Seen.of([trained])
    for seed in (0, 1):
        later = blocks(source, Bytes(), context=100, select_tokens=500, report_tokens=500, seed=seed, seen=seen)
        rows = {tuple(row) for part in (later.select, later.report) for row in part.tolist()}
        assert len(rows) == 10
        assert not rows & {tuple(row) for row in trained.tolist()}
    more = blocks(source, Bytes(), context=100, select_tokens=5000, report_tokens=5000, seen=seen)
    assert len(more.select) == len(more.report) == 10
    everything = Seen.of([blocks(source, Bytes(), context=100, select_tokens=0, report_tokens=7000).report])
    with pytest.raises(BadInput, match="has 7001 tokens, 0 of them in blocks that training has not seen, too short"):
        blocks(source, Bytes(), context=100, seen=everything)


def spelt(row: list[int]) -> str:
    return bytes(token - 1 for token in row).decode()


AMOUNTS = {"fit_tokens": 5000, "select_tokens": 1000, "report_tokens": 1000}


def test_nothing_is_trained_on_that_repeats_what_is_measured_on(tmp_path: Path) -> None:
    """Two texts say the same seventy times, 66 characters each, in the middle of other words."""
    said = [f"<{i:02d}>" + f"{i:07d}" * 8 + "......" for i in range(70)]
    specs = [
        write(tmp_path / f"{name}.txt", "".join(f"{name}{i:02d}{before}{said[i]}{after}" for i in order))
        for name, before, after, order in (
            ("a", "-" * 9, "+" * 22, range(70)),
            ("b", "*" * 21, "=" * 10, range(69, -1, -1)),
        )
    ]
    found = labelled_blocks(specs, Bytes(), context=100, vocabulary=256, seed=3, **AMOUNTS)
    assert [(len(part.select), len(part.report)) for part in found] == [(10, 10)] * 2
    measured = "".join(spelt(row) for part in found for row in [*part.select.tolist(), *part.report.tolist()])
    for part in found:
        assert 10 < len(part.fit) < 50
        assert not any(said[int(spelt(row)[1:3])] in measured for row in part.fit.tolist())


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
    assert counted == [SLICE]


def test_labels_must_differ_and_ids_must_fit(tmp_path: Path) -> None:
    path = numbered(tmp_path, 1000)
    with pytest.raises(BadInput, match="two texts have the label 'numbers': name them"):
        labelled_blocks([path, path], Bytes(), context=16, vocabulary=300)
    first, second = labelled_blocks([path, f"again={path}"], Bytes(), context=16, vocabulary=300)
    assert (first.label, second.label) == ("numbers", "again")
    with pytest.raises(BadInput, match="gives the id 58, beyond the vocabulary of 50: it belongs to another model"):
        labelled_blocks([path], Bytes(), context=16, vocabulary=50)


def test_jsonl_texts_are_strings(tmp_path: Path) -> None:
    path = write(tmp_path / "x.jsonl", json.dumps({"text": "é" * 40}) + "\n")
    assert list(corpus(path).documents()) == ["é" * 40]
