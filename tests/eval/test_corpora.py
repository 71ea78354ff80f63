from __future__ import annotations

import json
from pathlib import Path

import pytest

from isthmus.checkpoint.errors import BadInput
from isthmus.eval.corpora import corpus, held_out


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
    from isthmus.eval.corpora import _docstrings, _source

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


@pytest.mark.parametrize("spec", ["stdlib:poems", "stdlib:docs:half", "stdlib:docs:train:x", "stdlib:"])
def test_no_such_built_in_corpus(spec: str) -> None:
    with pytest.raises(BadInput, match="no built-in corpus"):
        corpus(spec)


def test_an_empty_directory(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no text files in the directory"):
        corpus(str(tmp_path))


def test_jsonl_texts_are_strings(tmp_path: Path) -> None:
    path = write(tmp_path / "x.jsonl", json.dumps({"text": "é" * 40}) + "\n")
    assert list(corpus(path).documents()) == ["é" * 40]
