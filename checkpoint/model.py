"""The module of a configuration, without memory for weights: which tensors it expects, and calling it with a state."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache, cached_property, lru_cache
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor
from torch.func import functional_call

from .errors import BadInput, UnsupportedFamily
from .rows import ComputedState
from .task import CAUSAL, CLASSIFIERS, TEXTS, Task, auto_class, task_of

if TYPE_CHECKING:
    from torch import nn
    from transformers import PretrainedConfig


SEGMENT = 2**23  # is added to the id of a token of a second segment, as of the second of a pair of texts
PADDING = -1  # among token ids: no token, where a text is shorter than others beside it
_ABSENT = "pads_by_an_absent_id"  # of a configuration that names no padding token


def empty_model(config: PretrainedConfig) -> nn.Module:
    """The model of a configuration, in evaluation mode, its weights on the meta device."""
    from accelerate import init_empty_weights
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING
    from transformers.initialization import no_init_weights

    if task_of(config) == CAUSAL and type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise BadInput(
            f"models of type '{config.model_type}' cannot be merged yet: isthmus merges language models and "
            "classifiers (those that AutoModelForCausalLM, AutoModelForMaskedLM, AutoModelForSequenceClassification or "
            "AutoModelForTokenClassification of transformers loads)"
        )
    # Drawing weights takes most of the time, on the meta device, too.
    with no_init_weights(), init_empty_weights():
        model: nn.Module = auto_class(config).from_config(copy.deepcopy(config))
    return model.eval()


def arguments(model: nn.Module, ids: Tensor) -> dict[str, Any]:
    """What a model is called with to read token ids (batch, length), which end in `PADDING` where a text is shorter.

    A classifier of texts looks at the last token that is not its padding token; where it has none, an id that no text
    has stands for it. Ids from `SEGMENT` on are those of a second segment (token_type_ids).
    """
    given: dict[str, Any] = {"use_cache": False}
    config: Any = model.config
    present = ids != PADDING
    segments = torch.where(present, ids // SEGMENT, 0)
    if bool(segments.any()):
        given["token_type_ids"] = segments
        ids = torch.where(present, ids % SEGMENT, ids)
    pads = config.pad_token_id is not None and config.pad_token_id >= 0  # old configurations say -1
    if task_of(config) == TEXTS and (not pads or hasattr(config, _ABSENT)):
        setattr(config, _ABSENT, True)
        config.pad_token_id = _absent(ids) if len(ids) > 1 else None
    if not bool(present.all()):
        longest = int(present.sum(1).max())
        ids, present = ids[:, :longest], present[:, :longest]
        given |= dict.fromkeys(given.keys() & {"token_type_ids"}, segments[:, :longest])
        ids = torch.where(present, ids, config.pad_token_id or 0)
        given["attention_mask"] = present.long()
    return {"input_ids": ids, **given}


def unpadded(ids: Tensor, rows: int) -> Iterator[Tensor]:
    """Token ids (blocks, context) in batches of at most so many rows, those of one length each, without `PADDING`."""
    lengths = (ids != PADDING).sum(1)
    for length in lengths.unique().tolist():
        yield from torch.split(ids[lengths == length][:, :length], rows)


def _absent(ids: Tensor) -> int:
    """The lowest token id that is not among these."""
    present = set(ids.unique().tolist())
    return next(number for number in range(len(present) + 1) if number not in present)


def with_tied(state: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """The state with every tied weight under both of its names, as a functional call needs it."""
    full = {name: state[name] for name in state}
    for target, source in (getattr(model, "all_tied_weights_keys", None) or {}).items():
        full.setdefault(target, full[source])
    return full


@torch.no_grad()
def log_probs(state: Mapping[str, Tensor], config: PretrainedConfig, ids: Tensor) -> Tensor:
    """Log-probabilities (batch, length, vocabulary), float32, of a state on token ids (batch, length).

    Of a classifier, what it gives: its logits (batch, labels) or (batch, length, labels).
    """
    model = empty_model(config)
    return outputs(functional_call(model, with_tied(state, model), (), arguments(model, ids)).logits.float(), config)


def outputs(logits: Tensor, config: PretrainedConfig) -> Tensor:
    """Log-probabilities of logits; those of a classifier as they are: of one with a single label all are 0."""
    return logits if task_of(config) in CLASSIFIERS else torch.log_softmax(logits, -1)


def streamed_model(
    state: Mapping[str, Tensor], config: PretrainedConfig, dtype: torch.dtype = torch.float32
) -> nn.Module:
    """A model of a state that is not in memory: every weight is looked up when its module runs, and dropped.

    It computes in `dtype`.
    """
    from accelerate.hooks import attach_align_device_hook

    model = empty_model(config).to(dtype)  # weights are cast to what the module has
    tied = dict(getattr(model, "all_tied_weights_keys", None) or {})
    both_names = ComputedState([*state, *tied], lambda name: state[name if name in state else tied[name]])
    attach_align_device_hook(model, torch.device("cpu"), offload=True, weights_map=both_names)
    return model


@torch.no_grad()
def streamed_log_probs(
    state: Mapping[str, Tensor], config: PretrainedConfig, ids: Tensor, dtype: torch.dtype = torch.float32
) -> Tensor:
    """As `log_probs`, of a state that is not in memory (`streamed_model`), computed in `dtype`."""
    model = streamed_model(state, config, dtype)
    return outputs(model(**arguments(model, ids)).logits.to(dtype), config)


@dataclass(frozen=True)
class Schema:
    """The tensors of a model: shapes by name, tied names (target: source), the prefix of the base model.

    `buffers` matches the names of tensors that old files have beside them and that are no weights, where it is known.
    `sound` says that transformers surely builds the model, so that it need not be tried; `limits` what users should
    know of its alignment, where that can do little; `task` what the model does; `aligns` that there is a symmetry table
    for it.
    """

    shapes: dict[str, tuple[int, ...]]
    tied: dict[str, str]
    prefix: str
    buffers: re.Pattern[str] | None = field(default=None, compare=False)
    sound: bool = field(default=False, compare=False)
    limits: str = field(default="", compare=False)
    task: Task = field(default=CAUSAL, compare=False)
    aligns: bool = field(default=False, compare=False)

    @cached_property
    def all_names(self) -> frozenset[str]:
        """The names of all tensors, the tied ones too."""
        return frozenset(self.shapes) | frozenset(self.tied)

    @property
    def classifies(self) -> bool:
        """Whether it is a classifier."""
        return self.task in CLASSIFIERS

    @property
    def writes(self) -> bool:
        """Whether it writes text."""
        return self.task == CAUSAL

    @property
    def head(self) -> list[str]:
        """The names of the tensors of a classifier that stand beside its base model."""
        return [name for name in self.shapes if self.classifies and not name.startswith(f"{self.prefix}.")]

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
    return replace(_schema(config.model_type, config.to_json_string(use_diff=False)), task=task_of(config))


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
