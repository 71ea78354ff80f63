"""What is not tried because it surely opens does open: any configuration that a table calls sound."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, GenerationConfig

from isthmus.align.families import FAMILIES
from isthmus.align.families.gpt2 import FIELDS, OTHER_KEYS
from isthmus.checkpoint import trial_loading
from isthmus.checkpoint.config import build_config, schema_of
from isthmus.checkpoint.config_limits import require_numbers
from isthmus.checkpoint.errors import CorruptCheckpoint, IsthmusError
from isthmus.checkpoint.reference import Reference
from isthmus.checkpoint.source import Source
from isthmus.checkpoint.trial_loading import GENERATION_FIELDS, require_opens

# As older and newer versions of transformers write it.
SMALL = {"n_embd": 8, "n_layer": 1, "n_head": 2, "n_positions": 16, "vocab_size": 32, "model_type": "gpt2"}
OLD = SMALL | {
    "activation_function": "gelu_new",
    "architectures": ["GPT2LMHeadModel"],
    "attn_pdrop": 0.1,
    "bos_token_id": 31,
    "embd_pdrop": 0.1,
    "eos_token_id": 31,
    "initializer_range": 0.02,
    "layer_norm_epsilon": 1e-05,
    "n_ctx": 16,
    "resid_pdrop": 0.1,
    "summary_activation": None,
    "summary_first_dropout": 0.1,
    "summary_proj_to_labels": True,
    "summary_type": "cls_index",
    "summary_use_proj": True,
    "task_specific_params": {"text-generation": {"do_sample": True, "max_length": 50}},
}
VALUES = (
    *(0, 1, -1, 2, 3, 8, 31, 32, 1000, 2**40, 0.0, 0.5, 1.0, 1e-5, -0.5, 5.0, float("inf"), float("nan")),
    *(True, False, None, "gelu", "relu", "gelu_new", "gelu_newer", "float16", "float64", "gpt2", "", "cls_index"),
    *([], [1, 2], ["GPT2LMHeadModel"], [None], {}, {"0": "a"}, {"a": 1}, {"text-generation": {"max_length": 5}}),
)
KEYS = sorted(FIELDS.keys() | OTHER_KEYS | {"rope_theta", "attn_implementation", "num_labels", "max_length"})
LARGEST, LAYERS = 1000, 8


def is_sound(facts: dict[str, Any]) -> bool:
    try:
        require_numbers(facts, "a")  # as when a model is opened: transformers makes a name for each of 2⁴⁰ labels
        return schema_of(facts, "a", FAMILIES).sound
    except IsthmusError:
        return False


@pytest.mark.parametrize("facts", [SMALL, OLD, SMALL | {"n_inner": 16, "dtype": "bfloat16", "eos_token_id": [1, 2]}])
def test_usual_configurations_are_sound(facts: dict[str, Any]) -> None:
    assert is_sound(facts)


@pytest.mark.parametrize(
    "other",
    [
        *(
            {"activation_function": "gelu_newer"},
            {"resid_pdrop": 5},
            {"n_head": 3},
            {"eos_token_id": 32},
            {"n_layer": 0},
        ),
        *({"attn_implementation": "spiral"}, {"num_labels": -1}, {"return_dict": False}, {"architectures": [None]}),
        *({"layer_norm_epsilon": float("nan")}, {"id2label": {"a": 1}}, {"hidden_size": 8}, {"n_positions": "16"}),
    ],
)
def test_what_is_unusual_is_tried(other: dict[str, Any]) -> None:
    assert not is_sound(OLD | other)


@pytest.mark.parametrize("key", KEYS)
def test_every_value_that_is_sound_runs(key: str) -> None:
    for value in VALUES:
        require_runs_if_sound({key: value})


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(st.sampled_from(KEYS), st.sampled_from(VALUES), min_size=2, max_size=3))
def test_values_that_are_sound_together_run(other: dict[str, Any]) -> None:
    require_runs_if_sound(other)


def require_runs_if_sound(other: dict[str, Any]) -> None:
    facts = OLD | other | {"model_type": "gpt2"}
    if type(facts["n_layer"]) is int and facts["n_layer"] > LAYERS:
        return  # `check` compares layers with the files before a table is made
    if not is_sound(facts):
        return
    config = build_config(facts, "a")
    sizes = (config.vocab_size, config.n_positions, config.n_layer, config.n_embd, config.n_inner or 0)
    if max(sizes) > LARGEST:
        return
    model = AutoModelForCausalLM.from_config(config).eval()
    logits = model(torch.zeros(1, min(4, config.n_positions), dtype=torch.long)).logits
    assert logits.shape[-1] == config.vocab_size
    shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    assert shapes == schema_of(facts, "a", FAMILIES).shapes


@given(
    st.dictionaries(
        st.sampled_from([*GENERATION_FIELDS, "temperature", "max_new_tokens"]), st.sampled_from(VALUES), max_size=3
    )
)
@settings(max_examples=100, deadline=None)
def test_generation_settings_that_are_not_tried_are_read(content: dict[str, Any]) -> None:
    content = json.loads(json.dumps(content).replace("Infinity", "1e300").replace("NaN", "0"))
    with tempfile.TemporaryDirectory() as folder:
        for name, facts in (("config.json", SMALL), ("generation_config.json", content)):
            Path(folder, name).write_text(json.dumps(facts))
        if trial_loading._is_plain(Source(Reference(directory=Path(folder)))):
            GenerationConfig.from_pretrained(folder)


def test_files_of_a_sound_configuration_are_compared_with_its_tensors(saved) -> None:
    require_opens(saved("right"), "out", FAMILIES)
    for name, layers, message in (("fewer", 1, "has an unexpected tensor"), ("more", 3, "lacks the tensor")):
        file = saved(name) / "config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), "n_layer": layers}))
        with pytest.raises(CorruptCheckpoint, match=message):
            require_opens(file.parent, "out", FAMILIES)


def test_a_plain_average_and_a_check_need_no_model_of_transformers(saved, tmp_path: Path) -> None:
    a, b = saved("a"), saved("b", 1)
    script = """
import sys
from isthmus.cli import app
try:
    app(sys.argv[1:])
except SystemExit as end:
    assert not end.code, end.code
assert "transformers.modeling_utils" not in sys.modules
"""
    for command in (["check", a, b], ["merge", a, b, "--method", "linear", "-o", tmp_path / "out"]):
        subprocess.run([sys.executable, "-c", script, *map(str, command)], check=True, capture_output=True)
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "out").config.n_embd
