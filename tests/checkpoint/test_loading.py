from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import state_of, tiny_model
from safetensors.torch import load_file, save_file
from torch import Tensor

from isthmus.align.families import FAMILIES
from isthmus.checkpoint.errors import BadInput, CorruptCheckpoint, ModelNotFound
from isthmus.checkpoint.loading import load
from isthmus.checkpoint.model import schema


def equal(found: object, expected: dict[str, Tensor]) -> bool:
    content = dict(found)  # type: ignore[call-overload]
    return content.keys() == expected.keys() and all(torch.equal(content[n], expected[n]) for n in expected)


def change(directory: Path, edit: Callable[[dict[str, Tensor]], None]) -> None:
    tensors = load_file(directory / "model.safetensors")
    edit(tensors)
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})


def test_reads_weights_under_their_transformers_names(saved) -> None:
    checkpoint = load(saved("m"))
    assert equal(checkpoint.state, state_of(tiny_model()))
    assert (checkpoint.name, checkpoint.dtype, checkpoint.revision) == ("m", torch.float32, None)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_read_as_float32_and_remembered(saved, dtype: torch.dtype) -> None:
    checkpoint = load(saved("m", dtype=dtype))
    assert checkpoint.dtype == dtype
    assert equal(checkpoint.state, {n: v.to(dtype).float() for n, v in state_of(tiny_model()).items()})


def test_shards(saved, tmp_path: Path) -> None:
    tiny_model().save_pretrained(tmp_path / "m", max_shard_size="40kB")
    assert len(list((tmp_path / "m").glob("model-*.safetensors"))) > 2
    assert equal(load(tmp_path / "m").state, state_of(tiny_model()))


def test_old_names_masks_and_a_stored_head(saved) -> None:
    directory = saved("old")

    def age(tensors: dict[str, Tensor]) -> None:
        for name in list(tensors):
            tensors[name.removeprefix("transformer.")] = tensors.pop(name)
        for layer in range(2):
            tensors[f"h.{layer}.attn.bias"] = torch.ones(32, 32).tril()[None, None]
            tensors[f"h.{layer}.attn.masked_bias"] = torch.tensor(-1e4)
        tensors["lm_head.weight"] = tensors["wte.weight"].clone()

    change(directory, age)
    assert equal(load(directory).state, state_of(tiny_model()))


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "before torch 1.6"])
def test_pickled_weights(saved, legacy: bool) -> None:
    directory = saved("m")
    (directory / "model.safetensors").unlink()
    torch.save(state_of(tiny_model()), directory / "pytorch_model.bin", _use_new_zipfile_serialization=not legacy)
    assert equal(load(directory).state, state_of(tiny_model()))


def test_pickled_shards(saved) -> None:
    directory = saved("m")
    (directory / "model.safetensors").unlink()
    state = state_of(tiny_model())
    names = list(state)
    halves = {"pytorch_model-00001-of-00002.bin": names[:9], "pytorch_model-00002-of-00002.bin": names[9:]}
    for file, part in halves.items():
        torch.save({name: state[name] for name in part}, directory / file)
    index = {"metadata": {}, "weight_map": {name: file for file, part in halves.items() for name in part}}
    (directory / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    assert equal(load(directory).state, state)


class Trap:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return print, ("the pickle was executed",)


def test_a_pickle_is_never_executed(saved, capfd) -> None:
    directory = saved("m")
    (directory / "model.safetensors").unlink()
    torch.save({**state_of(tiny_model()), "trap": Trap()}, directory / "pytorch_model.bin")
    with pytest.raises(CorruptCheckpoint, match=r"'pytorch_model\.bin' of 'm' holds more than weights, and was not"):
        load(directory)
    assert "executed" not in capfd.readouterr().out


@pytest.mark.parametrize("content", [b"", b"garbage", b"PK\x03\x04 half a zip"])
def test_a_broken_pickle(saved, content: bytes) -> None:
    directory = saved("m")
    (directory / "model.safetensors").unlink()
    (directory / "pytorch_model.bin").write_bytes(content)
    with pytest.raises(CorruptCheckpoint, match=r"'pytorch_model\.bin' of 'm'"):
        load(directory)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nan_and_inf(saved, value: float) -> None:
    directory = saved("m")
    change(directory, lambda tensors: tensors["transformer.wpe.weight"].view(-1)[3:4].fill_(value))
    with pytest.raises(CorruptCheckpoint, match=r"'transformer\.wpe\.weight' of 'm' holds NaN or Inf"):
        dict(load(directory).state)


def test_an_all_zero_matrix_is_a_matrix(saved) -> None:
    directory = saved("m")
    change(directory, lambda tensors: tensors["transformer.h.1.mlp.c_fc.weight"].zero_())
    assert not load(directory).state["transformer.h.1.mlp.c_fc.weight"].any()


EDITS = {
    "lacks": (lambda t: t.pop("transformer.wpe.weight"), r"'m' lacks the tensor 'transformer\.wpe\.weight'"),
    "extra": (lambda t: t.update(strange=torch.ones(2)), r"'m' has a tensor 'strange' that its configuration"),
    "shape": (
        lambda t: t.update({"transformer.wpe.weight": torch.ones(8, 32)}),
        r"'transformer\.wpe\.weight' of 'm' has shape \[8, 32\]; expected \[32, 32\]",
    ),
    "dtype": (
        lambda t: t.update({"transformer.wpe.weight": torch.ones(32, 32, dtype=torch.int8)}),
        r"'transformer\.wpe\.weight' of 'm' has dtype I8; expected F32, F16 or BF16",
    ),
}


@pytest.mark.parametrize("edit", EDITS)
def test_tensors_that_do_not_fit(saved, edit: str) -> None:
    directory = saved("m")
    change(directory, EDITS[edit][0])
    with pytest.raises(CorruptCheckpoint, match=EDITS[edit][1]):
        load(directory)


def test_a_missing_shard(saved, tmp_path: Path) -> None:
    tiny_model().save_pretrained(tmp_path / "m", max_shard_size="40kB")
    next((tmp_path / "m").glob("model-00002*")).unlink()
    with pytest.raises(CorruptCheckpoint, match="'m' lacks the shard 'model-00002"):
        load(tmp_path / "m")


def test_a_shard_outside_the_model(saved, tmp_path: Path) -> None:
    directory = saved("m")
    (directory / "model.safetensors").rename(tmp_path / "elsewhere.safetensors")
    index = {"weight_map": {"transformer.wte.weight": "../elsewhere.safetensors"}}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CorruptCheckpoint, match=r"names a shard outside the model"):
        load(directory)


def test_no_weights_no_config_no_directory(saved, tmp_path: Path) -> None:
    directory = saved("m")
    (directory / "model.safetensors").unlink()
    with pytest.raises(ModelNotFound, match=r"'m' holds no weights: expected model\.safetensors"):
        load(directory)
    (directory / "config.json").unlink()
    with pytest.raises(ModelNotFound, match=r"'m' holds no config\.json"):
        load(directory)
    with pytest.raises(ModelNotFound, match="there is no directory 'absent'"):
        load(tmp_path / "absent")


def test_shards_of_training_are_named_with_the_way_to_put_them_together(saved) -> None:
    for name, content, message in (
        ("fsdp", "pytorch_model_fsdp_0/__0_0.distcp", r"only as FSDP's shards \('pytorch_model_fsdp_0'\): put them"),
        ("deepspeed", "zero_to_fp32.py", r"only as DeepSpeed's shards: put them together first"),
    ):
        directory = saved(name)
        (directory / "model.safetensors").unlink()
        (directory / content).parent.mkdir(exist_ok=True)
        (directory / content).write_bytes(b"")
        with pytest.raises(ModelNotFound, match=message):
            load(directory)


CONFIGS = {
    "not JSON": ("{", CorruptCheckpoint, r"'config\.json' of 'm' is not valid JSON"),
    "a list": ("[]", CorruptCheckpoint, r"'config\.json' of 'm' holds a list instead of a JSON object"),
    "no type": ("{}", BadInput, "config.json of 'm' has no model_type"),
    "unknown": ('{"model_type": "frob"}', BadInput, "'m' has the model type 'frob', which"),
    "wrong": (
        '{"model_type": "gpt2", "n_embd": "wide"}',
        CorruptCheckpoint,
        r"config\.json of 'm' says n_embd = 'wide'",
    ),
    "code": ('{"model_type": "gpt2", "auto_map": {"AutoModel": "x.Y"}}', BadInput, "'m' is defined by code"),
    "quantized": ('{"model_type": "gpt2", "quantization_config": {"bits": 4}}', BadInput, "'m' is quantized"),
}


@pytest.mark.parametrize("kind", CONFIGS)
def test_configurations_that_cannot_be_used(saved, kind: str) -> None:
    content, error, message = CONFIGS[kind]
    directory = saved("m")
    (directory / "config.json").write_text(content)
    with pytest.raises(error, match=message):
        load(directory)


def test_a_configuration_that_leaves_out_what_is_the_default(saved) -> None:
    directory = saved("m", n_inner=None, n_positions=1024)
    facts = json.loads((directory / "config.json").read_text())
    for key in ("n_positions", "n_inner", "tie_word_embeddings", "add_cross_attention"):
        facts.pop(key, None)
    (directory / "config.json").write_text(json.dumps(facts))
    found = load(directory, families=FAMILIES)
    assert found.schema == load(directory).schema == schema(found.config)
    assert found.schema.shapes["transformer.wpe.weight"] == (1024, 32)


def test_no_tokenizer_and_a_broken_one(saved) -> None:
    directory = saved("m")
    with pytest.raises(BadInput, match="'m' has no tokenizer that transformers can read"):
        load(directory).tokenizer()
    (directory / "tokenizer.json").write_text("{")
    with pytest.raises(BadInput, match="'m' has no tokenizer that transformers can read"):
        load(directory).tokenizer()


def test_untied_has_a_head_of_its_own(saved) -> None:
    untied = load(saved("m")).untied()
    assert not untied.config.tie_word_embeddings
    assert torch.equal(untied.state["lm_head.weight"], untied.state["transformer.wte.weight"])
    assert untied.untied() is untied
