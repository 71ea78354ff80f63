"""What a table takes of a configuration file at its word is what transformers reads in it, and builds."""

from __future__ import annotations

import copy
import random
from types import SimpleNamespace
from typing import Any

import pytest
from transformers import CONFIG_MAPPING

from isthmus.align.families import FAMILIES
from isthmus.checkpoint.config import build_config
from isthmus.checkpoint.model import empty_model, schema

SIZES = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "head_dim": 8}
SIZES |= {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64}
KINDS = ("llama", "mistral", "qwen2", "qwen3")
# Values that files were seen to have, or might: some plain, some that transformers has to judge.
VALUES: dict[str, list[Any]] = {
    "num_key_value_heads": [1, 4, 3, 0, None, 2.0, True],
    "hidden_size": [36, 30, "32", -32, 0],
    "head_dim": [None, 16, 7, 0, "8"],
    "hidden_act": ["gelu", "no such function", None, 3],
    "rms_norm_eps": [1e-5, 0, 1, "1e-6", None, 2.0],
    "tie_word_embeddings": [True, False, None, "yes"],
    "attention_bias": [True, None, "no"],
    "attention_dropout": [0, 0.1, 1.5, None],
    "rope_parameters": [None, {}, {"rope_theta": 5e5}, {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}, 3],
    "rope_theta": [5e5, 10000, 0, None, "1e4"],
    "rope_scaling": [None, {"rope_type": "linear", "factor": 2.0}, {"type": "no such type"}],
    "sliding_window": [None, 16, 0, "16"],
    "use_sliding_window": [False, True, None],
    "layer_types": [None, ["full_attention"] * 2, ["full_attention"], ["no such kind"] * 2],
    "max_window_layers": [1, 28, None],
    "bos_token_id": [None, 1, 64, [1], "1"],
    "eos_token_id": [None, [1, 2], [99], "2"],
    "pad_token_id": [None, 63, 64, -1],
    "pretraining_tp": [1, 2, 1.0, True],
    "mlp_bias": [True, False, None],
    "dtype": ["bfloat16", "float8", None],
    "architectures": [None, ["X"], "X", [1]],
    "unk_token_id": [0],
    "num_hidden_layers": [1, 0, "2"],
    "partial_rotary_factor": [0.5],
    "my_key": [1],
    "n_positions": [3],
}


def files(kind: str, count: int) -> list[dict[str, Any]]:
    """Files as transformers writes them, with up to three entries changed, added or taken out."""
    written = CONFIG_MAPPING[kind](**{**SIZES, "bos_token_id": 1, "eos_token_id": 2}).to_diff_dict()
    draw, found = random.Random(kind), [written]
    for _ in range(count):
        facts = copy.deepcopy(written)
        for _ in range(draw.choice((1, 1, 2, 3))):
            key = draw.choice((*VALUES, *written))
            if key in facts and draw.random() < 0.2:
                del facts[key]
            elif key in VALUES:
                facts[key] = draw.choice(VALUES[key])
        found.append({**facts, "model_type": kind})
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_taken_at_its_word_is_what_transformers_builds(kind: str) -> None:
    taken = 0
    for facts in files(kind, 300):
        try:
            table = FAMILIES[kind](SimpleNamespace(**copy.deepcopy(facts)))
        except (TypeError, AttributeError):
            continue
        taken += 1
        assert table.sound, facts
        config = build_config(facts, "m")
        assert table.schema() == FAMILIES[kind](config).schema() == schema(config), facts
        assert {name: tuple(value.shape) for name, value in empty_model(config).named_parameters()}, facts
    assert taken > 60, "the usual files are"


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_that_transformers_writes_is_taken_at_its_word(kind: str) -> None:
    (written,) = files(kind, 0)
    table = FAMILIES[kind](SimpleNamespace(**written))
    assert table.sound
    assert table.schema() == schema(build_config(written, "m"))


@pytest.mark.parametrize("kind", sorted({*FAMILIES} - {*KINDS, "gpt2"}))
def test_files_of_other_architectures_are_left_to_transformers(kind: str) -> None:
    with pytest.raises(TypeError):
        FAMILIES[kind](SimpleNamespace(**CONFIG_MAPPING[kind]().to_diff_dict()))
