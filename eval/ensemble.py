"""An ensemble as one causal language model of transformers: it scores text and generates as any other does."""

from __future__ import annotations

import math
from collections.abc import Container, Iterable, Mapping, Sequence
from inspect import signature
from typing import TYPE_CHECKING, Any, Literal, cast

import torch
from torch import Tensor, nn
from transformers import GenerationConfig, GenerationMixin, PretrainedConfig, PreTrainedModel
from transformers.cache_utils import Cache, DynamicCache
from transformers.modeling_outputs import CausalLMOutput

from ..checkpoint.config import DEFAULT_CONTEXT, context_length
from ..checkpoint.model import empty_model, with_tied

if TYPE_CHECKING:
    from collections.abc import Callable

Average = Literal["probabilities", "logits"]
TOKENS = ("bos_token_id", "eos_token_id", "pad_token_id")


class EnsembleConfig(PretrainedConfig):
    """The configuration of an ensemble: what generation needs, and how members are averaged."""

    model_type = "isthmus-ensemble"

    def __init__(self, average: Average = "probabilities", members: int = 0, **facts: Any):
        super().__init__(**facts)
        self.average, self.members = average, members


def _of_all(name: str) -> Callable[..., None]:
    """The method of `EnsembleCache` that calls the one of this name of every member's cache."""

    def method(self: EnsembleCache, *arguments: Any) -> None:
        for cache in self.caches:
            getattr(cache, name)(*arguments)

    return method


class EnsembleCache(Cache):
    """The keys and values of all members, each in a cache of its own."""

    def __init__(self, configs: Iterable[PretrainedConfig]):
        super().__init__(layers=[])
        self.caches = [DynamicCache(config=config) for config in configs]

    def get_seq_length(self, *args: Any) -> int:
        """The number of tokens in it."""
        return int(self.caches[0].get_seq_length(*args))

    reorder_cache = _of_all("reorder_cache")
    crop = _of_all("crop")
    batch_repeat_interleave = _of_all("batch_repeat_interleave")
    batch_select_indices = _of_all("batch_select_indices")


class Ensemble(PreTrainedModel, GenerationMixin):
    """Members with one vocabulary, averaged token by token.

    ``probabilities``: p(y|x) = mean_m p_m(y|x), the mixture; ``logits``: p(y|x) ∝ exp mean_m ℓ_m(y|x), the geometric
    mean. The logits are log-probabilities. A forward pass costs as much as those of all members together.
    """

    config_class = EnsembleConfig
    main_input_name = "input_ids"

    def __init__(self, config: EnsembleConfig, members: Sequence[nn.Module]):
        super().__init__(config)
        self.members = nn.ModuleList(members)
        self.generation_config = GenerationConfig(**{key: getattr(config, key) for key in TOKENS})

    @classmethod
    def of(
        cls,
        states: Sequence[tuple[Mapping[str, Tensor], PretrainedConfig]],
        average: Average = "probabilities",
        generation: GenerationConfig | None = None,
    ) -> Ensemble:
        """The ensemble of states with their configurations.

        `generation` is the generation configuration of the model whose tokenizer goes with the ensemble. Without it,
        the ensemble takes the token ids of the first configuration.
        """
        members = []
        for state, config in states:
            member = empty_model(config)
            member.load_state_dict(with_tied(state, member), assign=True)
            members.append(member.requires_grad_(False))
        first = states[0][1]
        tokens = {key: getattr(generation or first, key, None) for key in TOKENS}
        config = EnsembleConfig(
            average,
            len(members),
            vocab_size=first.vocab_size,
            max_position_embeddings=context_length(first) or DEFAULT_CONTEXT,
            num_hidden_layers=first.num_hidden_layers,
            **tokens,
        )
        ensemble = cls(config, members)
        if generation is not None:
            ensemble.generation_config = generation
        ensemble.train(False)
        return ensemble

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        **others: Any,
    ) -> CausalLMOutput:
        """Log-probabilities of the next token, (batch, length, vocabulary), as `logits`.

        `position_ids` is named here because `generate` counts positions, past padding on the left, only for models
        whose signature has it.
        """
        accepted = signature(type(self.members[0]).forward).parameters
        name = _cache_name(accepted)
        cache = others.get(name)
        given = {"position_ids": position_ids} if position_ids is not None and "position_ids" in accepted else {}
        logits = []
        for index, member in enumerate(self.members):
            own = {name: cache.caches[index], "use_cache": True} if cache is not None else {"use_cache": False}
            logits.append(member(input_ids, attention_mask=attention_mask, **given, **own).logits.float())
        output = CausalLMOutput(logits=averaged(logits, self.config.average))
        if cache is not None:
            output[name] = cache
        return output

    def generate(self, *arguments: Any, **options: Any) -> Any:
        """As `transformers.GenerationMixin.generate`."""
        if options.get("use_cache", True):
            members = cast("Iterable[PreTrainedModel]", self.members)
            cache = EnsembleCache(member.config for member in members)
            options.setdefault(_cache_name(signature(type(self.members[0]).forward).parameters), cache)
        return super().generate(*arguments, **options)


def averaged(logits: Sequence[Tensor], average: Average) -> Tensor:
    """Log-probabilities of the ensemble from the members' logits, (..., vocabulary) each."""
    share = 1 / len(logits)
    if average == "logits":
        return sum((share * one for one in logits), torch.zeros(())).log_softmax(-1)
    return torch.stack([one.log_softmax(-1) + math.log(share) for one in logits]).logsumexp(0)


def _cache_name(parameters: Container[str]) -> str:
    """The parameter of a forward pass that takes the keys and values of the past in this version of transformers."""
    return "cache" if "cache" in parameters else "past_key_values"
