from __future__ import annotations

import pytest
from transformers import CONFIG_MAPPING

from isthmus.checkpoint.config import context_length

CONTEXTS = {
    "gpt2": ({"n_positions": 96}, 96),
    "llama": ({"max_position_embeddings": 96}, 96),
    "bloom": ({"seq_length": 96}, 96),
    "mpt": ({"max_seq_len": 96}, 96),
    "rwkv": ({"context_length": 96}, 96),
    "mamba": ({}, None),
    "xlnet": ({}, None),  # says -1
}


@pytest.mark.parametrize("kind", CONTEXTS)
def test_the_context_whatever_a_configuration_calls_it(kind: str) -> None:
    facts, length = CONTEXTS[kind]
    assert context_length(CONFIG_MAPPING[kind](**facts)) == length
