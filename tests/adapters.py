"""Adapters of every kind, made by peft on small random models, with what peft computes with them."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from conftest import tiny_model
from peft import IA3Config, LoHaConfig, LoKrConfig, LoraConfig, PeftConfig, get_peft_model
from tiny_models import tiny_rotary
from torch import Tensor
from transformers import LlamaForCausalLM, PreTrainedModel

MODULES = {"gpt2": ["c_attn", "c_fc"], "llama": ["q_proj", "v_proj", "down_proj"]}
EMBEDDING = {"gpt2": "wte", "llama": "embed_tokens"}
IDS = torch.arange(96).reshape(4, 24)
TASK = {"task_type": "CAUSAL_LM"}


def lora(names: list[str], **changes: Any) -> LoraConfig:
    return LoraConfig(**{**TASK, "r": 4, "lora_alpha": 16, "target_modules": names, **changes})


# The kinds by name: (modules, name of the embedding) → the settings of peft.
KINDS: dict[str, Callable[[list[str], str], PeftConfig]] = {
    "lora": lambda names, _: lora(names),
    "rslora": lambda names, _: lora(names, use_rslora=True),
    "dora": lambda names, _: lora(names, use_dora=True),
    "ranks by module": lambda names, _: lora(names, rank_pattern={names[0]: 2}, alpha_pattern={names[1]: 3}),
    "fan in, fan out": lambda names, _: lora(names, fan_in_fan_out=True),
    "all biases": lambda names, _: lora(names, bias="all"),
    "biases of what it adapts": lambda names, _: lora(names, bias="lora_only"),
    "all linear modules": lambda names, _: lora("all-linear"),  # type: ignore[arg-type]
    "a head of its own": lambda names, _: lora(names, modules_to_save=["lm_head"]),
    "a head and an embedding": lambda names, embedding: lora(names, modules_to_save=["lm_head", embedding]),
    "an adapted embedding": lambda names, embedding: lora([*names, embedding]),
    "trained tokens": lambda names, _: lora(names, trainable_token_indices=[3, 5]),
    "ia3": lambda names, _: IA3Config(**TASK, target_modules=names, feedforward_modules=[names[-1]]),
    "loha": lambda names, _: LoHaConfig(**TASK, r=4, target_modules=names),
    "lokr": lambda names, _: LoKrConfig(**TASK, r=4, target_modules=names),
}
# peft adapts Linear alone by these.
NOT_OF_CONV1D = ("loha", "lokr")


@dataclass(frozen=True)
class Made:
    """Directories of a base and of an adapter, and the log-probabilities that peft computes with both on `IDS`."""

    base: Path
    adapter: Path
    log_probs: Tensor

    @property
    def reference(self) -> str:
        return f"{self.base}+{self.adapter}"


def tiny_base(family: str, seed: int = 0, **changes: Any) -> PreTrainedModel:
    return tiny_model(seed, **changes) if family == "gpt2" else tiny_rotary(LlamaForCausalLM, seed, **changes)


def adapted(
    directory: Path,
    family: str,
    settings: PeftConfig,
    *,
    seed: int = 0,
    name: str = "adapter",
    rows: int = 0,
    **changes: Any,
) -> Made:
    """Make a base and an adapter, whose every trained number is random; `rows` are added to the vocabulary."""
    base = directory / "base"
    model = tiny_base(family, **changes)
    model.save_pretrained(base)
    model.name_or_path = str(base)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if rows:
            model.resize_token_embeddings(model.config.vocab_size + rows, mean_resizing=False)
        wrapped = get_peft_model(model, settings).eval()
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in wrapped.parameters():
                if parameter.requires_grad:
                    parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
            log_probs = torch.log_softmax(wrapped(IDS).logits, -1)
        wrapped.save_pretrained(directory / name, save_embedding_layers=True if rows else "auto")
    return Made(base, directory / name, log_probs)


def with_settings(adapter: Path, **changes: Any) -> Path:
    """Change adapter_config.json."""
    file = adapter / "adapter_config.json"
    content: Mapping[str, Any] = json.loads(file.read_text())
    file.write_text(json.dumps({**content, **changes}))
    return adapter
