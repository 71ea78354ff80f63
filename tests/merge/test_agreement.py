"""`check` and `merge` come to the same verdict, in the same words, over all alterations of a model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from altered_models import ALTERED, ON_READING, OTHER_KINDS, VALID, Altering

try:
    from altered_tokenizers import ALTERED as TOKENIZERS
except ImportError:
    TOKENIZERS: dict[str, Altering] = {}  # type: ignore[no-redef]

CASES = {**ALTERED, **{f"tokenizer: {name}": alter for name, alter in TOKENIZERS.items()}}
PLAIN = ("--align", "none", "--t", 0.5)
FINDINGS = ("blocks  ", "degrades  ", "notes  ", "findings  ")


def lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith(FINDINGS)]


def pair(saved, alter: Altering, both: bool) -> tuple[Path, Path]:
    right, altered = saved("right", 1, tokenizer=True, vocab_size=1024), saved("m", tokenizer=True, vocab_size=1024)
    if both:
        shutil.rmtree(right)
    alter(altered)
    if both:
        shutil.copytree(altered, right)
    return right, altered


# Where a pair of equals comes to another end than a pair of which one is altered.
EQUALS = ["no layers", "half a head", "epsilon that is text", "dropout that is text", *OTHER_KINDS]


@pytest.mark.parametrize(("name", "both"), [*((name, False) for name in CASES), *((name, True) for name in EQUALS)])
def test_check_and_merge_agree(saved, isthmus, name: str, both: bool, tmp_path: Path) -> None:
    models = pair(saved, CASES[name], both)
    checked = isthmus("check", *models, "--json", tmp_path / "check.json")
    merged = isthmus("merge", *models, "-o", tmp_path / "out", *PLAIN)
    assert "something unforeseen" not in checked.err + merged.err
    assert merged.code == {0: 0, 2: 2, 3: 2}[checked.code], (checked.err, merged.err)
    if checked.code == 0:
        said = lines(checked.err)
        assert lines(merged.err)[:10] == said[:10]
        assert len(lines(merged.err)) == min(len(said), 11)
        report = json.loads((tmp_path / "out" / "isthmus.json").read_text())
        assert report["findings"] == json.loads((tmp_path / "check.json").read_text())["findings"]
        return
    assert not (tmp_path / "out").exists()
    assert merged.err.count("\n") == 1
    if checked.code == 2:
        assert merged.err == checked.err
    else:
        first = lines(checked.err)[0].removeprefix("blocks  ")
        assert merged.err.startswith(f"isthmus: {first}")


ALIGNED = ("as it is", "embeddings of a tied model", "bookkeeping", "epsilon", "half", "no prefix", "more rows")


@pytest.mark.parametrize("name", ALIGNED)
def test_what_check_calls_mergeable_is_merged_after_alignment(saved, isthmus, name: str, tmp_path: Path) -> None:
    models = pair(saved, VALID[name], both=False)
    checked = isthmus("check", *models)
    merged = isthmus("merge", *models, "-o", tmp_path / "out", "--align", "permutation", "--t", 0.5, "--no-spectrum")
    assert (checked.code, merged.code) == (0, 0), merged.err
    assert lines(merged.err) == lines(checked.err)[:10]


@pytest.mark.parametrize("name", ON_READING)
def test_what_only_reading_all_weights_can_tell(saved, isthmus, name: str) -> None:
    assert isthmus("check", *pair(saved, ON_READING[name], both=False)).code == 0
