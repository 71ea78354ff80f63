"""What quantization cost, estimated from the dequantized weights alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from conftest import EMBEDDED
from gguf import GGMLQuantizationType as Kind
from gguf.quants import dequantize, quantize
from gguf_files import write_gguf
from tiny_models import tiny_rotary
from torch import Tensor
from transformers import LlamaForCausalLM

from isthmus.align.families import FAMILIES
from isthmus.checkpoint.loading import load
from isthmus.eval.loss import LossMeter
from isthmus.eval.quantization import quantization_cost, steps
from isthmus.eval.text import Text

KINDS = {Kind.Q4_0: 16, Kind.Q4_1: 16, Kind.Q5_0: 32, Kind.Q8_0: 255}


def rounded(weight: Tensor, kind: Kind) -> Tensor:
    return torch.from_numpy(dequantize(quantize(weight.contiguous().numpy(), kind), kind).copy())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("turned", [False, True])
def test_the_step_is_that_of_the_grid(kind: Kind, turned: bool) -> None:
    torch.manual_seed(0)
    weight = torch.randn(64, 128)
    blocks = rounded(weight, kind).view(64, 4, 32)
    if kind is Kind.Q4_1:
        expected = (weight.view(64, 4, 32).amax(-1) - weight.view(64, 4, 32).amin(-1)) / 15
    else:
        expected = weight.view(64, 4, 32).abs().amax(-1) / {Kind.Q4_0: 8, Kind.Q5_0: 16, Kind.Q8_0: 127}[kind]
    dequantized = blocks.reshape(64, 128)
    found = steps(dequantized.mT.contiguous()).mT if turned else steps(dequantized)
    ratio = found.reshape(64, 4, 32)[..., 0] / expected
    assert ratio.median().item() == pytest.approx(1, abs=0.01)
    assert ratio.min() > 0.98
    error = (dequantized - weight).square().mean()
    assert (found.square() / 12).mean().item() == pytest.approx(error.item(), rel=0.1)


def test_a_grid_that_is_not_even_has_steps() -> None:
    torch.manual_seed(0)
    levels = torch.tensor([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113]) / 127  # IQ4_NL
    weight = torch.randn(64, 4, 32)
    scale = weight.abs().amax(-1, keepdim=True)
    nearest = (weight / scale).unsqueeze(-1).sub(levels).abs().argmin(-1)
    dequantized = (levels[nearest] * scale).reshape(64, 128)
    error = (dequantized - weight.reshape(64, 128)).square().mean().item()
    assert 0.5 * error < (steps(dequantized).square() / 12).mean().item() < 1.5 * error


@pytest.mark.parametrize("kind", [None, Kind.F16, Kind.BF16])
def test_what_was_not_quantized_has_no_steps_to_speak_of(kind: Kind | None) -> None:
    torch.manual_seed(0)
    weight = torch.randn(64, 64)
    found = steps(weight if kind is None else rounded(weight, kind))
    assert found.square().mean().sqrt() < {None: 1e-12, Kind.F16: 1e-3, Kind.BF16: 8e-3}[kind]


def test_what_is_constant_has_no_steps() -> None:
    assert not steps(torch.zeros(64, 64)).any()
    assert not steps(torch.ones(3, 5)).any()


@pytest.mark.parametrize("kind", [Kind.Q4_0, Kind.Q4_1])
def test_the_estimate_is_near_the_cost(kind: Kind) -> None:
    model = load(EMBEDDED / "docs", families=FAMILIES)
    text = Text.of_model(["stdlib:docs:heldout"], model.tokenizer(), model.config, context=128, seed=0)
    (part,) = text.blocks(fit_tokens=None, select_tokens=0, report_tokens=8192)
    blocks = {"docs": part.report}
    state = {}
    for name in model.state:
        value = model.state[name]
        if value.ndim < 2 or "wpe" in name:
            state[name] = value
        elif "c_" in name:  # Conv1D
            state[name] = rounded(value.mT, kind).mT.contiguous()
        else:
            state[name] = rounded(value, kind)
    meter = LossMeter(model.config, blocks)
    cost = (meter(state) - meter(dict(model.state))).mean
    estimate = quantization_cost(state, model.config, blocks)
    assert cost > 0.01
    assert 0.5 * cost < estimate.mean < 2 * cost


def test_the_report_of_a_merge_says_it(tmp_path: Path, isthmus) -> None:
    sizes = {"vocab_size": 1024, "hidden_size": 96, "intermediate_size": 64, "num_attention_heads": 6}
    file = write_gguf(tmp_path / "model.gguf", tiny_rotary(LlamaForCausalLM, **sizes), Kind.Q4_1)
    tiny_rotary(LlamaForCausalLM, 1, **sizes).save_pretrained(tmp_path / "other")
    options = ("--data", "stdlib:docs", "--tokens", "512", "--t", "0.5", "--align", "none", "--no-spectrum")
    outcome = isthmus("merge", tmp_path / "other", file, "-o", tmp_path / "out", *options)
    assert outcome.code == 0, outcome.err
    (row,) = json.loads((tmp_path / "out" / "isthmus.json").read_text())["quantized"]
    assert row["model"] == 1
    assert f"B was quantized, which cost it about {row['cost']:.3f} ± {row['stderr']:.3f} nats" in outcome.err
