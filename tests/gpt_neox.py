"""Small random models of GPT-NeoX."""

from __future__ import annotations

import torch
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM


def tiny_neox(seed: int = 0, **changes: object) -> GPTNeoXForCausalLM:
    """A random GPT-NeoX; norms and biases are random, too."""
    facts = {"vocab_size": 128, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    facts |= {"intermediate_size": 64, "max_position_embeddings": 32, "rotary_pct": 0.5, "hidden_act": "gelu"}
    torch.manual_seed(seed)
    model = GPTNeoXForCausalLM(GPTNeoXConfig(**{**facts, "bos_token_id": 0, "eos_token_id": 0, **changes})).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1:
                centre = 1.0 if "norm" in name and name.endswith("weight") else 0.0
                parameter.copy_(centre + 0.3 * torch.randn_like(parameter))
            else:
                parameter.mul_(5)
    return model
