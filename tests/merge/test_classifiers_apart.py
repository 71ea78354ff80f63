"""Classifiers that differ in what they are made of: names and order of labels, padding, kinds; larger than memory."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import files_loss
import pytest
import torch
from classifiers import NAMES, classifier, labelled, saved_classifier
from conftest import EMBEDDED, Outcome
from merging import combine, merge
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer, XLNetConfig, XLNetForSequenceClassification

import isthmus as library
from isthmus.align.families import FAMILIES
from isthmus.checkpoint.errors import BadInput, CorruptCheckpoint, IncompatibleModels
from isthmus.checkpoint.labels import labels_of
from isthmus.eval.labelled_text import LabelledText, Labels
from isthmus.eval.loss import LossMeter
from isthmus.merge.recipes.recipe import recipe

CLI = Callable[..., Outcome]
SHORT = {"tokens": 400, "align": "none"}


def edited(directory: Path, **facts: Any) -> Path:
    file = directory / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **facts}))
    return directory


def unnamed(directory: Path) -> Path:
    return edited(directory, id2label={str(row): f"LABEL_{row}" for row in range(3)}, label2id=None)


def test_of_several_the_first_that_names_its_labels_counts(tmp_path: Path) -> None:
    first = unnamed(saved_classifier(tmp_path / "u"))
    others = [saved_classifier(tmp_path / "b", seed=1), saved_classifier(tmp_path / "c", seed=2, labels=NAMES[::-1])]
    models = [str(path) for path in (first, *others)]
    data = labelled(tmp_path / "x.jsonl")
    combine(recipe("linear", models, weights=[[0.2], [0.3], [0.5]]), data=[str(data)], **SHORT).save(tmp_path / "m")
    merged, u, b, c = (load_file(tmp_path / name / "model.safetensors")["score.weight"] for name in ("m", *"ubc"))
    assert torch.allclose(merged, 0.2 * u + 0.3 * b + 0.5 * c.flip(0), atol=1e-6)
    assert [*AutoModelForSequenceClassification.from_pretrained(tmp_path / "m").config.id2label.values()] == [*NAMES]
    found = [str(finding) for finding in library.check(*models, families=FAMILIES).findings]
    assert any("merged by name, in the order of 'b'" in one for one in found)
    edited(tmp_path / "c", id2label={"0": "ham", "1": "spam", "2": "eggs"}, label2id=None)
    with pytest.raises(IncompatibleModels, match="the labels differ: 3 in 'b'"):
        combine(recipe("linear", models), data=[str(data)], **SHORT)


def test_numbered_names_of_another_order_are_names(tmp_path: Path) -> None:
    names = ("LABEL_2", "LABEL_1", "LABEL_0")
    plain, other = saved_classifier(tmp_path / "a"), saved_classifier(tmp_path / "b", seed=1, labels=names)
    unnamed(plain)
    found = [str(finding) for finding in library.check(plain, other, families=FAMILIES).findings]
    assert any("they are taken to be in the same order" in one for one in found)


@pytest.mark.parametrize("base", [False, True])
def test_larger_than_memory_they_are_measured_as_they_are_merged(base: bool, tmp_path: Path) -> None:
    models = [saved_classifier(tmp_path / "a", seed=1), saved_classifier(tmp_path / "b", seed=2, labels=NAMES[::-1])]
    under = None
    if base:
        from transformers import AutoConfig, AutoModelForCausalLM

        under = tmp_path / "base"
        AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(models[0])).save_pretrained(under)
    given = recipe(
        "task_arithmetic" if base else "linear",
        [str(one) for one in models],
        base=None if under is None else str(under),
    )
    data = [str(labelled(tmp_path / "x.jsonl"))]
    inside, outside = (combine(given, data=data, max_memory=limit, **SHORT).report for limit in (None, "100kB"))
    for end, other in zip(inside["endpoints"], outside["endpoints"], strict=True):
        assert end["loss"]["x"] == pytest.approx(other["loss"]["x"], abs=1e-5)
    assert inside["merge_point"]["loss"] == pytest.approx(outside["merge_point"]["loss"], abs=1e-5)
    if base:
        assert inside["baselines"]["base"]["loss"] == pytest.approx(outside["baselines"]["base"]["loss"], abs=1e-5)


def test_with_a_head_larger_than_memory(tmp_path: Path) -> None:
    models = [saved_classifier(tmp_path / "a", seed=1), saved_classifier(tmp_path / "b", seed=2, labels=("yes", "no"))]
    given = recipe("linear", [str(one) for one in models])
    data = [str(labelled(tmp_path / "x.jsonl"))]
    inside, outside = (
        combine(given, data=data, head="A", max_memory=limit, **SHORT).report for limit in (None, "100kB")
    )
    for end, other in zip(inside["endpoints"], outside["endpoints"], strict=True):
        assert end["loss"]["x"] == pytest.approx(other["loss"]["x"], abs=1e-5)


def test_each_is_measured_with_its_own_padding(tmp_path: Path) -> None:
    models = [saved_classifier(tmp_path / "a"), saved_classifier(tmp_path / "b", seed=1)]
    ids = AutoTokenizer.from_pretrained(EMBEDDED / "adamw-1")(" value").input_ids
    edited(models[1], pad_token_id=ids[-1])  # with which some texts end
    merged = merge(*models, data=[str(labelled(tmp_path / "x.jsonl"))], t=0.5, **SHORT)
    assert merged.shown is not None
    for directory, end in zip(models, merged.report["endpoints"], strict=True):
        assert files_loss.loss_of_files(directory, merged.shown.blocks)["x"] == pytest.approx(
            end["loss"]["x"], abs=1e-4
        )
    found = [str(finding) for finding in library.check(*models, families=FAMILIES).findings]
    assert any("the id of padding differs: None in 'a'" in one for one in found)


def test_labels_that_are_numbers_are_names_first() -> None:
    labels = Labels(("1", "2", "3"), True)
    assert [labels.row(label, "x") for label in (1, "1", 3, "3")] == [0, 0, 2, 2]
    assert [Labels(("a", "b"), True).row(label, "x") for label in (1, "1", "B")] == [1, 1, 1]
    for label in ("١", "9" * 5000, 10**400, True, 1.0):
        with pytest.raises(BadInput, match="which these models do not have"):
            labels.row(label, "x")


@pytest.mark.parametrize("kind", ["regression", "multi_label_classification"])
def test_other_kinds_have_no_accuracy_and_are_not_mixed(kind: str, tmp_path: Path) -> None:
    models = [saved_classifier(tmp_path / "a"), saved_classifier(tmp_path / "b", seed=1)]
    edited(models[1], problem_type=kind)
    with pytest.raises(IncompatibleModels, match=f"'b' for {kind}"):
        merge(*models, t=0.5, **SHORT)
    edited(models[0], problem_type=kind)
    with pytest.raises(BadInput, match="no accuracy"):
        merge(*models, data=[str(labelled(tmp_path / "x.jsonl"))], t=0.5, **SHORT)


def test_a_small_vocabulary_and_a_padding_that_is_none(tmp_path: Path) -> None:
    file = labelled(tmp_path / "x.jsonl")
    tokenizer = AutoTokenizer.from_pretrained(EMBEDDED / "adamw-1")
    for padding in (None, -1):
        model = classifier("llama", pad_token_id=None)
        model.config.architectures = [type(model).__name__]
        model.config.pad_token_id = padding
        (part,) = LabelledText([str(file)], tokenizer, model.config, context=48).blocks(
            fit_tokens=None, select_tokens=0, report_tokens=2000
        )
        losses = LossMeter(model.config, {"x": part.report})(dict(model.state_dict()))
        expected = []
        for row in part.report:
            given, labels = files_loss.example_of(row)
            with torch.no_grad():
                model.config.pad_token_id = None
                logits = model(**given).logits
            expected.append(float(torch.nn.functional.cross_entropy(logits, torch.tensor(labels[:1]))))
        assert losses.per_block["x"].tolist() == pytest.approx(expected, abs=1e-5)


def test_models_that_do_not_leave_padding_out(tmp_path: Path) -> None:
    sizes = {"vocab_size": 1027, "d_model": 32, "n_layer": 2, "n_head": 4, "d_inner": 64}
    for seed, name in enumerate("ab"):
        torch.manual_seed(seed)
        model = XLNetForSequenceClassification(XLNetConfig(**sizes, num_labels=3, bos_token_id=0, eos_token_id=0))
        model.save_pretrained(tmp_path / name)
        AutoTokenizer.from_pretrained(EMBEDDED / "adamw-1").save_pretrained(tmp_path / name)
    data = labelled(tmp_path / "x.jsonl", labels=[0, 1, 2])
    merge(tmp_path / "a", tmp_path / "b", data=[str(data)], t=0.5, **SHORT).save(tmp_path / "m")


def test_a_mark_at_the_beginning_is_no_text(tmp_path: Path) -> None:
    file = labelled(tmp_path / "x.jsonl")
    model = classifier("gpt2")
    model.config.architectures = [type(model).__name__]
    tokenizer = AutoTokenizer.from_pretrained(EMBEDDED / "adamw-1")
    plain = LabelledText([str(file)], tokenizer, model.config, context=48).blocks(select_tokens=0)
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    marked = LabelledText([str(file)], tokenizer, model.config, context=48).blocks(select_tokens=0)
    assert torch.equal(plain[0].report, marked[0].report)


def test_names_of_labels_that_are_none(tmp_path: Path) -> None:
    for labels in ({"0": "a", "00": "b", "1": "c"}, {"0": None, "1": "b", "2": "c"}, {"0": "a", "2": "b", "3": "c"}):
        directory = edited(saved_classifier(tmp_path / f"m{len(str(labels))}"), id2label=labels, label2id=None)
        with pytest.raises((CorruptCheckpoint, BadInput)):
            labels_of(json.loads((directory / "config.json").read_text()), "m")


def test_the_same_labels_in_another_order_and_a_head(tmp_path: Path, isthmus: CLI) -> None:
    models = [saved_classifier(tmp_path / "a"), saved_classifier(tmp_path / "b", seed=1, labels=NAMES[::-1])]
    outcome = isthmus("merge", *models, "-o", tmp_path / "m", "--t", "0.5", "--align", "none", "--head", "A")
    assert outcome.code == 0, outcome.err
    assert "have the same labels, numbered differently" in outcome.err
    assert "all models take the head of 'a'" in outcome.err
