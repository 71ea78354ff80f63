"""The module of a configuration, without memory for weights: which tensors it expects, and calling it with a state."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache, cached_property, lru_cache
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor
from torch.func import functional_call

from .errors import BadInput, UnsupportedFamily
from .rows import ComputedState

if TYPE_CHECKING:
    from torch import nn
    from transformers import PretrainedConfig


def empty_model(config: PretrainedConfig) -> nn.Module:
    """The language model of a configuration, in evaluation mode, its weights on the meta device."""
    from accelerate import init_empty_weights
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING
    from transformers.initialization import no_init_weights

    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING and not reads_both_ways(config):
        raise BadInput(
            f"models of type '{config.model_type}' cannot be merged yet: isthmus merges language models (those that "
            "AutoModelForCausalLM or AutoModelForMaskedLM of transformers loads)"
        )
    # Drawing weights takes most of the time, on the meta device, too.
    with no_init_weights(), init_empty_weights():
        model: nn.Module = auto_class(config).from_config(config)
    return model.eval()


def auto_class(config: PretrainedConfig) -> Any:
    """The class of transformers that makes and loads language models of a configuration."""
    from transformers import AutoModelForCausalLM, AutoModelForMaskedLM

    return AutoModelForMaskedLM if reads_both_ways(config) else AutoModelForCausalLM


def reads_both_ways(config: PretrainedConfig) -> bool:
    """Whether a model sees the tokens that it would have to predict, as masked language models do."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    if masked_class(config.model_type) is None or getattr(config, "is_encoder_decoder", False):
        return False
    causal = config.model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    return getattr(config, "is_decoder", None) is False or not causal


def masked_class(kind: str) -> str | None:
    """The class of the masked language model of a type, None if there is none."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

    classes = MODEL_FOR_MASKED_LM_MAPPING_NAMES.get(kind)
    return classes[0] if isinstance(classes, tuple) else classes


def with_tied(state: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """The state with every tied weight under both of its names, as a functional call needs it."""
    full = {name: state[name] for name in state}
    for target, source in (getattr(model, "all_tied_weights_keys", None) or {}).items():
        full.setdefault(target, full[source])
    return full


@torch.no_grad()
def log_probs(state: Mapping[str, Tensor], config: PretrainedConfig, ids: Tensor) -> Tensor:
    """Log-probabilities (batch, length, vocabulary), float32, of a state on token ids (batch, length)."""
    model = empty_model(config)
    logits = functional_call(model, with_tied(state, model), (ids,), {"use_cache": False}).logits
    return torch.log_softmax(logits.float(), -1)


@torch.no_grad()
def streamed_log_probs(
    state: Mapping[str, Tensor], config: PretrainedConfig, ids: Tensor, dtype: torch.dtype = torch.float32
) -> Tensor:
    """As `log_probs`, of a state that is not in memory: every weight is looked up when its module runs, and dropped.

    Computed in `dtype`.
    """
    from accelerate.hooks import attach_align_device_hook

    model = empty_model(config).to(dtype)  # weights are cast to what the module has
    tied = dict(getattr(model, "all_tied_weights_keys", None) or {})
    both_names = ComputedState([*state, *tied], lambda name: state[name if name in state else tied[name]])
    attach_align_device_hook(model, torch.device("cpu"), offload=True, weights_map=both_names)
    logits = model(ids, use_cache=False).logits
    return torch.log_softmax(logits.to(dtype), -1)


@dataclass(frozen=True)
class Schema:
    """The tensors of a model: shapes by name, tied names (target: source), the prefix of the base model.

    `buffers` matches the names of tensors that old files have beside them and that are no weights, where it is known.
    `sound` says that transformers surely builds the model, so that it need not be tried; `limits` what users should
    know of its alignment, where that can do little; `masked` that it is a masked language model; `aligns` that
    there is a symmetry table for it.
    """

    shapes: dict[str, tuple[int, ...]]
    tied: dict[str, str]
    prefix: str
    buffers: re.Pattern[str] | None = field(default=None, compare=False)
    sound: bool = field(default=False, compare=False)
    limits: str = field(default="", compare=False)
    masked: bool = field(default=False, compare=False)
    aligns: bool = field(default=False, compare=False)

    @cached_property
    def all_names(self) -> frozenset[str]:
        """The names of all tensors, the tied ones too."""
        return frozenset(self.shapes) | frozenset(self.tied)

    def untied(self) -> Schema:
        """The same model, every tied tensor with a place of its own."""
        own = {target: self.shapes[source] for target, source in self.tied.items()}
        return replace(self, shapes=self.shapes | own, tied={})


class HasSchema(Protocol):
    """An architecture that knows its tensors: a symmetry table (`isthmus.align.symmetry.Family`) is one."""

    def schema(self) -> Schema:
        """The tensors of a model."""
        ...

    @property
    def configuration(self) -> Mapping[str, object]:
        """What the forward pass reads of the configuration, defaults filled in."""
        ...

    @property
    def rounding(self) -> frozenset[str]:
        """The keys of that by which results differ by rounding alone."""
        ...


Families = Mapping[str, Callable[[Any], HasSchema]]


def table_of(config: PretrainedConfig, families: Families | None) -> HasSchema | None:
    """The symmetry table of a model; None for a type, or a variant of one, that has none among `families`."""
    build = (families or {}).get(config.model_type)
    try:
        return None if build is None else build(config)
    except UnsupportedFamily:
        return None


def schema(config: PretrainedConfig, families: Families | None = None) -> Schema:
    """The tensors that a model with this configuration is made of.

    From its table when there is one among `families`; else from the module that transformers makes, which takes a
    second to import.
    """
    table = table_of(config, families)
    if table is not None:
        return table.schema()
    return replace(_schema(config.model_type, config.to_json_string(use_diff=False)), masked=reads_both_ways(config))


@cache
def _schema(kind: str, facts: str) -> Schema:
    model = _empty_model(kind, facts)
    tied = dict(getattr(model, "all_tied_weights_keys", None) or {})
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items() if name not in tied}
    return Schema(shapes, tied, getattr(model, "base_model_prefix", ""))


def model_of_names(config: PretrainedConfig) -> nn.Module:
    """An empty model of this configuration, for its names alone: the same for the same configuration."""
    return _empty_model(config.model_type, config.to_json_string(use_diff=False))


@lru_cache(maxsize=4)
def _empty_model(kind: str, facts: str) -> nn.Module:
    from transformers import CONFIG_MAPPING

    return empty_model(CONFIG_MAPPING[kind].from_dict(json.loads(facts)))
