"""Symmetry tables, one file per architecture. Supporting another one means adding a file and a line here."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ...checkpoint.errors import UnsupportedFamily
from .bert import bert, roberta
from .classifiers import with_classifiers
from .experts import mixtral, qwen2_moe, qwen3_moe
from .gpt2 import gpt2
from .gpt_neox import gpt_neox
from .llama import gemma, gemma2, gemma3_text, llama, mistral, olmo2, phi3, qwen2, qwen3
from .opt import opt
from .phi import phi

if TYPE_CHECKING:
    from transformers import PretrainedConfig

    from ..symmetry import Family

_DECODERS: dict[str, Callable[[Any], Family]] = {
    "gpt2": gpt2,
    "gpt_neox": gpt_neox,
    "llama": llama,
    "mistral": mistral,
    "qwen2": qwen2,
    "qwen3": qwen3,
    "gemma": gemma,
    "gemma2": gemma2,
    "gemma3_text": gemma3_text,
    "olmo2": olmo2,
    "opt": opt,
    "phi": phi,
    "phi3": phi3,
    "mixtral": mixtral,
    "qwen2_moe": qwen2_moe,
    "qwen3_moe": qwen3_moe,
}
FAMILIES: dict[str, Callable[[Any], Family]] = {
    **{kind: with_classifiers(build) for kind, build in _DECODERS.items()},
    "bert": bert,
    "roberta": roberta,
}


def family(config: PretrainedConfig) -> Family:
    """The symmetry table of a model with this configuration.

    Raises UnsupportedFamily, with the list of the supported ones.
    """
    build = FAMILIES.get(config.model_type)
    if build is None:
        raise UnsupportedFamily(
            f"models of type '{config.model_type}' are not supported for alignment or spectra; supported: "
            f"{', '.join(sorted(FAMILIES))}"
        )
    return build(config)
