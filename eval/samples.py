"""Text that models write: blocks from nothing, and continuations of the same prompts with the same seed."""

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


WRITTEN = "written by the models"  # the label of text that the endpoints have written
CACHE_BYTES = 2**28  # of keys and values, while text is written


@torch.no_grad()
def written_blocks(
    state: Mapping[str, Tensor], config: PretrainedConfig, count: int, length: int, *, seed: int
) -> Tensor:
    """Blocks of text that a model writes, (count, length), int64: sampled as it predicts, from the end of a text on.

    What follows an end of text is the next one, as in the text that models are trained on.
    """
    from transformers import GenerationConfig

    model = _runnable(state, config)
    model.generation_config = GenerationConfig(
        do_sample=True, temperature=1.0, top_k=0, top_p=1.0, max_new_tokens=length - 1, pad_token_id=_end_token(config)
    )
    layers, width = (int(getattr(config, name, 1)) for name in ("num_hidden_layers", "hidden_size"))
    parts = -(-count // max(1, CACHE_BYTES // (8 * layers * width * length)))
    at_once = -(-count // max(1, parts))
    rows = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for start in range(0, count, at_once):
            first = torch.full((min(at_once, count - start), 1), _end_token(config))
            rows.append(model.generate(first, attention_mask=torch.ones_like(first)))
    return torch.cat(rows)


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
        model = _runnable(state, config)
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


def _runnable(state: Mapping[str, Tensor], config: PretrainedConfig) -> Any:
    model = empty_model(config)
    model.load_state_dict(with_tied(state, model), assign=True)
    return model


def _end_token(config: PretrainedConfig) -> int:
    ends = config.eos_token_id
    return int((ends[0] if ends else 0) if isinstance(ends, list) else ends or 0)
