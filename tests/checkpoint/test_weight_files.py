"""Which of several files holds the weights: the one that transformers reads, and the others are named."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import state_of, tiny_model
from safetensors.torch import load_file, save_file
from tiny_models import tiny_neox
from transformers import AutoModelForCausalLM

from isthmus.checkpoint.errors import CorruptCheckpoint, IsthmusError
from isthmus.checkpoint.loading import load

SINGLE, PICKLE = "model.safetensors", "pytorch_model.bin"


def put_single(directory: Path, seed: int, name: str = SINGLE) -> None:
    save_file(state_of(tiny_model(seed)), directory / name, metadata={"format": "pt"})


def put_shards(directory: Path, seed: int) -> None:
    tiny_model(seed).save_pretrained(directory / "s", max_shard_size="40kB")
    for file in (directory / "s").glob("model*"):
        file.rename(directory / file.name)


def put_pickle(directory: Path, seed: int) -> None:
    torch.save(state_of(tiny_model(seed)), directory / PICKLE)


def put_pickled_shards(directory: Path, seed: int) -> None:
    names = list(state := state_of(tiny_model(seed)))
    shards = {"pytorch_model-00001-of-00002.bin": names[::2], "pytorch_model-00002-of-00002.bin": names[1::2]}
    for file, part in shards.items():
        torch.save({name: state[name] for name in part}, directory / file)
    weight_map = {name: file for file, part in shards.items() for name in part}
    (directory / f"{PICKLE}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def put_named(directory: Path, seed: int) -> None:
    put_single(directory, seed, "mine.safetensors")
    facts = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps({**facts, "transformers_weights": "mine.safetensors"}))


PUT = {"named": put_named, "single": put_single, "shards": put_shards, "pickle": put_pickle, "bin": put_pickled_shards}
MIXTURES = {
    "a single file, shards left over": ["single", "shards"],
    "shards, a pickle left over": ["shards", "pickle"],
    "shards, pickled shards left over": ["shards", "bin"],
    "a pickle, pickled shards left over": ["pickle", "bin"],
    "all of them": ["single", "shards", "pickle", "bin"],
    "a name in config.json": ["named", "single", "shards"],
}
READ = {"named": "mine.safetensors", "single": SINGLE, "shards": f"{SINGLE}.index.json", "pickle": PICKLE}


def bare(directory: Path) -> Path:
    directory.mkdir()
    tiny_model().config.save_pretrained(directory)
    return directory


def mixed(directory: Path, kind: str) -> Path:
    for seed, put in enumerate(MIXTURES[kind], 1):
        PUT[put](bare(directory) if seed == 1 else directory, seed)
    return directory


@pytest.mark.parametrize("kind", MIXTURES)
def test_the_file_that_transformers_reads(tmp_path: Path, saved, isthmus, kind: str) -> None:
    directory = mixed(tmp_path / "m", kind)
    theirs = AutoModelForCausalLM.from_pretrained(directory).state_dict()
    ours = load(directory).state
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert torch.equal(ours["transformer.wte.weight"], state_of(tiny_model(1))["transformer.wte.weight"])
    notes = isthmus("check", directory, saved("other", seed=7)).err
    assert f"'m' is read from '{READ[MIXTURES[kind][0]]}', and '" in notes
    done = isthmus("merge", directory, saved("o", seed=7), "-o", tmp_path / "out", "--align", "none", "--t", 0)
    assert done.code == 0, done.err
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "out").state_dict()
    assert all(torch.equal(merged[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize("kind", [kind for kind in MIXTURES if "pickle" not in kind and "config" not in kind])
def test_the_same_on_the_hub(tmp_path: Path, hub, kind: str) -> None:
    for folder in ("s",):
        directory = mixed(tmp_path / "m", kind)
        assert not list((directory / folder).glob("model*")) if (directory / folder).exists() else True
    name = f"user/{kind.replace(' ', '-').replace(',', '')}"
    hub.add(name, directory)
    ours = load(name).state
    assert torch.equal(ours["transformer.wte.weight"], state_of(tiny_model(1))["transformer.wte.weight"])


def test_every_tensor_of_every_shard_is_read(tmp_path: Path) -> None:
    """An index may name less than its shards hold: transformers reads the shards."""
    put_shards(directory := bare(tmp_path / "m"), 1)
    index = json.loads((directory / f"{SINGLE}.index.json").read_text())
    first = {file: name for name, file in reversed(index["weight_map"].items())}
    index["weight_map"] = {name: file for file, name in first.items()}
    (directory / f"{SINGLE}.index.json").write_text(json.dumps(index))
    theirs = AutoModelForCausalLM.from_pretrained(directory).state_dict()
    ours = load(directory).state
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def variant(directory: Path) -> None:
    put_single(directory, 1, "model.fp16.safetensors")


def adapter(directory: Path) -> None:
    put_single(directory, 1)
    (directory / "adapter_config.json").write_text("{}")
    (directory / "adapter_model.safetensors").write_bytes(b"")


def mixed_shards(directory: Path) -> None:
    put_shards(directory, 1)
    put_pickle(directory, 1)
    index = json.loads((directory / f"{SINGLE}.index.json").read_text())
    index["weight_map"]["transformer.wte.weight"] = PICKLE
    (directory / f"{SINGLE}.index.json").write_text(json.dumps(index))


def named(value: object) -> Callable[[Path], None]:
    def put(directory: Path) -> None:
        put_named(directory, 1)
        put_single(directory, 2)
        facts = json.loads((directory / "config.json").read_text())
        (directory / "config.json").write_text(json.dumps({**facts, "transformers_weights": value}))

    return put


def prefixed(prefix: str, put: str = "") -> Callable[[Path], None]:
    def write(directory: Path) -> None:
        state = state_of(tiny_model(1))
        state = {prefix + name.replace("transformer.", f"transformer.{put}"): value for name, value in state.items()}
        save_file(state, directory / SINGLE, metadata={"format": "pt"})

    return write


def unmerged(directory: Path) -> None:
    state = state_of(tiny_model(1))
    renamed = {
        f"base_model.model.{name.replace('c_attn.', 'c_attn.base_layer.')}": value for name, value in state.items()
    }
    renamed["base_model.model.transformer.h.0.attn.c_attn.lora_A.weight"] = torch.ones(2, 32)
    save_file(renamed, directory / SINGLE, metadata={"format": "pt"})


WRAPPED = {
    "compiled": (prefixed("_orig_mod."), "have '_orig_mod' in their names"),
    "parallel": (prefixed("module."), "have 'module' in their names"),
    "both": (prefixed("_orig_mod.module."), "have '_orig_mod' and 'module' in their names"),
    "compiled inside": (prefixed("", "_orig_mod."), "have '_orig_mod' in their names"),
    "FSDP": (prefixed("", "_fsdp_wrapped_module."), "have '_fsdp_wrapped_module' in their names"),
    "a trainer's module": (prefixed("model."), "have 'model' in their names"),
    "all of it": (prefixed("module._orig_mod.model.", "_checkpoint_wrapped_module."), "a wrapper around the model"),
}


@pytest.mark.parametrize("kind", WRAPPED)
def test_what_wraps_the_model_is_taken_off_its_names(tmp_path: Path, saved, isthmus, kind: str) -> None:
    put, sentence = WRAPPED[kind]
    put(directory := bare(tmp_path / "m"))
    expected = state_of(tiny_model(1))
    state = load(directory).state
    assert all(torch.equal(state[name], value) for name, value in expected.items())
    outcome = isthmus("merge", directory, directory, "-o", tmp_path / "out", "--t", "0.5", "--align", "none")
    assert outcome.code == 0
    assert sentence in outcome.err
    assert set(load_file(tmp_path / "out" / SINGLE)) == set(expected)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "out").state_dict()
    assert all(torch.equal(theirs[name], value) for name, value in expected.items())


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "model."])
def test_wrapped_names_that_transformers_renames_are_read(prefix: str, tmp_path: Path) -> None:
    model = tiny_neox()
    model.save_pretrained(tmp_path)
    stored = load_file(tmp_path / SINGLE)
    save_file({prefix + name: value for name, value in stored.items()}, tmp_path / SINGLE, metadata={"format": "pt"})
    state = load(tmp_path).state
    assert all(torch.equal(state[name], value) for name, value in model.state_dict().items() if name in state)
    assert len(state) >= len(stored)


def test_a_name_with_and_without_a_wrapper_is_two_tensors(tmp_path: Path) -> None:
    directory = bare(tmp_path / "m")
    state = {f"module.{name}": value for name, value in state_of(tiny_model(1)).items()}
    save_file({**state, "transformer.wte.weight": torch.zeros(128, 32)}, directory / SINGLE, metadata={"format": "pt"})
    with pytest.raises(CorruptCheckpoint):
        load(directory)


REFUSED = {
    "a variant only": (variant, "only as 'model.fp16.safetensors', a variant"),
    "Mistral's format": (lambda d: (d / "consolidated.safetensors").write_bytes(b""), "Mistral's own format"),
    "TensorFlow": (lambda d: (d / "tf_model.h5").write_bytes(b""), "only in TensorFlow's format"),
    "Flax": (lambda d: (d / "flax_model.msgpack").write_bytes(b""), "only in Flax's format"),
    "an adapter beside the model": (adapter, "holds an adapter beside its weights"),
    "shards of two formats": (mixed_shards, "names safetensors files and others together"),
    "a named pickle": (named(PICKLE), "neither a safetensors file nor its index"),
    "a name outside": (named("../m.safetensors"), "names weights outside the model"),
    "a name of nothing": (named("gone.safetensors"), "lacks 'gone.safetensors', which its config.json names"),
    "an adapter that is not merged": (unmerged, "as left by PEFT: merge the adapter into the model"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_transformers_does_not_read_is_one_sentence(tmp_path: Path, saved, isthmus, kind: str) -> None:
    put, sentence = REFUSED[kind]
    put(directory := bare(tmp_path / "m"))
    with pytest.raises(IsthmusError, match="'m'"):
        load(directory)
    check = isthmus("check", directory, other := saved("other"))
    merge = isthmus("merge", directory, other, "-o", tmp_path / "out", "--align", "none", "--t", 0.5)
    assert check.code in (2, 3)
    assert merge.code == 2
    assert sentence in " ".join(check.err.split())
    assert sentence in merge.err
    assert check.err.count("blocks") <= 1
    assert not (tmp_path / "out").exists()
