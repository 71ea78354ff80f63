from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from classifiers import NAMES, classifier, labelled, labelled_words
from conftest import EMBEDDED
from files_loss import example_of
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from isthmus.checkpoint.errors import BadInput, TooLittleText
from isthmus.eval.labelled_text import LabelledText
from isthmus.eval.targets import is_labelled, is_masked, lengths, predicted, scores, shown, stacked, text_of
from isthmus.eval.text_hashes import TextHashes

TEXTS = classifier("gpt2")
TOKENS = classifier("gpt2", tokens=True)
for model in (TEXTS, TOKENS):
    model.config.architectures = [type(model).__name__]


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(EMBEDDED / "adamw-1")


def text_of_file(file: Path, tokenizer: PreTrainedTokenizerBase, model: object = TEXTS, **options: int) -> LabelledText:
    return LabelledText([str(file)], tokenizer, model.config, **{"context": 48, **options})  # type: ignore[attr-defined]


def examples(rows: torch.Tensor, tokenizer: PreTrainedTokenizerBase) -> set[tuple[str, str]]:
    read = (example_of(row) for row in rows)
    return {(tokenizer.decode(given["input_ids"][0]), NAMES[labels[0]]) for given, labels in read}


def test_every_example_has_its_own_text_and_label_and_serves_once(
    tmp_path: Path, tokenizer: PreTrainedTokenizerBase
) -> None:
    file = labelled(tmp_path / "x.jsonl")
    (part,) = text_of_file(file, tokenizer).blocks(fit_tokens=100_000, select_tokens=600, report_tokens=600)
    assert part.label == "x"
    read = [examples(rows, tokenizer) for rows in (part.fit, part.select, part.report)]
    written = {(row["text"], row["label"]) for row in map(json.loads, file.read_text().splitlines())}
    assert read[0] | read[1] | read[2] == written
    assert sum(map(len, read)) == len(written) == 160
    assert len(read[2]) + len(read[1]) <= 80
    assert is_labelled(part.report)
    assert not is_masked(part.report)


def test_the_report_part_is_the_same_whatever_is_fitted_and_another_seed_has_another(
    tmp_path: Path, tokenizer: PreTrainedTokenizerBase
) -> None:
    file = labelled(tmp_path / "x.jsonl")
    text = text_of_file(file, tokenizer)
    (first,), (second,) = (text.blocks(fit_tokens=count, select_tokens=300, report_tokens=300) for count in (0, 900))
    assert torch.equal(first.report, second.report)
    assert len(second.fit)
    assert not len(first.fit)
    (other,) = text_of_file(file, tokenizer, seed=1).blocks(select_tokens=300, report_tokens=300)
    assert examples(other.report, tokenizer) != examples(first.report, tokenizer)
    assert 300 <= int(lengths(first.report).sum()) < 300 + 48


def test_words_have_their_label_at_their_first_token(tmp_path: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    line = {"tokens": ["unforeseeable", "x", "predictability"], "labels": ["positive", -100, 1]}
    (tmp_path / "w.jsonl").write_text(json.dumps(line) + "\n")
    text = text_of_file(tmp_path / "w.jsonl", tokenizer, TOKENS)
    (part,) = text.blocks(fit_tokens=None, select_tokens=0, report_tokens=100)
    given, labels = example_of(part.report[0])
    ids = given["input_ids"][0]
    words = tokenizer(line["tokens"], is_split_into_words=True)
    assert ids.tolist() == words["input_ids"]
    first = [words.word_ids().index(word) for word in (0, 2)]
    assert [place for place, label in enumerate(labels) if label != -100] == first
    assert [labels[place] for place in first] == [2, 1]


def test_what_is_asked_is_found_in_padded_blocks_of_any_length() -> None:
    from isthmus.eval.targets import labelled as entry

    short, long = torch.tensor([[entry(5, 2), 7, -1, -1]]), torch.tensor([[entry(6, 0), 7, 8, entry(9, 1), 3]])
    blocks = stacked([short, long])
    assert shown(blocks).tolist() == [[5, 7, -1, -1, -1], [6, 7, 8, 9, 3]]
    assert predicted(blocks).tolist() == [[2, -100], [0, 1]]
    assert [row.tolist() for row in text_of(blocks)] == [[5, 7], [6, 7, 8, 9, 3]]
    logits = torch.arange(2 * 5 * 3.0).view(2, 5, 3)
    asked = scores(logits, blocks)
    assert asked[0, 0].tolist() == [0, 1, 2]
    assert asked[1].tolist() == [[15, 16, 17], [24, 25, 26]]
    assert scores(logits[:, 0], blocks).shape == (2, 1, 3), "one row of logits for a text"
    assert TextHashes.of([blocks]).within(blocks).all()


@pytest.mark.parametrize("name", ["NEUTRAL", "neutral", 1, "1"])
def test_a_label_is_a_name_or_a_number(name: object, tmp_path: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    (tmp_path / "x.jsonl").write_text(json.dumps({"text": "a text", "label": name}) + "\n")
    (part,) = text_of_file(tmp_path / "x.jsonl", tokenizer).blocks(fit_tokens=None, select_tokens=0)
    assert predicted(part.report).tolist() == [[1]]


def test_an_example_that_is_there_twice_counts_once(tmp_path: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    file = labelled(tmp_path / "x.jsonl", rows=40)
    file.write_text(file.read_text() * 3)
    (part,) = text_of_file(file, tokenizer).blocks(fit_tokens=None, select_tokens=0, report_tokens=100_000)
    assert len(part.report) == 40


def test_a_pair_of_texts_is_one_example(tmp_path: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    (tmp_path / "x.jsonl").write_text(json.dumps({"text": "a b", "text_pair": "c d", "label": 0}) + "\n")
    (part,) = text_of_file(tmp_path / "x.jsonl", tokenizer).blocks(fit_tokens=None, select_tokens=0)
    assert example_of(part.report[0])[0]["input_ids"][0].tolist() == tokenizer("a b", "c d")["input_ids"]


def test_a_long_text_is_cut(tmp_path: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    (tmp_path / "x.jsonl").write_text(json.dumps({"text": "word " * 500, "label": 0}) + "\n")
    (part,) = text_of_file(tmp_path / "x.jsonl", tokenizer).blocks(fit_tokens=None, select_tokens=0)
    assert part.report.shape == (1, 48)


BAD: dict[str, tuple[object, str]] = {
    "no label": ({"text": "a"}, "line 1 of 'x.jsonl' is not a JSON object with 'text' and 'label' in every line"),
    "no text": ({"label": 0}, "is not a JSON object with 'text' and 'label'"),
    "a list": ([1], "is not a JSON object with 'text' and 'label'"),
    "another label": ({"text": "a", "label": "angry"}, 'has the label "angry", which these models do not have'),
    "a number too high": ({"text": "a", "label": 3}, "a number from 0 to 2"),
    "a number below 0": ({"text": "a", "label": -1}, "a number from 0 to 2"),
    "a truth value": ({"text": "a", "label": True}, "which these models do not have"),
    "a fraction": ({"text": "a", "label": 0.5}, "which these models do not have"),
    "a pair that is none": ({"text": "a", "text_pair": 3, "label": 0}, "is not a JSON object with 'text'"),
    "half of a character": ({"text": "a\ud800", "label": 0}, "holds half of a character"),
}


@pytest.mark.parametrize("line", BAD)
def test_bad_lines_are_refused_in_a_sentence(line: str, tmp_path: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    content, message = BAD[line]
    (tmp_path / "x.jsonl").write_text(json.dumps(content) + "\n")
    with pytest.raises(BadInput) as caught:
        text_of_file(tmp_path / "x.jsonl", tokenizer)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"tokens": ["a", "b"], "labels": [0]}, "words, and as many labels"),
        ({"tokens": "ab", "labels": [0, 1]}, "words, and as many labels"),
        ({"tokens": ["a"], "labels": ["angry"]}, "which these models do not have"),
        ({"text": "a", "label": 0}, "'tokens' and 'labels' in every line"),
    ],
)
def test_bad_lines_of_words(content: object, message: str, tmp_path: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    (tmp_path / "x.jsonl").write_text(json.dumps(content) + "\n")
    with pytest.raises(BadInput, match=message):
        text_of_file(tmp_path / "x.jsonl", tokenizer, TOKENS)


def test_text_without_labels_and_too_few_examples_are_refused(
    tmp_path: Path, tokenizer: PreTrainedTokenizerBase
) -> None:
    (tmp_path / "x.txt").write_text("a text")
    make: Callable[[str], LabelledText] = lambda spec: LabelledText([spec], tokenizer, TEXTS.config, context=48)  # noqa: E731
    for spec in (str(tmp_path / "x.txt"), "stdlib:docs", str(tmp_path)):
        with pytest.raises(BadInput, match="holds no labelled examples"):
            make(spec)
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(TooLittleText, match="0 different labelled examples"):
        make(str(tmp_path / "empty.jsonl")).blocks()
    file = labelled(tmp_path / "few.jsonl", rows=2)
    with pytest.raises(TooLittleText, match="too few: 3 disjoint parts"):
        make(str(file)).blocks(fit_tokens=100)


def test_numbers_and_several_labels_at_once_have_no_accuracy(
    tmp_path: Path, tokenizer: PreTrainedTokenizerBase
) -> None:
    file = labelled_words(tmp_path / "w.jsonl")
    one = classifier("gpt2", labels=["score"])
    with pytest.raises(BadInput, match="give a number"):
        text_of_file(file, tokenizer, one)
    several = classifier("gpt2", problem_type="multi_label_classification")
    with pytest.raises(BadInput, match="several labels at once"):
        text_of_file(file, tokenizer, several)
