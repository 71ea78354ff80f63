"""The architectures that the studies train small models of. Nothing here imports torch: the command line reads it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

Architecture = Literal["gpt2", "llama", "qwen3", "gpt_neox"]

# What the others than GPT-2 have beside the sizes that they share with it.
OTHERS: Mapping[Architecture, Mapping[str, Any]] = {
    "llama": {"intermediate_size": 352, "num_key_value_heads": 2, "tie_word_embeddings": True},
    "qwen3": {"intermediate_size": 352, "num_key_value_heads": 2, "head_dim": 32, "tie_word_embeddings": True},
    "gpt_neox": {"intermediate_size": 512, "tie_word_embeddings": False},
}
FEWER = 3  # models of these by each optimizer
