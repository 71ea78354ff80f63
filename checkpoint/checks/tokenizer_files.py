"""Do two tokenizers make the same tokens, by their files alone? What the Hub lists as equal is not downloaded."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ..small_files import ADDED_TOKENS, CONFIGURATION, TOKENIZER, is_content_file
from ..source import Source, same_file
from ..tokenizer import DECODER, EXTRA, ROLES, named_tokens, settings, token_text

# Settings that do not change which tokens a text becomes.
HARMLESS = frozenset({
    "added_tokens_decoder",  # compared by its tokens
    "backend", "chat_template", "clean_up_tokenization_spaces", "device_map", "errors", "from_slow", "is_local",
    "local_files_only", "max_length", "model_input_names", "model_max_length", "name_or_path", "pad_to_multiple_of",
    "padding_side", "processor_class", "return_token_type_ids", "special_tokens_map_file", "stride", "tokenizer_file",
    "transformers_version", "truncation_side", "truncation_strategy", "use_fast",
})  # fmt: skip
GENERIC = {"PreTrainedTokenizer": "TokenizersBackend"}  # two names of the class that adds nothing to tokenizer.json


def equal_files(a: Source, b: Source) -> bool:
    """Whether the files of two tokenizers say that they make the same tokens: equal content, settings that agree."""
    names = {name for source in (a, b) for name in source.files if is_content_file(name)}
    if TOKENIZER in a.files and TOKENIZER in b.files:  # transformers reads it, and no other vocabulary
        names &= {TOKENIZER, ADDED_TOKENS}
    if not all(name in a.files and name in b.files and same_file(a, b, name) for name in sorted(names)):
        return False
    written_a, written_b = settings(a), settings(b)
    return _relevant(a, written_a) == _relevant(b, written_b) or _same_tokens(a, written_a, b, written_b)


def _relevant(source: Source, written: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that change which tokens a text becomes, in one form."""
    stated = {key: _plain(value) for key, value in written.items() if key not in HARMLESS}
    stored = written.get("tokenizer_class") or source.json(CONFIGURATION).get("tokenizer_class") or ""
    name = str(stored).removesuffix("Fast")
    stated["tokenizer_class"] = GENERIC.get(name, name)
    stated[DECODER] = sorted(_decoder(written))
    return stated


def _plain(value: Any) -> Any:
    """Tokens in a setting as text, whether they were written as text or with flags."""
    if isinstance(value, list):
        return [_plain(item) for item in value]
    text = token_text(value)
    return value if text is None else text


def _decoder(written: Mapping[str, Any]) -> set[str]:
    tokens = written.get(DECODER)
    return {json.dumps(token, sort_keys=True) for token in tokens.values()} if isinstance(tokens, Mapping) else set()


def _same_tokens(a: Source, written_a: Mapping[str, Any], b: Source, written_b: Mapping[str, Any]) -> bool:
    """Whether settings differ only in the roles of tokens that both list as added."""
    if any(key in written for key in ("add_bos_token", "add_eos_token") for written in (written_a, written_b)):
        return False
    if not _decoder(written_a) or _decoder(written_a) != _decoder(written_b):
        return False
    listed = set(named_tokens({DECODER: written_a[DECODER]}))
    if not listed.issuperset((*named_tokens(written_a), *named_tokens(written_b))):
        return False
    rest_a, rest_b = (
        {key: value for key, value in _relevant(source, written).items() if key not in (*ROLES, *EXTRA)}
        for source, written in ((a, written_a), (b, written_b))
    )
    return rest_a == rest_b
