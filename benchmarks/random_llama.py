"""A Llama of 124M parameters (four heads of keys for twelve of queries, an output of its own) with random weights.

Run as a script, ``random_llama.py BASE MODEL...`` saves one, and models a tenth of its weights away from it.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from gpt2_small import save_family
from transformers import LlamaConfig, LlamaForCausalLM


def make(seed: int) -> LlamaForCausalLM:
    """One, float32. Norms are random, too, as they are in a trained model."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        hidden_size=768,
        intermediate_size=2048,
        num_hidden_layers=12,
        num_attention_heads=12,
        num_key_value_heads=4,
        vocab_size=32000,
        tie_word_embeddings=False,
    )
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model


if __name__ == "__main__":
    base, *others = map(Path, sys.argv[1:])
    save_family(make(0), base, others)
