"""Classifiers merged, from the check to a model that transformers opens; what is shown are the numbers of its files."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import files_loss
import pytest
import torch
from classifiers import NAMES, classifier, labelled, labelled_words, saved_classifier
from conftest import Outcome, tiny_model
from merging import combine, merge, plan_of
from safetensors.torch import load_file, save_file
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
    BertTokenizer,
)

import isthmus
from isthmus.align.alignment import Alignment
from isthmus.align.families import FAMILIES, family
from isthmus.checkpoint.errors import BadInput, IncompatibleModels
from isthmus.checkpoint.labels import labels_of, rows_by_name
from isthmus.checkpoint.loading import load
from isthmus.merge.pipeline import merge_models
from isthmus.merge.plans import CurvePlan, LearnPlan, PathTraining
from isthmus.merge.recipes.recipe import recipe
from isthmus.merge.result import Merge

CLI = Callable[..., Outcome]
KINDS = ("gpt2", "llama", "bert", "roberta")
SHORT = {"tokens": 400}


def opened(directory: Path, *, tokens: bool = False) -> Any:
    """What transformers makes of it, without a warning."""
    loader: Any = AutoModelForTokenClassification if tokens else AutoModelForSequenceClassification
    model, info = loader.from_pretrained(directory, output_loading_info=True)
    assert not any(info.values()), info
    return model.eval()


def require_accuracy(merged: Merge, directory: Path) -> dict[str, Any]:
    """Save, and hold all accuracies against transformers' on what is there."""
    report = merged.save(directory)
    assert merged.shown is not None
    point = report["merge_point"]
    assert point["accuracy"] == pytest.approx(files_loss.accuracy_of_files(directory, merged.shown.blocks), abs=1e-9)
    return report


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tokens", [False, True])
def test_losses_and_accuracies_are_those_of_the_files(kind: str, tokens: bool, tmp_path: Path) -> None:
    a, b = (saved_classifier(tmp_path / name, kind, seed, tokens=tokens) for seed, name in enumerate("ab"))
    data = (labelled_words if tokens else labelled)(tmp_path / "x.jsonl")
    merged = merge(a, b, data=[str(data)], align="orthogonal", t=0.5, **SHORT)
    report = require_accuracy(merged, tmp_path / "m")
    assert report["task"] == ("token-classification" if tokens else "text-classification")
    assert merged.shown is not None
    for end, directory in zip(report["endpoints"], (a, b), strict=True):
        accuracy = files_loss.accuracy_of_files(directory, merged.shown.blocks)
        assert end["accuracies"] == {"x": pytest.approx(accuracy, abs=1e-9)}
        assert end["loss"] == {
            "x": pytest.approx(files_loss.loss_of_files(directory, merged.shown.blocks)["x"], abs=1e-5)
        }
    assert [*opened(tmp_path / "m", tokens=tokens).config.id2label.values()] == list(NAMES)
    card = (tmp_path / "m" / "README.md").read_text()
    assert f'pipeline("{report["task"]}"' in card
    assert f"{100 * report['merge_point']['accuracy']:.1f} %" in card


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("align", ["permutation", "orthogonal", "combined"])
def test_the_merge_with_a_moved_copy_loses_nothing(kind: str, align: Any, tmp_path: Path) -> None:
    a = saved_classifier(tmp_path / "a", kind)
    model = load(a, families=FAMILIES)
    table = family(model.config)
    elements = table.permuting().random(torch.Generator().manual_seed(3))
    copy = classifier(kind)
    moved = Alignment("permutation", elements).apply(dict(model.state), table)
    copy.load_state_dict(moved, strict=False)
    copy.save_pretrained(tmp_path / "b")
    AutoTokenizer.from_pretrained(a).save_pretrained(tmp_path / "b")
    data = labelled(tmp_path / "x.jsonl")
    merged = merge(a, tmp_path / "b", data=[str(data)], align=align, t=0.5, **SHORT)
    report = require_accuracy(merged, tmp_path / "m")
    point, (first, second) = report["merge_point"], report["endpoints"]
    assert first["loss"]["x"] == pytest.approx(second["loss"]["x"], abs=1e-5)
    assert point["loss"] == pytest.approx(first["loss"]["x"], abs=1e-4)
    assert point["accuracies"] == first["accuracies"]
    assert abs(report["baselines"]["naive_average"]["loss"] - point["loss"]) > 0.01, "unaligned, it is another model"


@pytest.mark.parametrize("align", ["none", "permutation"])
def test_the_second_of_a_pair_is_a_segment_of_its_own(align: Any, tmp_path: Path) -> None:
    words = {name: row for row, name in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *"abcdefgh"])}
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    tokenizer = BertTokenizer(vocab=words)
    for seed, name in enumerate("ab"):
        classifier("bert", seed, vocab_size=len(words)).save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
    drawn = random.Random(0)
    pairs = [[" ".join(drawn.choices("abcdefgh", k=drawn.randint(1, 6))) for _ in range(2)] for _ in range(60)]
    rows = [{"text": one, "text_pair": two, "label": drawn.choice(NAMES)} for one, two in pairs]
    (tmp_path / "x.jsonl").write_text("\n".join(map(json.dumps, rows)))
    merged = merge(tmp_path / "a", tmp_path / "b", data=[str(tmp_path / "x.jsonl")], t=0.5, align=align, tokens=300)
    report = require_accuracy(merged, tmp_path / "m")
    model, loss = opened(tmp_path / "m"), 0.0
    assert merged.shown is not None
    for block in (blocks := merged.shown.blocks["x"]):
        given, labels = files_loss.example_of(block)
        text, pair = tokenizer.decode(given["input_ids"][0]).removeprefix("[CLS] ").split(" [SEP]")[:2]
        encoded = tokenizer(text, pair.strip(), return_tensors="pt")
        assert {"text": text, "text_pair": pair.strip(), "label": NAMES[labels[0]]} in rows
        loss += float(model(**encoded, labels=torch.tensor(labels[:1])).loss)
    assert loss / len(blocks) == pytest.approx(report["merge_point"]["loss"], abs=1e-5)


def test_labels_in_another_order_are_merged_by_name(tmp_path: Path) -> None:
    a = saved_classifier(tmp_path / "a")
    model, order = classifier("gpt2", labels=[NAMES[row] for row in (2, 0, 1)]), [2, 0, 1]
    with torch.no_grad():
        model.score.weight.copy_(model.score.weight[order].clone())
    model.save_pretrained(tmp_path / "b")
    AutoTokenizer.from_pretrained(a).save_pretrained(tmp_path / "b")
    data = labelled(tmp_path / "x.jsonl")
    merged = merge(a, tmp_path / "b", data=[str(data)], align="none", t=0.5, **SHORT)
    report = require_accuracy(merged, tmp_path / "m")
    assert any("numbered differently" in finding["what"] for finding in report["findings"])
    for name, value in load_file(tmp_path / "m" / "model.safetensors").items():
        torch.testing.assert_close(value, load(a).state[name])
    assert labels_of(json.loads((tmp_path / "m" / "config.json").read_text()), "m") == NAMES


@pytest.mark.parametrize(
    ("own", "rows"),
    [
        (("negative", "neutral", "positive"), [0, 1, 2]),
        (("positive", "negative", "neutral"), [1, 2, 0]),
        (("Positive", "NEGATIVE", "Neutral"), [1, 2, 0]),
        (("LABEL_0", "LABEL_1", "LABEL_2"), [0, 1, 2]),
        (("negative", "neutral"), None),
        (("negative", "neutral", "angry"), None),
    ],
)
def test_rows_are_found_by_name(own: tuple[str, ...], rows: list[int] | None) -> None:
    assert rows_by_name(NAMES, own) == rows


def test_other_labels_are_refused_unless_one_head_is_taken(tmp_path: Path, isthmus: CLI) -> None:
    a = saved_classifier(tmp_path / "a")
    b = saved_classifier(tmp_path / "b", seed=1, labels=["ham", "spam"])
    data = labelled(tmp_path / "x.jsonl")
    outcome = isthmus("merge", a, b, "-o", tmp_path / "m", "--data", data)
    assert outcome.code == 2
    assert "the labels differ: 3 in 'a', of which only there negative, neutral, positive; 2 in 'b'" in outcome.error
    assert "--head A" in outcome.error
    for align in ("none", "orthogonal"):
        outcome = isthmus(
            "merge", a, b, "-o", tmp_path / "m", "--data", data, "--head", "A", "--align", align, "--t", "0.4",
            "--tokens", "400", "--overwrite",
        )  # fmt: skip
        assert outcome.code == 0, outcome.err
        assert "B: b, with the head of A" in outcome.err
        report = json.loads((tmp_path / "m" / "isthmus.json").read_text())
        assert report["head"] == "A"
        assert "--head A" in report["reproduce"]
        head, expected = load_file(tmp_path / "m" / "model.safetensors")["score.weight"], load(a).state["score.weight"]
        if align == "orthogonal":  # the head of A, in its canonical form
            model = load(a, families=FAMILIES)
            from isthmus.align.canonical import canonical

            expected = canonical(model.state, family(model.config))["score.weight"]
        torch.testing.assert_close(head, expected)
        assert opened(tmp_path / "m").config.num_labels == 3


def test_the_head_of_the_second_model_brings_its_labels(tmp_path: Path) -> None:
    a = saved_classifier(tmp_path / "a")
    b = saved_classifier(tmp_path / "b", seed=1, labels=["ham", "spam"])
    data = labelled(tmp_path / "x.jsonl", labels=["ham", "spam"])
    merged = merge(a, b, data=[str(data)], head="B", align="combined", t=0.5, **SHORT)
    require_accuracy(merged, tmp_path / "m")
    assert [*opened(tmp_path / "m").config.id2label.values()] == ["ham", "spam"]


@pytest.mark.parametrize("name", ["linear", "slerp", "task_arithmetic", "ties", "fisher", "regmean"])
def test_operators_merge_classifiers(name: Any, tmp_path: Path) -> None:
    models = [saved_classifier(tmp_path / name, seed=seed) for seed, name in enumerate("abc")]
    based = name in ("task_arithmetic", "ties")
    data = labelled(tmp_path / "x.jsonl")
    options = {"t": 0.5} if name == "slerp" else {}
    given = recipe(name, models[1:] if based else models[:2], base=models[0] if based else None, **options)
    report = require_accuracy(combine(given, data=[str(data)], align="orthogonal", **SHORT), tmp_path / "m")
    assert {"accuracy", "accuracies"} <= report["baselines"]["average"].keys()


@pytest.mark.parametrize("kind", ["gpt2", "bert", "bert with a pooler"])
@pytest.mark.parametrize("head", [None, "B"])
def test_their_base_is_a_language_model(kind: str, head: str | None, tmp_path: Path) -> None:
    name = kind.split()[0]
    saved_classifier(tmp_path / "a", name, 1)
    saved_classifier(tmp_path / "b", name, 2, labels=("no", "yes") if head else NAMES[::-1])
    language = AutoModelForMaskedLM if name == "bert" else AutoModelForCausalLM
    config = AutoConfig.from_pretrained(tmp_path / "a")
    torch.manual_seed(3)
    language.from_config(config).save_pretrained(tmp_path / "base")
    pooler = {"bert.pooler.dense.weight": torch.randn(32, 32), "bert.pooler.dense.bias": torch.randn(32)}
    if "pooler" in kind:
        file = tmp_path / "base" / "model.safetensors"
        save_file({**load_file(file), **pooler}, file, metadata={"format": "pt"})
    data = labelled(tmp_path / "x.jsonl", labels=("no", "yes") if head else NAMES)
    given = recipe(
        "task_arithmetic",
        [str(tmp_path / "a"), str(tmp_path / "b")],
        base=str(tmp_path / "base"),
        weights=[[0.4], [0.3]],
    )
    outcome = merge_models(given, plan_of(align="none", head=head, data=[str(data)], **SHORT))
    require_accuracy(outcome, tmp_path / "m")
    merged, base, a, b = (load_file(tmp_path / one / "model.safetensors") for one in ("m", "base", "a", "b"))
    assert merged.keys() == a.keys()
    if "pooler" in kind:
        base |= pooler
    for one, value in merged.items():
        parts = [a[one], b[one]]
        if one.endswith(("score.weight", "classifier.weight", "classifier.bias")):
            parts = [b[one]] * 2 if head else [parts[0], parts[1].flip(0)]  # the labels of b in the order of a
        under = base.get(one, (parts[0] + parts[1]) / 2)
        expected = under + 0.4 * (parts[0] - under) + 0.3 * (parts[1] - under)
        assert torch.allclose(value, expected, atol=1e-5), one
    assert list(opened(tmp_path / "m").config.id2label.values()) == (["no", "yes"] if head else [*NAMES])


def test_a_curve_and_a_learned_alignment_are_fitted_to_labels(tmp_path: Path) -> None:
    a, b = (saved_classifier(tmp_path / name, seed=seed) for seed, name in enumerate("ab"))
    data = labelled(tmp_path / "x.jsonl", rows=300)
    curve = CurvePlan(training=PathTraining(steps=6, batch=8, lr=1e-2))
    require_accuracy(merge(a, b, data=[str(data)], path=curve, align="orthogonal", **SHORT), tmp_path / "curve")
    merged = merge(a, b, data=[str(data)], align="learned", learn=LearnPlan(steps=6, batch=8), **SHORT)
    require_accuracy(merged, tmp_path / "learned")


def test_tokens_are_trained_on_with_their_labels_alone(tmp_path: Path) -> None:
    a, b = (saved_classifier(tmp_path / name, seed=seed, tokens=True) for seed, name in enumerate("ab"))
    data = labelled_words(tmp_path / "x.jsonl", rows=200)
    curve = CurvePlan(training=PathTraining(steps=6, batch=8, lr=1e-2))
    report = require_accuracy(merge(a, b, data=[str(data)], path=curve, align="none", **SHORT), tmp_path / "m")
    assert report["data"][0]["report_examples"] > 10


def test_the_ensemble_averages_probabilities(tmp_path: Path) -> None:
    a, b = (saved_classifier(tmp_path / name, seed=seed) for seed, name in enumerate("ab"))
    data = labelled(tmp_path / "x.jsonl")
    merged = merge(a, b, data=[str(data)], align="none", t=0.5, **SHORT)
    report = merged.save(tmp_path / "m")
    assert merged.shown is not None
    losses, right = [], []
    models = [opened(one) for one in (a, b)]
    for row in merged.shown.blocks["x"]:
        given, labels = files_loss.example_of(row)
        ids = given["input_ids"][0]
        with torch.no_grad():
            probabilities = torch.stack([model(ids[None]).logits[0].softmax(-1) for model in models]).mean(0)
        losses.append(-probabilities[labels[0]].log().item())
        right.append(int(probabilities.argmax()) == labels[0])
    ensemble = report["baselines"]["ensemble"]
    assert ensemble["loss"] == pytest.approx(sum(losses) / len(losses), abs=1e-5)
    assert ensemble["accuracy"] == pytest.approx(sum(right) / len(right))


def test_a_model_of_one_label_is_merged_without_text(tmp_path: Path) -> None:
    a, b = (saved_classifier(tmp_path / name, seed=seed, labels=["score"]) for seed, name in enumerate("ab"))
    merge(a, b, align="orthogonal", t=0.5).save(tmp_path / "m")
    assert opened(tmp_path / "m").config.num_labels == 1
    with pytest.raises(BadInput, match="give a number"):
        merge(a, b, data=[str(labelled(tmp_path / "x.jsonl"))])


REFUSED: dict[str, tuple[list[str], str]] = {
    "text without labels": (["--data", "stdlib:docs"], "holds no labelled examples"),
    "a head of no model": (["--head", "C", "--t", "0.5", "--align", "none"], "there is no such model"),
    "a head that is no letter": (["--head", "first", "--t", "0.5", "--align", "none"], "--head is the letter"),
    "a learned alignment": (["--head", "A", "--align", "learned", "--data", "x.jsonl"], "take --align combined"),
    "a curve without text": (["--path", "polychain"], "classifiers write no text"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_means_nothing_for_classifiers_is_refused(
    case: str, tmp_path: Path, isthmus: CLI, monkeypatch: pytest.MonkeyPatch
) -> None:
    for seed, name in enumerate("ab"):
        saved_classifier(tmp_path / name, seed=seed)
    labelled(tmp_path / "x.jsonl")
    monkeypatch.chdir(tmp_path)
    options, message = REFUSED[case]
    outcome = isthmus("merge", "a", "b", "-o", "m", *options)
    assert outcome.code == 2
    assert message in outcome.error
    assert outcome.error.count("\n") == 1
    assert not (tmp_path / "m").exists()


def test_models_that_do_other_things_are_not_merged(tmp_path: Path, saved: Callable[..., Path]) -> None:
    whole = saved_classifier(tmp_path / "whole")
    tokens = saved_classifier(tmp_path / "tokens", seed=1, tokens=True)
    writes = saved("writes", vocab_size=1027, n_positions=48, tokenizer=True)
    for one, message in (
        (tokens, "'tokens' classifies the tokens of a text"),
        (writes, "'writes' is a language model"),
    ):
        with pytest.raises(IncompatibleModels, match=message):
            merge(whole, one, t=0.5, align="none")
    with pytest.raises(BadInput, match="--head is for classifiers"):
        merge(writes, writes, t=0.5, align="none", head="A")


def test_a_file_without_its_head_is_named(tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    tiny_model(vocab_size=1027, n_positions=48).save_pretrained(bare)
    facts = json.loads((bare / "config.json").read_text())
    (bare / "config.json").write_text(json.dumps({**facts, "architectures": ["GPT2ForSequenceClassification"]}))
    with pytest.raises(BadInput, match="has no head of a classifier"):
        isthmus.check(bare, bare, families=FAMILIES).require() or load(bare, families=FAMILIES)


def test_no_text_ends_in_padding_that_counts(tmp_path: Path) -> None:
    """A classifier looks at the last token that is not padding: a batch of texts gives what each gives alone."""
    from isthmus.checkpoint.model import PADDING, empty_model, log_probs, unpadded

    for kind in KINDS:
        model = classifier(kind)
        model.config.architectures = [type(model).__name__]
        state = {name: value.detach() for name, value in model.named_parameters()}
        ids = torch.randint(2, 1000, (5, 20), generator=torch.Generator().manual_seed(0))
        for row, length in enumerate((20, 3, 11, 1, 7)):
            ids[row, length:] = PADDING
        together = log_probs(state, model.config, ids)
        for row, length in enumerate((20, 3, 11, 1, 7)):
            with torch.no_grad():
                alone = model(ids[row : row + 1, :length]).logits[0]
            torch.testing.assert_close(together[row], alone, atol=1e-5, rtol=0)
        assert sorted(len(part[0]) for part in unpadded(ids, 2)) == [1, 3, 7, 11, 20]
        assert empty_model(model.config).config.pad_token_id == model.config.pad_token_id


def test_from_python_with_a_plan(tmp_path: Path) -> None:
    a, b = (saved_classifier(tmp_path / name, seed=seed) for seed, name in enumerate("ab"))
    report = merge_models([a, b], plan_of(data=[str(labelled(tmp_path / "x.jsonl"))], tokens=400)).report
    assert 0 <= report["merge_point"]["accuracy"] <= 1
