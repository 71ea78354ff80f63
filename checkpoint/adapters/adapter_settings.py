"""The settings of an adapter, adapter_config.json: which kind it is, of which base, and whether it can be merged."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..errors import BadInput, CorruptCheckpoint, one_line
from ..small_files import ADAPTER
from ..untrusted_text import plain

if TYPE_CHECKING:
    from peft import PeftConfig

# Kinds without weights that could be merged into those of the base: they add tokens, or modules that choose.
UNMERGEABLE = frozenset({
    "PROMPT_TUNING", "MULTITASK_PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING", "ADAPTION_PROMPT", "CPT", "CARTRIDGE",
    "POLY", "XLORA",
})  # fmt: skip
# What a LoRA may start from without changing its base; the other ways leave the base less what the adapter starts with.
PLAIN_STARTS = (True, False, None, "gaussian", "eva", "orthogonal")
HIGHEST_RANK = 2**17
UNSUPPORTED = {
    "target_parameters": "adapts parameters that are no module's weight (target_parameters)",
    "layer_replication": "repeats layers of its base (layer_replication)",
    "megatron_config": "is of Megatron's parallel layers (megatron_config)",
}


@dataclass(frozen=True)
class AdapterSettings:
    """What adapter_config.json of the adapter `name` says: its `kind`, its `base` and that one's revision, if named."""

    name: str
    kind: str
    base: str | None
    revision: str | None
    content: Mapping[str, Any]

    @classmethod
    def of(cls, content: Mapping[str, Any], name: str) -> AdapterSettings:
        """The settings in the content of the file.

        Raises BadInput for an adapter that cannot be merged into its base; CorruptCheckpoint for a file of
        another program.
        """
        kind, base, revision = (content.get(key) for key in ("peft_type", "base_model_name_or_path", "revision"))
        if not isinstance(kind, str) or not all(isinstance(text, str | None) for text in (base, revision)):
            raise CorruptCheckpoint(f"'{ADAPTER}' of '{name}' has no peft_type: it was not saved by peft")
        if kind in UNMERGEABLE:
            raise BadInput(f"'{name}' is an adapter of the kind {kind}, which changes no weights: it cannot be merged")
        ranks = [content.get("r"), *(content.get("rank_pattern") or {}).values()] if kind != "BOFT" else []
        if any(type(rank) is int and rank > HIGHEST_RANK for rank in ranks):
            raise CorruptCheckpoint(f"'{ADAPTER}' of '{name}' has a rank above {HIGHEST_RANK:,}: no adapter has that")
        what = next((words for key, words in UNSUPPORTED.items() if content.get(key)), None)
        if content.get("init_lora_weights", True) not in PLAIN_STARTS:
            start = plain(content["init_lora_weights"], 30)
            what = f"started from its base's own weights (init_lora_weights: {start}), which it left changed"
        if what is not None:
            raise BadInput(f"'{name}' {what}: merge it into its base with peft (merge_and_unload), and name the result")
        return cls(name, plain(kind, 30), base or None, revision or None, content)

    @property
    def base_name(self) -> str:
        """The base in messages: a Hub id, or the last part of a path."""
        parts = str(self.base).replace("\\", "/").rstrip("/").split("/")
        return plain(parts[-1] if len(parts) > 2 or "\\" in str(self.base) else self.base, 100)

    def config(self) -> PeftConfig:
        """The configuration of peft.

        Raises BadInput without the package peft, or for settings that this version of it does not know;
        CorruptCheckpoint for values that it rejects.
        """
        kinds = _peft_kinds(self.name)
        if self.kind not in kinds:
            raise BadInput(
                f"'{self.name}' is an adapter of the kind {self.kind}, which this version of peft does not know"
            )
        known = kinds[self.kind].__dataclass_fields__
        unknown = [
            key for key, value in self.content.items() if key not in known and value not in (None, False, [], {})
        ]
        if unknown:
            raise BadInput(
                f"'{ADAPTER}' of '{self.name}' says '{plain(unknown[0], 60)}', which this version of peft does not "
                "know: update peft"
            )
        values = {key: value for key, value in self.content.items() if key in known}
        # The weights follow from the file, whatever they started from.
        starts = {"init_lora_weights": True} if "init_lora_weights" in known else {}
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                config: PeftConfig = kinds[self.kind](**{**values, **starts, "inference_mode": True})
                return config
        except Exception as error:
            raise CorruptCheckpoint(f"'{ADAPTER}' of '{self.name}' is not valid: {one_line(error)}") from None


def _peft_kinds(name: str) -> dict[str, Any]:
    try:
        from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
    except ImportError:
        raise BadInput(f"'{name}' is an adapter, for which isthmus needs peft: pip install 'isthmus[peft]'") from None
    return {str(kind.value): config for kind, config in PEFT_TYPE_TO_CONFIG_MAPPING.items()}
