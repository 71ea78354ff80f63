"""Tables of classifiers: the tensors are those of transformers, and every element leaves what they give alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from group import random_elements
from torch import Tensor
from transformers import CONFIG_MAPPING, PretrainedConfig

from isthmus.align.alignment import Alignment
from isthmus.align.canonical import canonical
from isthmus.align.families import FAMILIES, family
from isthmus.align.pipeline import align_states
from isthmus.checkpoint.model import empty_model, log_probs
from isthmus.checkpoint.task import TEXTS, TOKENS, Task, class_name

IDS = torch.randint(50, (3, 17), generator=torch.Generator().manual_seed(7))
FACTS: dict[str, Any] = {
    "num_hidden_layers": 2, "hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, "vocab_size": 50,
    "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 64, "pad_token_id": None, "bos_token_id": 0,
    "eos_token_id": 1, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, "ffn_dim": 48,
    "word_embed_proj_dim": 32, "moe_intermediate_size": 24, "num_experts": 4, "num_local_experts": 4,
    "num_experts_per_tok": 2, "shared_expert_intermediate_size": 24,
}  # fmt: skip
LEFT_OUT = {
    "phi": ("num_key_value_heads", "head_dim"),
    **dict.fromkeys(("gpt_neox", "bert", "roberta", "opt"), ("head_dim",)),
}
TASKS: tuple[Task, ...] = (TEXTS, TOKENS)
CASES = [(kind, task) for kind in FAMILIES for task in TASKS if class_name(kind, task) is not None]


def configuration(kind: str, task: Task, labels: int) -> PretrainedConfig:
    facts = {key: value for key, value in FACTS.items() if key not in LEFT_OUT.get(kind, ())}
    if kind in ("bert", "roberta", "opt"):
        facts["pad_token_id"] = 1
    config = CONFIG_MAPPING[kind](**facts)
    config.num_labels, config.architectures = labels, [class_name(kind, task)]
    return config


def random_state(config: PretrainedConfig, seed: int = 0) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    state = {}
    for name, value in empty_model(config).named_parameters():
        norm = "norm" in name.lower() or ".ln_" in name
        state[name] = (norm and name.endswith("weight")) + 0.2 * torch.randn(value.shape)
    return state


@pytest.mark.parametrize("labels", [1, 3])
@pytest.mark.parametrize(("kind", "task"), CASES)
def test_every_element_leaves_what_a_classifier_gives_alone(kind: str, task: Task, labels: int) -> None:
    config = configuration(kind, task, labels)
    state, table = random_state(config), family(config)
    assert table.task == task
    assert table.schema().shapes == {name: tuple(value.shape) for name, value in state.items()}
    assert not table.tied
    expected = log_probs(state, config, IDS)
    assert expected.shape[-1] == labels
    assert expected.ndim == (2 if task == TEXTS else 3)
    assert expected.std() > 1e-3
    formed = canonical(state, table)
    torch.testing.assert_close(log_probs(formed, config, IDS), expected, atol=1e-4, rtol=0)
    elements = random_elements(table, "orthogonal")
    for space in table.spaces:
        only = Alignment("orthogonal", {**table.identity(), space: elements[space]}).apply(state, table)
        torch.testing.assert_close(log_probs(only, config, IDS), expected, atol=1e-4, rtol=0)
    moved = Alignment("orthogonal", elements).apply(state, table)
    torch.testing.assert_close(log_probs(moved, config, IDS), expected, atol=1e-4, rtol=0)
    assert not all(torch.allclose(moved[name], formed[name]) for name in formed)


@pytest.mark.parametrize(("kind", "task"), [("gpt2", TEXTS), ("llama", TOKENS), ("bert", TEXTS), ("roberta", TEXTS)])
def test_a_moved_copy_is_found_again_with_its_head(kind: str, task: Task) -> None:
    config = configuration(kind, task, 3)
    state, table = random_state(config), family(config)
    copy = Alignment("permutation", table.permuting().random(torch.Generator().manual_seed(1))).apply(state, table)
    pair = align_states(state, copy, config, "permutation")
    for name in state:
        torch.testing.assert_close(pair.b[name], pair.a[name], atol=1e-5, rtol=0)


def test_the_map_to_labels_is_not_what_models_are_matched_by() -> None:
    table = family(configuration("gpt2", TEXTS, 3))
    assert "score.weight" not in {table.pieces[name].parameter for name in table.compared}
