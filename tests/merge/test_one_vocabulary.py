"""Models with tokens of their own under one vocabulary: every row is that of the token, and the saved model has it."""

from __future__ import annotations

import gc
import json
from pathlib import Path

import pytest
import torch
from adapters import tiny_base
from conftest import EMBEDDED
from group import moved, random_elements
from tokenizers import Tokenizer, models, trainers
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from isthmus.align.canonical import canonical
from isthmus.align.families import FAMILIES, family
from isthmus.checkpoint.loading import load
from isthmus.checkpoint.one_vocabulary import OneVocabulary
from isthmus.merge.pipeline import merge_models
from isthmus.merge.plans import MergePlan

VOCABULARY = 1024


def put(
    directory: Path, tokens: list[str], *, seed: int, family: str = "gpt2", pad: int = 0, eos: str = "", **facts
) -> Path:
    """A model with the embedded tokenizer and some tokens added, of which `eos` ends a text."""
    tokenizer = AutoTokenizer.from_pretrained(EMBEDDED / "docs")
    tokenizer.add_tokens(tokens, special_tokens=True)
    if eos:
        tokenizer.eos_token = eos
    model = tiny_base(family, seed, vocab_size=VOCABULARY + len(tokens) + pad, **facts)
    if eos:
        model.config.eos_token_id = model.generation_config.eos_token_id = tokenizer.convert_tokens_to_ids(eos)
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


@pytest.fixture
def three(tmp_path: Path) -> tuple[Path, Path, Path]:
    """A base, and two fine-tunes with a token each and one that both have, at different ids."""
    return (
        put(tmp_path / "base", [], seed=0),
        put(tmp_path / "left", ["<left>", "<both>"], seed=1, eos="<left>"),
        put(tmp_path / "right", ["<right>", "<other>", "<both>"], seed=2),
    )


def rows_by_token(directory: Path, name: str) -> dict[str, Tensor]:
    """The rows of a matrix by the tokens' text, by transformers alone."""
    matrix = AutoModelForCausalLM.from_pretrained(directory).state_dict()[name]
    vocabulary = AutoTokenizer.from_pretrained(directory).get_vocab()
    return {token: matrix[row] for token, row in vocabulary.items()}


def merged(isthmus, out: Path, *arguments: object) -> dict[str, Tensor]:
    outcome = isthmus("merge", *arguments, "-o", out)
    assert outcome.code == 0, outcome.err
    return rows_by_token(out, "transformer.wte.weight")


@pytest.mark.parametrize("order", [(0, 1, 2), (1, 2, 0), (2, 0, 1)])
def test_a_row_is_the_mean_over_the_models_that_have_the_token(order, three, tmp_path, isthmus) -> None:
    rows = merged(isthmus, tmp_path / "out", *(three[place] for place in order), "--vocabulary", "union")
    own = [rows_by_token(model, "transformer.wte.weight") for model in three]
    assert set(rows) == set().union(*own)
    for token, row in rows.items():
        having = [each[token] for each in own if token in each]
        torch.testing.assert_close(row, sum(having) / len(having), atol=1e-6, rtol=0)


def test_task_vectors_leave_a_token_of_one_model_as_it_is(three, tmp_path, isthmus) -> None:
    base, *tuned = three
    method = ("--method", "task_arithmetic", "--base", base, "--weight", "0.5")
    rows = merged(isthmus, tmp_path / "out", *tuned, *method, "--vocabulary", "union")
    below, left, right = (rows_by_token(model, "transformer.wte.weight") for model in three)
    for token, row in rows.items():
        if token in below:
            expected = below[token] + 0.5 * (left[token] - below[token]) + 0.5 * (right[token] - below[token])
        else:  # there is no difference to a base that lacks it
            having = [each[token] for each in (left, right) if token in each]
            start = sum(having) / len(having)
            expected = start + sum(0.5 * (row - start) for row in having)
        torch.testing.assert_close(row, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("turned_first", [False, True])
def test_models_that_were_trained_apart_are_aligned_by_the_tokens_that_they_share(
    turned_first: bool, tmp_path, isthmus
) -> None:
    """A copy whose symmetries were moved at random, with a token of its own: the merge computes what it computes."""
    own = put(tmp_path / "own", [], seed=0)
    model = load(own, families=FAMILIES)
    table = family(model.config).untied()
    pieces = canonical(dict(model.state), family(model.config))
    turned = moved(pieces, table, random_elements(table, "orthogonal"))
    place = put(tmp_path / "turned", ["<new>"], seed=1, tie_word_embeddings=False)
    other = AutoModelForCausalLM.from_pretrained(place)
    rows = {"transformer.wte.weight": torch.randn(1, 32), "lm_head.weight": torch.randn(1, 32)}
    other.load_state_dict(
        {name: torch.cat([turned[name], rows[name]]) if name in rows else turned[name] for name in turned}
    )
    other.save_pretrained(place)
    pair = (place, own) if turned_first else (own, place)
    options = ("--data", "stdlib:docs", "--tokens", "512", "--no-spectrum", "--align", "orthogonal", "--t", "0.5")
    outcome = isthmus("merge", *pair, "--vocabulary", "union", *options, "-o", tmp_path / "out")
    assert outcome.code == 0, outcome.err
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    ids = tokenizer("def f(x): <new> return <new> x", return_tensors="pt").input_ids
    assert (ids == tokenizer.convert_tokens_to_ids("<new>")).sum() == 2
    with torch.no_grad():
        merged = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()(ids).logits.log_softmax(-1)
        expected = other.eval()(ids).logits.log_softmax(-1)
    torch.testing.assert_close(merged, expected, atol=0.02, rtol=0)  # log-probabilities that reach from −20 to 0


def test_the_saved_model_opens_stops_and_says_what_it_is(three, tmp_path, isthmus) -> None:
    """`files_loss` holds the losses that are shown against transformers' on the saved files."""
    out, options = tmp_path / "out", ("--data", "stdlib:docs", "--tokens", "512", "--no-spectrum")
    outcome = isthmus("merge", *three, "--vocabulary", "union", *options, "-o", out)
    assert outcome.code == 0
    assert "the vocabularies differ: 4 tokens that not all models have" in outcome.err
    tokenizer, model = AutoTokenizer.from_pretrained(out), AutoModelForCausalLM.from_pretrained(out)
    assert model.config.vocab_size == len(tokenizer) == VOCABULARY + 4
    ends = model.generation_config.eos_token_id
    assert tokenizer.convert_tokens_to_ids("<left>") in ends
    head = model.get_output_embeddings().weight.detach().clone()
    model.lm_head.weight = torch.nn.Parameter(head)  # untied, so that the next token can be made sure of
    with torch.no_grad():
        model.lm_head.weight[tokenizer.convert_tokens_to_ids("<left>")] = 1e4 * model.transformer.ln_f.bias
        model.transformer.ln_f.weight.zero_()
    generated = model.generate(tokenizer("a b", return_tensors="pt").input_ids, max_new_tokens=8, do_sample=False)
    assert generated.shape[1] < 8
    report = json.loads((out / "isthmus.json").read_text())
    assert set(report["vocabulary"]["added_tokens"]) == {"<left>", "<right>", "<other>", "<both>"}
    assert report["vocabulary"]["rows"] == VOCABULARY + 4
    assert "--vocabulary union" in report["reproduce"]


def test_the_vocabulary_of_the_base_or_of_the_first_model(three, tmp_path, isthmus) -> None:
    base, left, right = three
    method = ("--method", "task_arithmetic", "--base", base)
    assert len(merged(isthmus, tmp_path / "b", left, right, *method, "--vocabulary", "base")) == VOCABULARY
    findings = json.loads((tmp_path / "b" / "isthmus.json").read_text())["findings"]
    assert any("that of base, without 4 of them" in finding["advice"] for finding in findings)
    assert set(merged(isthmus, tmp_path / "a", left, right, "--vocabulary", "A", "--t", "0.5")) == set(
        rows_by_token(left, "transformer.wte.weight")
    )


def test_two_models_with_tokens_of_their_own_are_merged_on_a_path(three, tmp_path, isthmus) -> None:
    _, left, right = three
    out = tmp_path / "out"
    assert isthmus("merge", left, right, "-o", tmp_path / "no", "--t", "0.5", "--align", "none").code == 2
    options = ("--data", "stdlib:docs", "--tokens", "512", "--no-spectrum", "--t", "0.25", "--vocabulary", "union")
    assert isthmus("merge", left, right, "-o", out, *options).code == 0
    rows, first, second = (rows_by_token(place, "transformer.wte.weight") for place in (out, left, right))
    torch.testing.assert_close(rows["<left>"], first["<left>"], atol=1e-6, rtol=0)
    torch.testing.assert_close(rows["<both>"], 0.75 * first["<both>"] + 0.25 * second["<both>"], atol=1e-6, rtol=0)


@pytest.mark.parametrize("pads", [(0, 3), (3, 0), (2, 7)])
def test_rows_of_padding_are_no_tokens(pads, tmp_path, isthmus) -> None:
    first = put(tmp_path / "a", ["<a>"], seed=1, pad=pads[0])
    second = put(tmp_path / "b", ["<b>"], seed=2, pad=pads[1])
    rows = merged(isthmus, tmp_path / "out", first, second, "--vocabulary", "union", "--t", "0.5")
    own = [rows_by_token(place, "transformer.wte.weight") for place in (first, second)]
    torch.testing.assert_close(rows["<a>"], own[0]["<a>"])
    torch.testing.assert_close(rows["<b>"], own[1]["<b>"])


def test_a_token_that_no_model_has_a_row_for_has_a_mean_one(tmp_path, isthmus) -> None:
    first, second = put(tmp_path / "a", [], seed=1), put(tmp_path / "b", ["<b>"], seed=2)
    tokenizer = AutoTokenizer.from_pretrained(first)
    tokenizer.add_tokens(["<no-row>"])
    tokenizer.save_pretrained(first)
    rows = merged(isthmus, tmp_path / "out", first, second, "--vocabulary", "union", "--t", "0.5")
    others = torch.stack([row for token, row in rows.items() if token != "<no-row>"])
    assert (rows["<no-row>"] - others.mean(0)).abs().max() < 0.1 * others.std()


def test_an_output_matrix_of_its_own_has_its_rows_in_order_too(tmp_path, isthmus) -> None:
    facts = {"family": "llama", "tie_word_embeddings": False}
    first = put(tmp_path / "a", ["<a>", "<both>"], seed=1, **facts)
    second = put(tmp_path / "b", ["<both>", "<b>"], seed=2, **facts)
    out = tmp_path / "out"
    assert isthmus("merge", first, second, "--vocabulary", "union", "--t", "0.5", "-o", out).code == 0
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        rows, *own = (rows_by_token(place, name) for place in (out, first, second))
        torch.testing.assert_close(rows["<both>"], (own[0]["<both>"] + own[1]["<both>"]) / 2, atol=1e-6, rtol=0)
        torch.testing.assert_close(rows["<b>"], own[1]["<b>"], atol=1e-6, rtol=0)


def other_tokenizer(directory: Path) -> Path:
    model = Tokenizer(models.BPE())
    model.train_from_iterator(["some other text of other words " * 20], trainers.BpeTrainer(vocab_size=60))
    PreTrainedTokenizerFast(tokenizer_object=model, eos_token="s").save_pretrained(directory)
    return directory


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_a_tied_model_takes_the_rows_of_another_ones_output_matrix(order, tmp_path, isthmus) -> None:
    models = (
        put(tmp_path / "tied", [], seed=1, family="llama", tie_word_embeddings=True),
        put(tmp_path / "untied", ["<b>"], seed=2, family="llama", tie_word_embeddings=False),
    )
    out = tmp_path / "out"
    given = [models[place] for place in order]
    assert isthmus("merge", *given, "--vocabulary", "union", "--t", "0.5", "-o", out).code == 0
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        torch.testing.assert_close(rows_by_token(out, name)["<b>"], rows_by_token(models[1], name)["<b>"])


@pytest.mark.parametrize("method", ["ties", "dare_ties", "dare_linear", "task_arithmetic"])
def test_a_token_that_the_base_lacks_is_the_mean_by_every_method(method: str, three, tmp_path, isthmus) -> None:
    base, *tuned = three
    density = () if method == "task_arithmetic" else ("--density", "0.5")
    options = ("--method", method, "--base", base, *density, "--vocabulary", "union")
    rows = merged(isthmus, tmp_path / "out", *tuned, *options)
    own = [rows_by_token(model, "transformer.wte.weight") for model in tuned]
    torch.testing.assert_close(rows["<both>"], (own[0]["<both>"] + own[1]["<both>"]) / 2, atol=1e-6, rtol=0)
    torch.testing.assert_close(rows["<left>"], own[0]["<left>"], atol=1e-6, rtol=0)


def test_licences_and_differences_are_said_as_without(tmp_path, isthmus) -> None:
    first, second = put(tmp_path / "a", ["<a>"], seed=1), put(tmp_path / "b", ["<b>"], seed=2)
    (first / "README.md").write_text("---\nlicense: mit\n---\n")
    (second / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    file = second / "tokenizer.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "normalizer": {"type": "Lowercase"}}))
    outcome = isthmus("merge", first, second, "--vocabulary", "union", "--t", "0.5", "-o", tmp_path / "out")
    assert outcome.code == 0
    assert "the licences differ" in outcome.err
    assert "degrades  the normalizer of 'b' differs from that of 'a'" in outcome.err
    assert json.loads((tmp_path / "out" / "isthmus.json").read_text())["license"] is None


def test_a_token_that_one_marks_as_special_is_the_same_token(tmp_path, isthmus) -> None:
    first, second = put(tmp_path / "a", ["<a>"], seed=1), put(tmp_path / "b", [], seed=2)
    tokenizer = AutoTokenizer.from_pretrained(second)
    tokenizer.pad_token = "!"
    tokenizer.save_pretrained(second)
    rows = merged(isthmus, tmp_path / "out", first, second, "--vocabulary", "union", "--t", "0.5")
    assert len(rows) == VOCABULARY + 1


def test_nothing_stays_behind_in_a_process(tmp_path) -> None:
    first, second = put(tmp_path / "a", ["<a>"], seed=1), put(tmp_path / "b", ["<b>"], seed=2)
    gc.collect()
    before = sum(type(one) is OneVocabulary for one in gc.get_objects())
    merge_models([first, second], MergePlan(vocabulary="union", t=0.5, align="none")).save(tmp_path / "out")
    gc.collect()
    assert sum(type(one) is OneVocabulary for one in gc.get_objects()) == before
    settings = json.loads((tmp_path / "out" / "tokenizer_config.json").read_text())
    assert "local_files_only" not in settings


BAD = {
    "different tokenizers": (("union", "--align", "none"), "have different tokenizers, not only added tokens ("),
    "a base that is none": (("base", "--align", "none"), "--vocabulary base is for a method with --base"),
}


@pytest.mark.parametrize("kind", BAD)
def test_what_has_no_one_vocabulary_is_said(kind: str, tmp_path, isthmus) -> None:
    options, sentence = BAD[kind]
    first, second = put(tmp_path / "a", ["<a>"], seed=1), put(tmp_path / "b", [], seed=2)
    if kind == "different tokenizers":
        other_tokenizer(second)
    outcome = isthmus("merge", first, second, "-o", tmp_path / "out", "--t", "0.5", "--vocabulary", *options)
    assert outcome.code == 2
    assert sentence in outcome.err


def test_models_without_a_tokenizer_have_no_one_vocabulary(saved, tmp_path, isthmus) -> None:
    options = ("--vocabulary", "union", "--t", "0.5", "-o", tmp_path / "out")
    outcome = isthmus("merge", saved("a", 1), saved("b", 2), *options)
    assert outcome.code == 2
    assert "has no tokenizer that transformers can read" in outcome.err


def test_a_chat_template_that_one_model_has_is_taken(tmp_path, isthmus) -> None:
    first, second = put(tmp_path / "a", ["<a>"], seed=1), put(tmp_path / "b", ["<b>"], seed=2)
    (second / "chat_template.jinja").write_text("{{ messages }}")
    out = tmp_path / "out"
    outcome = isthmus("merge", first, second, "--vocabulary", "union", "--t", "0.5", "-o", out)
    assert AutoTokenizer.from_pretrained(out).chat_template == "{{ messages }}"
    assert "chat template" not in outcome.err
    (first / "chat_template.jinja").write_text("{{ other }}")
    outcome = isthmus("merge", first, second, "--vocabulary", "union", "--t", "0.5", "-o", out, "--overwrite")
    assert AutoTokenizer.from_pretrained(out).chat_template == "{{ other }}"
    assert "degrades  the chat template of 'b' differs from that of 'a'" in outcome.err
