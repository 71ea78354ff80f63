"""Which keys of config.json block a merge: those that the models compute with, and no others."""

from __future__ import annotations

from pathlib import Path

import pytest
from altered_models import config, without

from isthmus.align.families import FAMILIES
from isthmus.checkpoint.check import check
from isthmus.checkpoint.errors import CorruptCheckpoint
from isthmus.checkpoint.inputs import open_inputs

BOOKKEEPING: list[dict[str, object]] = [
    {"unsloth_version": "2025.1.2"},
    {"_attn_implementation_autoset": True},
    {"finetuning_task": "sst2"},
    {"unsloth_fixed": True, "model_parallel": True},
    {"task_specific_params": {"text-generation": {"max_length": 50}}},
    {"my_lab": {"run": 7, "notes": ["a", "b"]}},
    {"_name_or_path": "somewhere/else", "transformers_version": "4.1.0"},
    {"attn_implementation": "sdpa", "use_flash_attention": True},
    {"attn_pdrop": 0.3, "resid_pdrop": 0.3, "embd_pdrop": 0.3, "summary_first_dropout": 0.3},
]
LLAMA = {
    "vocab_size": 128, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64,
    "max_position_embeddings": 64,
}  # fmt: skip


@pytest.fixture
def llamas(tmp_path: Path) -> tuple[Path, Path]:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    for seed, name in enumerate(("a", "b")):
        torch.manual_seed(seed)
        LlamaForCausalLM(LlamaConfig(**LLAMA)).save_pretrained(tmp_path / name)
    return tmp_path / "a", tmp_path / "b"


def kinds(a: Path, b: Path) -> dict[str, str]:
    found = check(a, b, families=FAMILIES).findings
    return {finding.kind: str(finding) for finding in reversed(found) if finding.where == "config.json"}


@pytest.mark.parametrize("changes", BOOKKEEPING, ids=lambda changes: next(iter(changes)))
@pytest.mark.parametrize("families", [FAMILIES, None], ids=["table", "no table"])
def test_bookkeeping_is_at_most_a_note(saved, changes: dict[str, object], families) -> None:
    a, b = saved("a"), saved("b", 1)
    config(**changes)(b)
    for pair in ((a, b), (b, a)):
        result = check(*pair, families=families)
        assert {finding.kind for finding in result.findings} <= {"notes"}


def test_one_note_lists_the_keys(saved) -> None:
    a, b = saved("a"), saved("b", 1)
    config(unsloth_version="2025.1", finetuning_task="sst2", _private=1)(b)
    assert kinds(a, b) == {
        "notes": "the configurations also differ in 'finetuning_task', 'unsloth_version', which do not "
        "change what the models compute: the merge takes the values of 'a'"
    }


@pytest.mark.parametrize("changes", [{"unsloth_version": "1"}, {"attention_dropout": 0.1}, {"pretraining_tp": 2}])
def test_bookkeeping_without_a_table(llamas, changes: dict[str, object]) -> None:
    config(**changes)(llamas[1])
    assert "blocks" not in kinds(*llamas)
    assert check(*llamas, families=FAMILIES).mergeable


@pytest.mark.parametrize(
    ("changes", "kind", "sentence"),
    [
        (
            {"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}},
            "blocks",
            "the base of the rotary position encoding differs: 10000.0 in 'a', 500000.0 in 'b': positions turn",
        ),
        (
            {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}},
            "blocks",
            "the factor by which rotary positions are scaled differs: None in 'a', 2.0 in 'b'",
        ),
        ({"num_key_value_heads": 2}, "blocks", "the number of keys and values differs: 4 in 'a', 2 in 'b': other"),
        ({"num_attention_heads": 2}, "blocks", "the number of heads differs: 4 in 'a', 2 in 'b': the same rows"),
        ({"head_dim": 16}, "blocks", "the size of heads differs: 8 in 'a', 16 in 'b': the same rows"),
        ({"attention_bias": True}, "blocks", "the bias of attention differs: False in 'a', True in 'b'"),
        ({"tie_word_embeddings": True}, "notes", "only 'b' ties its output to its embedding: the merge will be untied"),
        ({"max_position_embeddings": 128}, "degrades", "one has not seen longer texts"),
        ({"model_type": "mixtral"}, "blocks", "'a' is of type 'llama', 'b' of type 'mixtral'"),
        ({"hidden_act": "relu"}, "blocks", "hidden_act differs: silu in 'a', relu in 'b'"),
        ({"rms_norm_eps": 1e-5}, "degrades", "by which norms scale a vector with a mean square of 0.001 by 0.4% more"),
        ({"hidden_act": "swish"}, None, ""),
    ],
)
def test_what_a_difference_does_is_a_sentence(llamas, changes, kind: str | None, sentence: str) -> None:
    """Before any weight is read, and in whichever order the models come."""
    config(**changes)(llamas[1])
    found = [f for f in check(*llamas, families=FAMILIES).findings if f.where == "config.json"]
    if kind is None:
        assert not {"blocks", "notes"} & {finding.kind for finding in found}
    else:
        assert any(sentence in str(finding) and finding.kind == kind for finding in found), found
    assert check(*reversed(llamas), families=FAMILIES).mergeable == (kind != "blocks")


def test_text_is_cut_for_the_model_with_the_shorter_context(llamas) -> None:
    config(max_position_embeddings=32)(llamas[1])
    for pair in (llamas, llamas[::-1]):
        assert open_inputs(pair, families=FAMILIES).context == 32


WINDOWED = {
    "sliding_window": (32, 16, "the window of attention differs: 32 in 'a', 16 in 'b': one attends to tokens"),
    "final_logit_softcapping": (30.0, None, "the cap of the logits differs: 30.0 in 'a', None in 'b'"),
    "attn_logit_softcapping": (50.0, 20.0, "the cap of the attention scores differs"),
    "query_pre_attn_scalar": (16, 32, "the scale of the attention scores differs: 16 in 'a', 32 in 'b'"),
    "layer_types": (
        ["sliding_attention", "full_attention"],
        ["full_attention", "full_attention"],
        "the kind of attention by layer differs",
    ),
}


@pytest.mark.parametrize("key", WINDOWED)
def test_what_a_gemma_attends_to(tmp_path: Path, key: str) -> None:
    from transformers import Gemma2Config, Gemma2ForCausalLM

    *values, sentence = WINDOWED[key]
    for name, value in zip("ab", values, strict=True):
        Gemma2ForCausalLM(Gemma2Config(**LLAMA, head_dim=8, num_key_value_heads=2, **{key: value})).save_pretrained(
            tmp_path / name
        )
    found = kinds(tmp_path / "a", tmp_path / "b")
    assert sentence in found["blocks"]


@pytest.mark.parametrize(
    ("alter", "of_llama"),
    [
        (without("n_ctx", "layer_norm_epsilon", "activation_function", "scale_attn_weights"), False),
        (config(activation_function="gelu_pytorch_tanh"), False),
        (without("head_dim", "num_key_value_heads", "rope_parameters", "hidden_act"), True),
        (config(head_dim=8, num_key_value_heads=4, rope_parameters=None), True),
        (config(rope_theta=10000), True),
    ],
)
def test_values_that_are_equal_after_defaults_are_equal(saved, llamas, tmp_path, alter, of_llama: bool) -> None:
    a, b = llamas if of_llama else (saved("x"), saved("y", 1))
    alter(b)
    assert not {"blocks", "notes"} & kinds(a, b).keys()


def test_the_hidden_units_that_are_understood(saved) -> None:
    a, b = saved("a", n_inner=128), saved("b", 1, n_inner=None)
    assert kinds(a, b) == {}


def test_advice_is_true_where_nothing_can_be_aligned(tmp_path: Path) -> None:
    from transformers import StableLmConfig, StableLmForCausalLM

    for name in "ab":
        StableLmForCausalLM(StableLmConfig(**LLAMA)).save_pretrained(tmp_path / name)
    said = [str(finding) for finding in check(tmp_path / "a", tmp_path / "b", families=FAMILIES).findings]
    assert any("isthmus cannot align models of this type yet" in sentence for sentence in said)
    assert not any("--align auto" in sentence for sentence in said)


@pytest.mark.parametrize("value", [{"a": 1}, [1], "x", None, 1.5, 0, True])
@pytest.mark.parametrize("key", ["hidden_size", "num_hidden_layers", "max_position_embeddings"])
def test_another_name_of_a_size_with_a_wrong_value_is_one_sentence(saved, key: str, value: object) -> None:
    a, b = saved("a"), saved("b", 1)
    config(**{key: value})(b)
    if (key, value) == ("max_position_embeddings", [1]):  # transformers makes a configuration of it
        assert not check(a, b, families=FAMILIES).mergeable
        return
    with pytest.raises(CorruptCheckpoint, match=r"config\.json of 'b'"):
        check(a, b, families=FAMILIES)


def test_another_name_of_a_size_counts_as_transformers_has_it(saved) -> None:
    from transformers import AutoConfig

    a, b = saved("a"), saved("b", 1)
    for value in (32, 64):
        config(hidden_size=value)(b)
        mergeable = check(a, b, families=FAMILIES).mergeable
        assert mergeable is (AutoConfig.from_pretrained(b).n_embd == 32)


@pytest.mark.parametrize("value", ["true", {"a": True}, 1.5, ["all"]])
@pytest.mark.parametrize("key", ["output_hidden_states", "output_attentions", "use_cache", "return_dict"])
def test_a_flag_that_is_neither_true_nor_false(saved, key: str, value: object) -> None:
    """transformers builds such a model, and fails when it runs."""
    a, b = saved("a"), saved("b", 1)
    for model in (a, b):
        config(**{key: value})(model)
    with pytest.raises(CorruptCheckpoint, match=rf"config\.json of 'a' says {key} = .*: expected true or false"):
        check(a, b, families=FAMILIES)
