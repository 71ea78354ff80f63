"""Text that models generate: the same prompts and the same seed for all of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..checkpoint.config import DEFAULT_CONTEXT, context_length
from ..checkpoint.model import empty_model, with_tied

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedTokenizerBase


@dataclass(frozen=True)
class Sample:
    """A prompt from the text `label`, and the continuation by each model: model → text."""

    label: str
    prompt: str
    continuations: dict[str, str]


def samples(
    models: Mapping[str, tuple[Mapping[str, Tensor], PretrainedConfig]],
    tokenizer: PreTrainedTokenizerBase,
    blocks: Mapping[str, Tensor],
    *,
    per_label: int = 2,
    prompt_tokens: int = 24,
    new_tokens: int = 64,
    seed: int = 0,
) -> tuple[Sample, ...]:
    """Continue the beginnings of report blocks with every model, sampled at temperature 0.7 from the top 40 tokens."""
    context = min(context_length(config) or DEFAULT_CONTEXT for _, config in models.values())
    prompt_tokens = min(prompt_tokens, context // 2)
    chosen = [(label, ids[:prompt_tokens]) for label, table in blocks.items() for ids in table[:per_label]]
    continuations: list[dict[str, str]] = [{} for _ in chosen]
    for name, (state, config) in models.items():
        model: Any = empty_model(config)
        model.load_state_dict(with_tied(state, model), assign=True)
        length = min(new_tokens, context - prompt_tokens)
        for place, (_, ids) in enumerate(chosen):
            torch.manual_seed(seed)
            out = model.generate(
                ids[None],
                attention_mask=torch.ones_like(ids[None]),
                max_new_tokens=length,
                do_sample=True,
                temperature=0.7,
                top_k=40,
                pad_token_id=_end_token(config),
            )
            continuations[place][name] = str(tokenizer.decode(out[0, ids.numel() :], skip_special_tokens=True))
    return tuple(
        Sample(label, str(tokenizer.decode(ids, skip_special_tokens=True)), texts)
        for (label, ids), texts in zip(chosen, continuations, strict=True)
    )


def _end_token(config: PretrainedConfig) -> int:
    ends = config.eos_token_id
    return int((ends[0] if ends else 0) if isinstance(ends, list) else ends or 0)
