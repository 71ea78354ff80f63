"""Pairs that cannot be merged, on a Hub: each is found out before a weight is downloaded, and said in one sentence."""

from __future__ import annotations

import shutil
import struct

import pytest
from altered_models import ALTERED, WEIGHTS
from conftest import EMBEDDED

LN = "transformer.ln_f.bias"
REPOSITORIES = {
    "gated": lambda repo: setattr(repo, "gated", True),
    "private": lambda repo: setattr(repo, "private", True),
}
# What is wrong (`altered_models`, or above), the exit code of `check`, and a part of the sentence.
WRONG: dict[str, tuple[int, str]] = {
    "architecture": (3, "of type 'gptj'"),
    "layers": (3, "the number of layers differs: 2 in"),
    "width": (3, "the width differs: 32 in"),
    "heads": (3, "the number of heads differs: 4 in"),
    "hidden units": (3, "the number of neurons differs: 64 in"),
    "activation": (3, "activation_function differs: gelu_new in"),
    "attention": (3, "scale_attn_by_inverse_layer_idx differs"),
    "tokens": (3, "differ in 2 tokens, for instance"),
    "tensor missing": (3, f"lacks the tensor '{LN}'"),
    "tensor extra": (3, "has a tensor 'strange'"),
    "tensor misshapen": (3, "has shape [4, 4]; expected"),
    "integers": (3, "has dtype I8; expected F32"),
    "doubles": (3, "has dtype F64; expected F32"),
    "truncated": (2, "is truncated: it holds"),
    "not safetensors": (2, "is truncated or not a safetensors file"),
    "header no JSON": (2, "the header of"),
    "header lies": (2, "contradicts itself"),
    "header overlaps": (2, "contradicts itself"),
    "header huge": (2, "is truncated or not a safetensors file"),
    "shard missing": (2, "lacks the shard 'model-00001-of-00002"),
    "shard outside": (2, "names a shard outside the model"),
    "index empty": (2, "has no weight_map"),
    "no weights": (2, "holds no weights"),
    "no config": (2, "holds no config.json"),
    "adapter": (2, "name it after its base, BASE+ADAPTER"),
    "config no JSON": (2, "'config.json' of"),
    "config no type": (2, "has no model_type"),
    "unknown type": (2, "the model type 'gpt-9', which this version"),
    "code in config": (2, "defined by code in its repository"),
    "code in tokenizer": (2, "defined by code in its repository (tokenizer_config.json)"),
    "tokenizer damaged": (2, "the tokenizer of"),
    "quantized": (2, "is quantized"),
    "gated": (2, "is gated: accept its terms"),
    "private": (2, "or it is private"),
}  # fmt: skip


@pytest.mark.parametrize("kind", WRONG)
def test_a_wrong_pair_is_found_before_any_download(hub, saved, isthmus, request, kind: str, tmp_path) -> None:
    code, sentence = WRONG[kind]
    right, wrong = (f"user/{request.node.name.split('[')[1][:-1].replace(' ', '-')}-{side}" for side in ("a", "b"))
    directory = saved("m", tokenizer=True, vocab_size=1024)
    hub.add(right, directory)
    if kind in ALTERED:
        directory = shutil.copytree(directory, tmp_path / "altered")
        ALTERED[kind](directory)
    hub.add(wrong, directory)
    if kind in REPOSITORIES:
        REPOSITORIES[kind](hub.repos[wrong])
    headers = [hub.repos[name].files.get(WEIGHTS, b"")[:8] for name in (right, wrong)]
    lengths = [struct.unpack("<Q", start)[0] for start in headers if start]
    for command in (
        ["check", right, wrong],
        ["merge", right, wrong, "-o", tmp_path / "out", "--t", 0.5, "--align", "none"],
    ):
        found = isthmus(*command)
        assert sentence in found.err
        assert found.code == (code if command[0] == "check" else 2)
        assert "Traceback" not in found.err
    assert found.err.count("\n") == 1
    assert found.err.startswith("isthmus: ")
    assert all(size <= 8 or size in lengths for _, path, size in hub.sent if path.endswith(WEIGHTS))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("reference", ["user/not-there", "user/there@v9", "user//there", "user/there:deep"])
def test_what_is_not_there(hub, saved, isthmus, reference: str) -> None:
    hub.add("user/there", saved("m"))
    found = isthmus("check", "user/there", reference)
    assert found.code == 2
    assert found.err.count("\n") == 1
    assert "Traceback" not in found.err


def test_every_kind_is_right_before_it_is_damaged(hub, saved, isthmus) -> None:
    directory = saved("m", tokenizer=True, vocab_size=1024)
    for name in ("user/fine-a", "user/fine-b"):
        hub.add(name, directory)
    assert isthmus("check", "user/fine-a", "user/fine-b").code == 0
    assert (EMBEDDED / "docs" / "tokenizer.json").exists()
