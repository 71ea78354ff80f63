"""Which files hold the weights of a model: those that transformers reads, if there are several.

transformers reads the file that config.json names; otherwise the first that exists of ``model.safetensors``, its index,
``pytorch_model.bin`` and its index. From an index it reads every shard whole.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from .errors import BadInput, CorruptCheckpoint, ModelNotFound
from .small_files import ADAPTER

SAFETENSORS, PICKLE, INDEX = "model.safetensors", "pytorch_model.bin", ".index.json"
IN_ORDER = (SAFETENSORS, SAFETENSORS + INDEX, PICKLE, PICKLE + INDEX)
# Weights in the formats of other programs.
OTHER_FORMATS = {
    "consolidated.safetensors": "Mistral's own format",
    "tf_model.h5": "TensorFlow's format",
    "flax_model.msgpack": "Flax's format",
    "model.ckpt.index": "TensorFlow's format",
}
FSDP = "pytorch_model_fsdp"  # a folder of shards, as accelerate names it
ADAPTERS = ("adapter_model.safetensors", "adapter_model.bin")


@dataclass(frozen=True)
class WeightFiles:
    """The `files` that hold the weights, the `index` that names them, and files of weights that are `ignored`."""

    files: tuple[str, ...]
    index: str | None
    ignored: tuple[str, ...]

    @property
    def where(self) -> str:
        """The files in messages."""
        return self.files[0] if len(self.files) == 1 else f"{self.files[0]} and {len(self.files) - 1} more"


def choose_weight_files(files: Collection[str], named: object, model: str) -> tuple[str, tuple[str, ...]] | None:
    """The file or index of the weights among `files`, and the others, which are ignored; None if there is none.

    `named` is the file that config.json names, if any. Raises BadInput for an adapter beside the model, which
    transformers may or may not apply, and for a name that it rejects; CorruptCheckpoint if the named file is missing.
    """
    if ADAPTER in files and not set(ADAPTERS).isdisjoint(files):
        raise BadInput(
            f"'{model}' holds an adapter beside its model (adapter_config.json): merge the adapter into the model with "
            "PEFT's merge_and_unload, or remove the adapter's files"
        )
    if named is not None:
        if not isinstance(named, str) or not named.endswith((".safetensors", ".safetensors" + INDEX)):
            raise BadInput(
                f"config.json of '{model}' names {named!r} as the file of its weights (transformers_weights), which is "
                "neither a safetensors file nor its index: correct it"
            )
        if PurePosixPath(named).name != named:
            raise CorruptCheckpoint(f"config.json of '{model}' names weights outside the model: {named!r}")
        if named not in files:
            raise CorruptCheckpoint(
                f"'{model}' lacks '{named}', which its config.json names as the file of its weights: fetch it again"
            )
        return named, tuple(name for name in IN_ORDER if name in files and name != named)
    candidates = [name for name in IN_ORDER if name in files]
    return (candidates[0], tuple(candidates[1:])) if candidates else None


def index_names(index: Mapping[str, Any], filename: str, model: str) -> tuple[str, ...]:
    """The shards that an index names, sorted, all in the model's folder and of one format.

    Raises CorruptCheckpoint if it names none, or any other file.
    """
    shards = index.get("weight_map")
    if not isinstance(shards, dict) or not shards:
        raise CorruptCheckpoint(f"'{filename}' of '{model}' has no weight_map: fetch it again")
    for name in shards.values():
        if not isinstance(name, str) or PurePosixPath(name).name != name or name in ("", ".", ".."):
            raise CorruptCheckpoint(f"'{filename}' of '{model}' names a shard outside the model: {name!r}")
    names = tuple(sorted(set(shards.values())))
    kinds = {name.endswith(".safetensors") for name in names}
    if len(kinds) > 1:
        raise CorruptCheckpoint(
            f"'{filename}' of '{model}' names safetensors files and others together, which transformers cannot read: "
            "save the model again"
        )
    return names


def no_weights(files: Collection[str], model: str, folders: Collection[str] = ()) -> ModelNotFound:
    """The error for a model without readable weights; it says what is there instead, or in the `folders` there."""
    if "zero_to_fp32.py" in files:
        return ModelNotFound(
            f"'{model}' holds its weights only as DeepSpeed's shards: put them together first (in that directory: "
            "python zero_to_fp32.py . . --safe_serialization), or train with stage3_gather_16bit_weights_on_model_save"
        )
    sharded = next((name for name in sorted(folders) if name.startswith(FSDP)), None)
    if sharded is not None:
        return ModelNotFound(
            f"'{model}' holds its weights only as FSDP's shards ('{sharded}'): put them together first (accelerate "
            f"merge-weights {sharded} ., in that directory), or save with fsdp_state_dict_type FULL_STATE_DICT"
        )
    for name in sorted(files):
        if name in OTHER_FORMATS:
            return ModelNotFound(
                f"'{model}' holds its weights only in {OTHER_FORMATS[name]} ('{name}'): convert it to safetensors with "
                "the program that wrote it, or take the version saved by transformers"
            )
    for name in sorted(files):
        for expected in IN_ORDER:
            stem, _, ending = expected.partition(".")
            if name != expected and name.startswith(f"{stem}.") and name.endswith(f".{ending}"):
                return ModelNotFound(
                    f"'{model}' holds its weights only as '{name}', a variant that transformers reads when asked for: "
                    f"rename it to '{expected}'"
                )
    return ModelNotFound(f"'{model}' holds no weights: expected model.safetensors or pytorch_model.bin, or their index")
