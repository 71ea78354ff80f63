"""Text that models write: blocks from nothing, and continuations of the same prompts with the same seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..checkpoint.config import DEFAULT_CONTEXT, context_length
from ..checkpoint.errors import BadInput
from ..checkpoint.task import CAUSAL, CLASSIFIERS, task_of
from .forward import runnable
from .progress import Progress

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedTokenizerBase

PURPOSES = ("fit", "select", "report", "choose", "probe")  # of such text, none of which serves two
CACHE_BYTES = 2**28  # of keys and values, while text is written


@dataclass(frozen=True)
class Writer:
    """Text that models of one configuration have written: what they learned from, as far as they have learned it.

    It needs no corpus and no tokenizer. The same seed gives the same text, another one for every purpose (`PURPOSES`).
    """

    states: Sequence[Mapping[str, Tensor]]
    config: PretrainedConfig
    seed: int
    device: str
    progress: Progress

    @property
    def writes(self) -> bool:
        """Whether these models write text: masked language models and classifiers do not."""
        return task_of(self.config) == CAUSAL

    def blocks(self, purpose: str, count: int, length: int) -> Tensor:
        """Blocks by every model in turn, (count, length), int64. Raises BadInput for models that do not write."""
        if not self.writes:
            what, data = "masked language models", "--data stdlib:docs"
            if task_of(self.config) in CLASSIFIERS:
                what, data = "classifiers", "--data labelled.jsonl"
            raise BadInput(
                f"{what} write no text that anything could be fitted to or measured on: add --data (for instance "
                f"{data})"
            )
        self.progress.stage("writing text", len(self.states))
        parts = []
        for place, state in enumerate(self.states):
            seed = (len(self.states) * (len(PURPOSES) * self.seed + PURPOSES.index(purpose)) + place) % 2**63
            first = torch.full((-(-count // len(self.states)), 1), _end_token(self.config))
            parts.append(written_blocks(state, self.config, first, length, seed=seed, device=self.device))
            self.progress.advance()
        return torch.stack(parts, 1).flatten(0, 1)[:count]


@torch.no_grad()
def written_blocks(
    state: Mapping[str, Tensor],
    config: PretrainedConfig,
    first: Tensor,
    length: int,
    *,
    seed: int,
    device: str = "cpu",
) -> Tensor:
    """Blocks that a model writes on from their `first` tokens (blocks, tokens), sampled as it predicts:
    (blocks, length), int64.

    What follows an end of text is the next one, as in the text that models are trained on.
    """
    from transformers import GenerationConfig

    model = runnable(state, config, device)
    model.generation_config = GenerationConfig(
        do_sample=True,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        max_new_tokens=length - first.shape[1],
        remove_invalid_values=True,  # of a model that gives NaN: its loss will tell
        pad_token_id=_end_token(config),
    )
    rows = []
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for part in first.chunk(-(-len(first) // texts_at_once(config, length))):
            ids = part.to(device)
            rows.append(model.generate(ids, attention_mask=torch.ones_like(ids)).cpu())
    return torch.cat(rows)


def texts_at_once(config: PretrainedConfig, length: int) -> int:
    """How many texts of a length a model writes at a time, so that their keys and values fit into `CACHE_BYTES`."""
    layers, width = (int(getattr(config, name, 1)) for name in ("num_hidden_layers", "hidden_size"))
    return max(1, CACHE_BYTES // (8 * layers * width * length))


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
    device: str = "cpu",
) -> tuple[Sample, ...]:
    """Continue the beginnings of report blocks with every model, sampled at temperature 0.7 from the top 40 tokens."""
    context = min(context_length(config) or DEFAULT_CONTEXT for _, config in models.values())
    prompt_tokens = min(prompt_tokens, context // 2)
    chosen = [(label, ids[:prompt_tokens]) for label, table in blocks.items() for ids in table[:per_label]]
    prompts = torch.stack([ids for _, ids in chosen]).to(device)
    continuations: list[dict[str, str]] = [{} for _ in chosen]
    for name, (state, config) in models.items():
        model = runnable(state, config, device)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            written = model.generate(
                prompts,
                attention_mask=torch.ones_like(prompts),
                max_new_tokens=min(new_tokens, context - prompt_tokens),
                do_sample=True,
                temperature=0.7,
                top_k=40,
                pad_token_id=_end_token(config),
            )
        for texts, row in zip(continuations, written[:, prompts.shape[1] :].tolist(), strict=True):
            texts[name] = str(tokenizer.decode(_until_end(row, config), skip_special_tokens=True))
    return tuple(
        Sample(label, str(tokenizer.decode(ids, skip_special_tokens=True)), texts)
        for (label, ids), texts in zip(chosen, continuations, strict=True)
    )


def _until_end(tokens: list[int], config: PretrainedConfig) -> list[int]:
    """The tokens of a text up to its end; what stands behind fills up the rows of those that are written together."""
    end = config.eos_token_id
    ends = set(end) if isinstance(end, list) else {end}
    return tokens[: next((place for place, token in enumerate(tokens) if token in ends), len(tokens))]


def _end_token(config: PretrainedConfig) -> int:
    ends = config.eos_token_id
    return int((ends[0] if ends else 0) if isinstance(ends, list) else ends or 0)
