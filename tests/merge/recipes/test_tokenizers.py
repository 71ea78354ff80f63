"""What recipes say of tokenizers: the vocabulary of all or of one, single rows, padding, chat templates."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from adapters import tiny_base
from conftest import EMBEDDED
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from isthmus.merge.recipes.mergekit import read_recipe

VOCABULARY = 1024


def put(directory: Path, tokens: list[str], seed: int, template: str = "") -> Path:
    """A model with the embedded tokenizer and some tokens added."""
    tokenizer = AutoTokenizer.from_pretrained(EMBEDDED / "docs")
    tokenizer.add_tokens(tokens, special_tokens=True)
    if template:
        tokenizer.chat_template = template
    tiny_base("gpt2", seed, vocab_size=VOCABULARY + len(tokens)).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


def rows(directory: Path) -> dict[str, Tensor]:
    """The rows of the embedding by token, by transformers alone."""
    matrix = AutoModelForCausalLM.from_pretrained(directory).get_input_embeddings().weight.detach()
    return {token: matrix[row] for token, row in AutoTokenizer.from_pretrained(directory).get_vocab().items()}


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    return put(tmp_path / "a", ["<a>", "<both>"], 0), put(tmp_path / "b", ["<b>", "<both>", "<c>"], 1)


def run(isthmus, pair: tuple[Path, Path], text: str) -> Path:
    out, recipe = pair[0].parent / "out", pair[0].parent / "recipe.yml"
    models = "".join(f"- {{model: {place}, parameters: {{weight: 1}}}}\n" for place in pair)
    recipe.write_text(f"merge_method: linear\nmodels:\n{models}{text}".replace("A_", str(pair[0])))
    outcome = isthmus("merge", recipe, "-o", out)
    assert outcome.code == 0, outcome.err
    return out


def test_the_union_of_both(pair, isthmus) -> None:
    merged, a, b = rows(run(isthmus, pair, "tokenizer_source: union\n")), rows(pair[0]), rows(pair[1])
    assert merged.keys() == a.keys() | b.keys()
    for token, row in merged.items():
        having = [own[token] for own in (a, b) if token in own]
        torch.testing.assert_close(row, sum(having) / len(having), atol=1e-6, rtol=0)


def test_the_tokens_of_one(pair, isthmus) -> None:
    merged, a, b = rows(run(isthmus, pair, "tokenizer_source: A_\n")), rows(pair[0]), rows(pair[1])
    assert merged.keys() == a.keys()
    torch.testing.assert_close(merged["<a>"], a["<a>"], atol=1e-6, rtol=0)
    torch.testing.assert_close(merged["<both>"], (a["<both>"] + b["<both>"]) / 2, atol=1e-6, rtol=0)


TOKENS = """
tokenizer:
  source: union
  pad_to_multiple_of: 64
  tokens:
    <a>: {source: {kind: zero}}
    <both>: {source: A_, force: true}
    <c>: {source: {kind: model_token, model: A_, token: <both>}, force: true}
    <new>: {source: {kind: model_token, model: A_, token_id: 5}}
"""


def test_rows_of_single_tokens(pair, isthmus) -> None:
    out = run(isthmus, pair, TOKENS)
    merged, a, b = rows(out), rows(pair[0]), rows(pair[1])
    whole = AutoModelForCausalLM.from_pretrained(pair[0]).get_input_embeddings().weight.detach()
    expected = {
        "<a>": (a["<a>"] + 0) / 2,  # a keeps its own, b has zeros
        "<b>": b["<b>"],
        "<both>": a["<both>"],
        "<c>": a["<both>"],
        "<new>": whole[5],
    }
    for token, row in expected.items():
        torch.testing.assert_close(merged[token], row, atol=1e-6, rtol=0, msg=lambda m, token=token: f"{token}: {m}")
    matrix = AutoModelForCausalLM.from_pretrained(out).get_input_embeddings().weight.detach()
    assert (len(merged), len(matrix)) == (VOCABULARY + 5, 1088)
    torch.testing.assert_close(matrix[-1], matrix[: len(merged)].mean(0), atol=1e-5, rtol=0)
    again = json.loads((out / "isthmus.json").read_text())["reproduce"].split("<<'END'\n")[1].split("END\n")[0]
    (out.parent / "again.yml").write_text(again)
    assert read_recipe(out.parent / "again.yml").vocabulary.multiple == 64


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("{kind: model_token, model: A_, token: <b>}", "has no token '<b>'"),
        ("{kind: model_token, model: A_, token_id: 9999}", "none of the id 9999"),
        ("A_", "has no token '<new>'"),
    ],
)
def test_rows_that_are_not_there(source: str, message: str, pair, isthmus) -> None:
    recipe = pair[0].parent / "recipe.yml"
    models = "".join(f"- {{model: {place}, parameters: {{weight: 1}}}}\n" for place in pair)
    tokens = f"tokenizer:\n  tokens:\n    <new>: {{source: {source}}}\n".replace("A_", str(pair[0]))
    recipe.write_text(f"merge_method: linear\nmodels:\n{models}{tokens}")
    outcome = isthmus("merge", recipe, "-o", pair[0].parent / "out")
    assert outcome.code == 2
    assert outcome.error.startswith("isthmus: 'recipe.yml', line 7: ")
    assert message in outcome.error


def test_the_chat_template(tmp_path: Path, isthmus) -> None:
    first, second = "{{ messages[0].content }} first", "{{ messages[0].content }} second"
    models = [put(tmp_path / name, [], seed, text) for seed, (name, text) in enumerate((("a", first), ("b", second)))]
    models.append(put(tmp_path / "c", [], 3, second))
    recipe = tmp_path / "recipe.yml"
    text = "merge_method: linear\nparameters: {weight: 1}\nmodels:\n" + "".join(f"- model: {one}\n" for one in models)
    for written, expected in (("auto", second), ("'{% for one in messages %}{{ one.content }}{% endfor %}'", "{% for")):
        recipe.write_text(f"{text}chat_template: {written}\n")
        outcome = isthmus("merge", recipe, "-o", tmp_path / "out", "--overwrite")
        assert outcome.code == 0, outcome.err
        assert AutoTokenizer.from_pretrained(tmp_path / "out").chat_template.startswith(expected)
