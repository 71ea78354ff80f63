"""Pairs that cannot be merged, on a Hub: each is found out before a weight is downloaded, and said in one sentence."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable

import pytest
import torch
from conftest import EMBEDDED
from hub_server import Repo
from safetensors.torch import load, save

WEIGHTS = "model.safetensors"
Damage = Callable[[Repo], None]


def config(**changes: object) -> Damage:
    def damage(repo: Repo) -> None:
        content = json.loads(repo.files["config.json"])
        repo.files["config.json"] = json.dumps({**content, **changes}).encode()

    return damage


def tensors(change: Callable[[dict[str, torch.Tensor]], object]) -> Damage:
    def damage(repo: Repo) -> None:
        content = load(repo.files[WEIGHTS])
        change(content)
        repo.files[WEIGHTS] = save({name: value.contiguous() for name, value in content.items()})

    return damage


def header(change: Callable[[dict], object]) -> Damage:
    """The header rewritten, its length as it should be, the data left."""

    def damage(repo: Repo) -> None:
        raw = repo.files[WEIGHTS]
        length = struct.unpack("<Q", raw[:8])[0]
        content = json.loads(raw[8 : 8 + length])
        change(content)
        new = json.dumps(content).encode()
        repo.files[WEIGHTS] = struct.pack("<Q", len(new)) + new + raw[8 + length :]

    return damage


def file(name: str, content: bytes | None) -> Damage:
    def damage(repo: Repo) -> None:
        if content is None:
            del repo.files[name]
        else:
            repo.files[name] = content

    return damage


def index(weight_map: object) -> Damage:
    def damage(repo: Repo) -> None:
        del repo.files[WEIGHTS]
        repo.files["model.safetensors.index.json"] = json.dumps({"weight_map": weight_map}).encode()

    return damage


def resized(**changes: int) -> Damage:
    """Another model altogether, as transformers would save it."""

    def damage(repo: Repo) -> None:
        from conftest import tiny_model

        model = tiny_model(vocab_size=1024, **changes)
        repo.files[WEIGHTS] = save({n: v.clone() for n, v in model.state_dict().items() if n != "lm_head.weight"})
        repo.files["config.json"] = json.dumps(model.config.to_dict()).encode()

    return damage


def swapped_tokens(repo: Repo) -> None:
    content = json.loads(repo.files["tokenizer.json"])
    vocabulary = content["model"]["vocab"]
    first, second = sorted(vocabulary)[500:502]
    vocabulary[first], vocabulary[second] = vocabulary[second], vocabulary[first]
    repo.files["tokenizer.json"] = json.dumps(content).encode()


def adapter_only(repo: Repo) -> None:
    repo.files["adapter_config.json"] = repo.files.pop("config.json")


WPE, LN = "transformer.wpe.weight", "transformer.ln_f.bias"
WRONG: dict[str, tuple[Damage, int, str]] = {
    "architecture": (config(model_type="gptj"), 3, "of type 'gptj'"),
    "layers": (resized(n_layer=3), 3, "the number of layers differs: 2 in"),
    "width": (resized(n_embd=64), 3, "the width differs: 32 in"),
    "heads": (config(n_head=2), 3, "the number of heads differs: 4 in"),
    "hidden units": (resized(n_inner=96), 3, "n_inner differs: 64 in"),
    "context": (resized(n_positions=16), 3, "the context length differs: 32 in"),
    "activation": (config(activation_function="relu"), 3, "activation_function differs: gelu_new in"),
    "attention": (config(scale_attn_by_inverse_layer_idx=True), 3, "scale_attn_by_inverse_layer_idx differs"),
    "tokens": (swapped_tokens, 3, "differ in 2 tokens, for instance"),
    "tensor missing": (tensors(lambda t: t.pop(LN)), 3, f"lacks the tensor '{LN}'"),
    "tensor extra": (tensors(lambda t: t.update(strange=torch.ones(1))), 3, "has a tensor 'strange'"),
    "tensor misshapen": (tensors(lambda t: t.update({WPE: torch.ones(4, 4)})), 3, "has shape [4, 4]; expected"),
    "integers": (tensors(lambda t: t.update({WPE: t[WPE].to(torch.int8)})), 3, "has dtype I8; expected F32"),
    "doubles": (tensors(lambda t: t.update({WPE: t[WPE].double()})), 3, "has dtype F64; expected F32"),
    "truncated": (lambda repo: file(WEIGHTS, repo.files[WEIGHTS][:-100])(repo), 2, "is truncated: it holds"),
    "not safetensors": (file(WEIGHTS, b"<html>not found</html>"), 2, "is truncated or not a safetensors file"),
    "header no JSON": (file(WEIGHTS, struct.pack("<Q", 8) + b"not json" + bytes(64)), 2, "the header of"),
    "header lies": (header(lambda h: h[WPE].update(shape=[9999, 9999])), 2, "contradicts itself"),
    "header overlaps": (header(lambda h: h[WPE].update(data_offsets=[0, 4096])), 2, "contradicts itself"),
    "header huge": (file(WEIGHTS, struct.pack("<Q", 2**62) + bytes(64)), 2, "is truncated or not a safetensors file"),
    "shard missing": (index({WPE: "model-00001-of-00002.safetensors"}), 2, "lacks the shard 'model-00001-of-00002"),
    "shard outside": (index({WPE: "../../other/model.safetensors"}), 2, "names a shard outside the model"),
    "index empty": (index({}), 2, "has no weight_map"),
    "no weights": (file(WEIGHTS, None), 2, "holds no weights"),
    "no config": (file("config.json", None), 2, "holds no config.json"),
    "adapter": (adapter_only, 2, "merge the adapter into its base"),
    "config no JSON": (file("config.json", b"{"), 2, "'config.json' of"),
    "config no type": (config(model_type=None), 2, "has no model_type"),
    "unknown type": (config(model_type="gpt-9"), 2, "the model type 'gpt-9', which this version"),
    "code in config": (config(auto_map={"AutoModelForCausalLM": "evil.Model"}), 2, "defined by code in its repository"),
    "code in tokenizer": (
        file("tokenizer_config.json", b'{"auto_map": {"AutoTokenizer": ["evil.Tokenizer", null]}}'),
        2,
        "defined by code in its repository (tokenizer_config.json)",
    ),
    "tokenizer damaged": (file("tokenizer.json", b'{"model": {"vocab": {"a": "x"}}}'), 2, "the tokenizer of"),
    "quantized": (config(quantization_config={"bits": 4}), 2, "is quantized"),
    "gated": (lambda repo: setattr(repo, "gated", True), 2, "is gated: accept its terms"),
    "private": (lambda repo: setattr(repo, "private", True), 2, "or it is private"),
}  # fmt: skip


@pytest.mark.parametrize("kind", WRONG)
def test_a_wrong_pair_is_found_before_any_download(hub, saved, isthmus, request, kind: str, tmp_path) -> None:
    damage, code, sentence = WRONG[kind]
    right, wrong = (f"user/{request.node.name.split('[')[1][:-1].replace(' ', '-')}-{side}" for side in ("a", "b"))
    directory = saved("m", tokenizer=True, vocab_size=1024)
    hub.add(right, directory)
    damage(hub.add(wrong, directory))
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
