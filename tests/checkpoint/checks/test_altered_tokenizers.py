"""Tokenizers that are written in many ways: only what they do differently is a difference."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import altered_tokenizers as altered
import pytest
from altered_tokenizers import ALTERED, END
from transformers import AutoTokenizer

from isthmus.checkpoint.check import check
from isthmus.checkpoint.errors import CorruptCheckpoint
from isthmus.checkpoint.reference import parse_reference
from isthmus.checkpoint.source import Source
from isthmus.checkpoint.tokenizer import chat_templates, read_tokenizer, special_tokens


def said(*models: Path) -> list[str]:
    return [f"{finding.kind}: {finding}" for finding in check(*models).findings]


@pytest.fixture
def pair(saved) -> Callable[..., tuple[Path, Path]]:
    def make(change: Callable[[Path], None], rows: int = 1024) -> tuple[Path, Path]:
        first, second = saved("a", tokenizer=True, vocab_size=1024), saved("b", 1, tokenizer=True, vocab_size=rows)
        change(second)
        return first, second

    return make


NAMED = [
    altered.end_in_special_tokens_map,
    altered.end_with_flags_in_special_tokens_map,
    altered.end_in_added_tokens_decoder,
    altered.end_in_added_tokens_file,
    altered.end_as_an_extra_token,
    altered.end_as_an_additional_token,
    altered.token_of_the_model_kind,
    altered.end_in_tokenizer_file,
]


@pytest.mark.parametrize("change", NAMED, ids=lambda change: change.__name__)
def test_a_token_that_any_file_names_is_a_token(pair, change) -> None:
    models = pair(change, rows=1026)
    assert AutoTokenizer.from_pretrained(models[1]).convert_tokens_to_ids(END) == 1024
    found = said(*models)
    assert f"notes: 'b' knows 1 token that 'a' does not, for instance \"{END}\"" in " ".join(found)
    assert check(*models).growth[0].shared == 1024
    assert not [line for line in found if "belong to no token" in line or line.startswith("blocks")]


@pytest.mark.parametrize("change", NAMED, ids=lambda change: change.__name__)
def test_a_token_without_a_row(pair, change) -> None:
    first, second = pair(change)
    found = said(first, second)
    assert (
        f"degrades: the tokenizer of 'b' has the token \"{END}\" with id 1024, and its embedding has 1024 rows: the "
        "model fails on a text with such a token; add rows to the embedding, or remove the tokens"
    ) in found
    assert check(first, second).growth == (None,)
    assert any("the tokenizer of 'b' has the token" in line for line in said(second, second))


SAME = [
    altered.defaults_left_out,
    altered.offsets_not_trimmed,
    altered.of_its_own_class,
    altered.in_two_files,
    altered.tokens_beside,
    altered.other_tokens_beside,
]


@pytest.mark.parametrize("change", SAME, ids=lambda change: change.__name__)
def test_the_same_written_in_another_way(pair, change) -> None:
    found = said(*pair(change))
    assert not [line for line in found if line.startswith(("blocks", "degrades"))]
    assert not [line for line in found if " of 'b' differ" in line]


def test_what_has_no_effect_is_a_note(pair) -> None:
    found = said(*pair(altered.pre_tokenizer_in_a_sequence))
    assert [line for line in found if "pre_tokenizer" in line and line.startswith("notes") and "without effect" in line]
    assert not [line for line in found if line.startswith("degrades")]


@pytest.mark.parametrize(
    ("change", "part"),
    [
        (altered.without_regular_expression, "the pre_tokenizer of 'b' differs"),
        (altered.lower_case, "the normalizer of 'b' differs"),
        (altered.last_merges_left_out, "the merge rules of 'b' differ"),
        (altered.merges_ignored, "the model of 'b' differs"),
        (altered.begins_with_a_token, "the post_processor of 'b' differs"),
        (altered.strips_before_a_token, "the flags of added tokens of 'b' differ"),
        (altered.of_its_own_class_with_a_space, "the pre_tokenizer of 'b' differs"),
    ],
    ids=lambda value: value if isinstance(value, str) else value.__name__,
)
def test_what_becomes_other_tokens(pair, change, part: str) -> None:
    found = [line for line in said(*pair(change)) if part in line]
    assert found
    assert all(line.startswith("degrades") and "the same text becomes other tokens" in line for line in found)


def test_tokens_that_become_other_text(pair) -> None:
    found = said(*pair(altered.decoder_without_bytes))
    assert any(line.startswith("degrades: 'a' and 'b' make other text of the same tokens") for line in found)


def test_what_transformers_cannot_build_is_said_and_not_guessed_at(pair) -> None:
    first, second = pair(altered.trimming_left_out)
    found = said(first, second)
    assert any(line.startswith("notes: transformers cannot build the tokenizer of 'b'") for line in found)
    assert not [line for line in found if line.startswith(("degrades", "blocks"))]
    assert any(line.startswith("blocks: transformers cannot build the tokenizer") for line in said(second, second))
    found = said(second, first)
    assert [line[:59] for line in found if line.startswith("blocks")] == [
        "blocks: transformers cannot build the tokenizer of 'b' from"
    ]


BUILT = [name for name in ALTERED if name != "trimming_left_out"]


@pytest.mark.parametrize("name", BUILT)
def test_special_tokens_and_templates_are_those_of_transformers(pair, name: str) -> None:
    directory = pair(ALTERED[name])[1]
    real, source = AutoTokenizer.from_pretrained(directory), Source(parse_reference(directory))
    for role, token in special_tokens(source).items():
        assert getattr(real, role) == token
    template = real.chat_template
    assert chat_templates(source) == (
        {} if not template else {"default": template} if type(template) is str else template
    )
    tokenizer = read_tokenizer(source)
    assert tokenizer is not None
    assert tokenizer.tokens == real.get_vocab()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (altered.template_twice, "'b' has a chat template in chat_template.jinja and another in tokenizer_config.json"),
        (altered.template_of_a_processor, "'b' has a chat template in chat_template.json, which no tokenizer reads"),
        (altered.other_tokens_beside, "'b' has other tokens in vocab.json than in tokenizer.json"),
        (altered.two_ends, 'the eos_token of \'b\' is "<|endoftext|>" in tokenizer_config.json and "the" in special'),
        (altered.ends_in_generation_config, "the eos_token_id of 'b' is 0 in config.json and [7, 9] in generation_co"),
        (altered.files_left_out, "a merge leaves out modules.json of 'b'"),
    ],
    ids=lambda value: "" if isinstance(value, str) else value.__name__,
)
def test_what_is_ignored_is_said(pair, change, sentence: str) -> None:
    models = pair(change)
    assert any(line.startswith("notes") and sentence in line for line in said(*models))
    assert not any("takes precedence" in line or "leaves out" in line for line in said(models[0], models[0]))


def test_an_end_that_has_no_row(pair) -> None:
    found = said(*pair(altered.ids_without_rows))
    assert any(
        line.startswith(
            "degrades: the eos_token_id of 'b' is 50256 in generation_config.json, and its embedding has 1024"
        )
        for line in found
    )


def test_named_templates_are_compared_one_by_one(pair) -> None:
    first, second = pair(altered.templates_in_a_folder)
    altered.template_twice(first)
    found = [line for line in said(first, second) if "chat template" in line and line.startswith("degrades")]
    assert found == ["degrades: only 'b' has a chat template \"tool_use\": the merge has the tokenizer of 'a'"]


def test_sentence_pieces_are_compared_where_the_library_is_missing(saved) -> None:
    models = [saved(name, vocab_size=4) for name in "abc"]
    for model, pieces in zip(models, (["<unk>", "a", "b"], ["<unk>", "b", "a"], ["<unk>", "a", "b", "c"]), strict=True):
        (model / "tokenizer.model").write_bytes(altered.sentencepiece_model(pieces))
    assert any(line.startswith("blocks: the tokenizers of 'a' and 'b' differ in 2") for line in said(*models[:2]))
    assert any("'c' knows 1 token that 'a' does not" in line for line in said(models[0], models[2]))
    (models[1] / "tokenizer.model").write_bytes(b"nothing of the kind")
    with pytest.raises(CorruptCheckpoint, match="the tokenizer of 'b' is damaged"):
        check(*models[:2])


def test_generation_settings_go_with_the_tokenizer(pair) -> None:
    found = said(*pair(altered.ends_in_generation_config))
    assert any("the generation settings of 'b' differ from those of 'a' (do_sample" in line for line in found)
    assert any("the merge has those of 'a', with its tokenizer" in line for line in found)


def test_a_tokenizer_that_any_library_reads_comes_first(saved) -> None:
    from isthmus.checkpoint.inputs import open_inputs

    first, second = saved("a", vocab_size=1024), saved("b", tokenizer=True, vocab_size=1024)
    tokenizer = AutoTokenizer.from_pretrained(second)
    tokens = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    (first / "tokenizer.model").write_bytes(altered.sentencepiece_model(tokens))
    assert open_inputs((first, second)).tokenizer_owner.name == "b"
    assert any("the merge has those of 'b'" in line or "tokenizer of 'b'" in line for line in said(first, second))
