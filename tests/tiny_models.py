"""Small random models of other architectures than GPT-2's."""

from __future__ import annotations

import torch
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM, OPTForCausalLM, PreTrainedModel


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


def tiny_rotary(make: type[PreTrainedModel], seed: int = 0, **changes: object) -> PreTrainedModel:
    """A random rotary model with heads that share keys; norms and biases are random, too."""
    facts = {"vocab_size": 128, "hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 2}
    facts |= {"num_attention_heads": 6, "num_key_value_heads": 3, "max_position_embeddings": 32}
    torch.manual_seed(seed)
    model = make(make.config_class(**{**facts, "bos_token_id": 0, "eos_token_id": 0, **changes})).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1:
                parameter.copy_(("norm" in name.lower() and "bias" not in name) + 0.3 * torch.randn_like(parameter))
            else:
                parameter.mul_(5)
    return model


def tiny_opt(seed: int = 0, **changes: object) -> PreTrainedModel:
    """A random OPT; norms and biases are random, too."""
    facts = {"ffn_dim": 64, "word_embed_proj_dim": 48, "num_key_value_heads": 6, "pad_token_id": 1}
    return tiny_rotary(OPTForCausalLM, seed, **{**facts, **changes})


def tiny_bert(make: type[PreTrainedModel], seed: int = 0, **changes: object) -> PreTrainedModel:
    """A random BERT or RoBERTa; norms and biases are random, too."""
    return tiny_rotary(make, seed, **{"pad_token_id": 0, "num_key_value_heads": 6, **changes})
