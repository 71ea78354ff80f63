from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerFast

from isthmus.checkpoint.check import check


def changed(directory: Path, file: str, change: Callable[[dict], object]) -> Path:
    content = json.loads((directory / file).read_text())
    change(content)
    (directory / file).write_text(json.dumps(content))
    return directory


@pytest.fixture
def pair(saved) -> tuple[Path, Path]:
    return saved("a", tokenizer=True, vocab_size=1024), saved("b", 1, tokenizer=True, vocab_size=1024)


def findings(*models: Path) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {"blocks": [], "degrades": [], "notes": []}
    for finding in check(*models).findings:
        found[finding.kind].append(str(finding))
    return found


def test_a_pre_tokenizer(pair) -> None:
    changed(pair[1], "tokenizer.json", lambda c: c["pre_tokenizer"].update(add_prefix_space=True))
    assert findings(*pair)["degrades"] == [
        "the pre_tokenizer of 'b' differs from that of 'a': the same text becomes other tokens; "
        "the merge has the tokenizer of 'a'"
    ]


def test_special_tokens(pair) -> None:
    changed(pair[1], "tokenizer_config.json", lambda c: c.update(eos_token="the"))
    assert findings(*pair)["degrades"] == [
        "the eos_token is \"<|endoftext|>\" in 'a' and \"the\" in 'b': the merge has the tokenizer of 'a'"
    ]


def test_a_special_token_may_be_written_in_two_ways(pair) -> None:
    token = {"content": "<|endoftext|>", "lstrip": False, "__type": "AddedToken"}
    changed(pair[1], "tokenizer_config.json", lambda c: c.update(eos_token=token))
    assert findings(*pair)["degrades"] == []


def test_chat_templates(pair) -> None:
    changed(pair[0], "tokenizer_config.json", lambda c: c.update(chat_template="{{ messages }}"))
    assert findings(*pair)["degrades"] == ["only 'a' has a chat template: the merge has the tokenizer of 'a'"]
    (pair[1] / "chat_template.jinja").write_text("{{ other }}")
    assert findings(*pair)["degrades"] == [
        "the chat template of 'b' differs from that of 'a': the merge has the tokenizer of 'a'"
    ]
    (pair[1] / "chat_template.jinja").write_text("{{ messages }}")
    assert findings(*pair)["degrades"] == []


def test_one_file_and_two_say_the_same(pair) -> None:
    """tokenizer.json, and the vocab.json and merges.txt that it was made of."""
    content = json.loads((pair[1] / "tokenizer.json").read_text())
    (pair[1] / "tokenizer.json").unlink()
    (pair[1] / "vocab.json").write_text(json.dumps(content["model"]["vocab"]))
    merges = [m if isinstance(m, str) else " ".join(m) for m in content["model"]["merges"]]
    (pair[1] / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n")
    found = findings(*pair)
    assert found["blocks"] == found["degrades"] == []


def test_added_tokens_and_padding_are_offered(saved, pair) -> None:
    grown = saved("grown", tokenizer=True, vocab_size=1026)
    added = {"id": 1024, "content": "<|x|>", "special": True}
    changed(grown, "tokenizer.json", lambda c: c["added_tokens"].append(added))
    assert findings(pair[0], grown)["notes"][0] == (
        "'grown' knows 1 token that 'a' does not, for instance \"<|x|>\": the 1024 shared rows are merged, the others "
        "come from 'grown', with its tokenizer"
    )
    padded = saved("padded", tokenizer=True, vocab_size=1088)
    assert findings(padded, pair[0])["notes"][0] == (
        "the embedding of 'padded' has 64 more rows, which belong to no token: the 1024 shared rows are merged, the "
        "others come from 'padded'"
    )


def test_other_sizes_without_tokenizers_block(saved) -> None:
    found = findings(saved("a"), saved("b", vocab_size=130))
    assert found["blocks"][0].startswith("the vocabulary size differs: 128 in 'a', 130 in 'b'")


def test_a_tokenizer_that_is_the_same_on_the_hub_is_not_fetched(hub, pair) -> None:
    for name, directory in zip(("user/same-a", "user/same-b"), pair, strict=True):
        hub.add(name, directory)
    files_a, files_b = (hub.repos[f"user/same-{side}"].files for side in "ab")
    listed = [{"content": token, "special": True} for token in ("<|endoftext|>", "the")]
    named = {"added_tokens_decoder": dict(zip("05", listed, strict=True))}
    settings = {**json.loads(files_b["tokenizer_config.json"]), **named}
    files_a["tokenizer_config.json"] = json.dumps(settings).encode()
    changes = {"eos_token": "the", "chat_template": "{{ x }}", "model_max_length": 5, "padding_side": "left"}
    files_b["tokenizer_config.json"] = json.dumps({**settings, **changes}).encode()
    result = check("user/same-a", "user/same-b")
    assert any("the eos_token is" in str(finding) for finding in result.findings)
    assert any("only 'user/same-b' has a chat template" in str(finding) for finding in result.findings)
    assert hub.bytes_sent("tokenizer.json") == 0
    files_b["tokenizer.json"] += b"\n"
    assert check("user/same-a", "user/same-b").mergeable
    assert hub.bytes_sent("tokenizer.json") > 0


def test_whether_a_token_is_a_new_one_only_the_vocabulary_tells(hub, pair) -> None:
    """One copy of it is fetched."""
    changed(pair[1], "tokenizer_config.json", lambda c: c.update(pad_token="the", eos_token="<|new|>"))
    for name, directory in zip(("user/new-a", "user/new-b"), pair, strict=True):
        hub.add(name, directory)
    result = check("user/new-a", "user/new-b")
    assert any("the eos_token is" in str(finding) for finding in result.findings)
    assert hub.bytes_sent("tokenizer.json") == len(hub.repos["user/new-a"].files["tokenizer.json"])


def test_a_real_tokenizer_is_read_as_it_is(pair) -> None:
    from isthmus.checkpoint.reference import parse_reference
    from isthmus.checkpoint.source import Source
    from isthmus.checkpoint.tokenizer import read_tokenizer

    real = PreTrainedTokenizerFast.from_pretrained(pair[0])
    assert read_tokenizer(Source(parse_reference(pair[0]))).tokens == real.get_vocab()
