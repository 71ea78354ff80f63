"""A checkpoint that means harm: nothing of it is executed, nothing is read or written outside of its folder."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import state_of, tiny_model

COMMANDS = {
    "check": lambda a, b, out: ["check", a, b],
    "merge": lambda a, b, out: ["merge", a, b, "-o", out, "--align", "none", "--t", 0.5],
    "with text": lambda a, b, out: ["merge", a, b, "-o", out, "--data", "stdlib:docs", "--tokens", 64],
    "align": lambda a, b, out: ["align", a, b, "-o", out],
    "spectrum": lambda a, b, out: ["spectrum", b],
}


class Evil:
    def __init__(self, target: Path):
        self.target = target

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.target}",)


CODE = "import pathlib\npathlib.Path({target!r}).touch()\n"


def pickled(model: Path, target: Path) -> None:
    (model / "model.safetensors").unlink()
    torch.save({**state_of(tiny_model(vocab_size=1024)), "x": Evil(target)}, model / "pytorch_model.bin")


def pickled_arguments(model: Path, target: Path) -> None:
    torch.save(Evil(target), model / "training_args.bin")


def own_model(model: Path, target: Path) -> None:
    (model / "evil.py").write_text(CODE.format(target=str(target)))
    config = json.loads((model / "config.json").read_text())
    config["auto_map"] = {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"}
    (model / "config.json").write_text(json.dumps(config))


def own_tokenizer(model: Path, target: Path) -> None:
    (model / "evil.py").write_text(CODE.format(target=str(target)))
    settings = json.loads((model / "tokenizer_config.json").read_text())
    settings |= {"auto_map": {"AutoTokenizer": ["evil.Tokenizer", None]}, "tokenizer_class": "Evil"}
    (model / "tokenizer_config.json").write_text(json.dumps(settings))


def lying_header(model: Path, target: Path) -> None:
    (model / "model.safetensors").write_bytes(struct.pack("<Q", 2**63 - 1) + b"{" * 64)


def deep_header(model: Path, target: Path) -> None:
    raw = b"[" * 10**6
    (model / "model.safetensors").write_bytes(struct.pack("<Q", len(raw)) + raw)


def huge_tensor(model: Path, target: Path) -> None:
    entry = {"dtype": "F32", "shape": [2**31, 2**31], "data_offsets": [0, 2**64]}
    raw = json.dumps({"transformer.wte.weight": entry}).encode()
    (model / "model.safetensors").write_bytes(struct.pack("<Q", len(raw)) + raw)


def shard_outside(name: str) -> Callable[[Path, Path], None]:
    def change(model: Path, target: Path) -> None:
        outside = model.parent / "outside.safetensors"
        (model / "model.safetensors").rename(outside)
        content = {"weight_map": {"transformer.wte.weight": name.format(outside=outside)}}
        (model / "model.safetensors.index.json").write_text(json.dumps(content))

    return change


def linked(file: str) -> Callable[[Path, Path], None]:
    def change(model: Path, target: Path) -> None:
        outside = model.parent / f"outside-{file}"
        (model / file).rename(outside)
        (model / file).symlink_to(outside)

    return change


HARM = {
    "pickled weights that run code": (pickled, "holds more than weights, and was not executed"),
    "trainer arguments that run code": (pickled_arguments, "when it is loaded, and was not"),
    "a model with code of its own": (own_model, "is defined by code in its repository (config.json)"),
    "a tokenizer with code of its own": (own_tokenizer, "is defined by code in its repository (tokenizer_config.json)"),
    "a header without end": (lying_header, "is truncated or not a safetensors file"),
    "a header too deep": (deep_header, "is damaged"),
    "a tensor without end": (huge_tensor, "is truncated: it holds 0 bytes"),
    "a shard above": (shard_outside("../outside.safetensors"), "names a shard outside the model"),
    "a shard anywhere": (shard_outside("{outside}"), "names a shard outside the model"),
    "a shard that is a folder": (shard_outside(".."), "names a shard outside the model"),
    "weights that are a link": (linked("model.safetensors"), "is a link that leads out of the model's folder"),
    "a tokenizer that is a link": (linked("tokenizer.json"), "is a link that leads out of the model's folder"),
    "a configuration that is a link": (linked("config.json"), "is a link that leads out of the model's folder"),
}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("harm", HARM)
def test_harm_is_refused(saved, tmp_path: Path, isthmus, harm: str, command: str) -> None:
    change, sentence = HARM[harm]
    target, out = tmp_path / "ran", tmp_path / "out"
    good, bad = (saved(name, seed, tokenizer=True, vocab_size=1024) for seed, name in enumerate(("good", "bad")))
    change(bad, target)
    found = isthmus(*COMMANDS[command](good, bad, out))
    assert found.code == 2
    assert sentence in found.err
    assert found.err.count("\n") == 1
    assert not target.exists()
    assert not out.exists()


def test_links_within_the_hubs_cache_are_how_it_is_made(saved, tmp_path: Path, isthmus) -> None:
    """A snapshot is a folder of links to blobs beside it, and may be given as a directory."""
    model = saved("m", tokenizer=True, vocab_size=1024)
    root = tmp_path / "models--user--m"
    snapshot = root / "snapshots" / ("a" * 40)
    snapshot.mkdir(parents=True)
    (root / "blobs").mkdir()
    for file in model.iterdir():
        (root / "blobs" / file.name).write_bytes(file.read_bytes())
        (snapshot / file.name).symlink_to(root / "blobs" / file.name)
    assert isthmus("check", model, snapshot).code == 0
