"""The whole tool on other architectures than GPT-2: from the check to a model that transformers opens."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from conftest import EMBEDDED
from merging import combine, merge
from tiny_models import tiny_neox, tiny_rotary
from transformers import AutoModelForCausalLM, Gemma2ForCausalLM, LlamaForCausalLM, PreTrainedModel, Qwen3ForCausalLM

import isthmus
from isthmus.align.families import FAMILIES, family
from isthmus.align.pipeline import align_states
from isthmus.merge.plans import CurvePlan, LearnPlan, PathTraining

DATA = ["stdlib:docs"]
MODELS: dict[str, Callable[..., PreTrainedModel]] = {
    "gpt_neox": tiny_neox,
    "llama": partial(tiny_rotary, LlamaForCausalLM),
    "qwen3": partial(tiny_rotary, Qwen3ForCausalLM, head_dim=8),
    "gemma2": partial(tiny_rotary, Gemma2ForCausalLM, head_dim=8),
}
Pair = tuple[Path, Path]


@pytest.fixture(scope="module", params=MODELS)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """Two random models on disk, with the tokenizer of the embedded checkpoints and a context that fits no block."""
    source, folder = EMBEDDED / "adamw-1", tmp_path_factory.mktemp(request.param)
    rows = json.loads((source / "config.json").read_text())["vocab_size"]
    for seed, name in enumerate("ab"):
        model = MODELS[request.param](seed, vocab_size=rows, max_position_embeddings=131072)
        model.save_pretrained(folder / name)
        for file in source.glob("tokenizer*"):
            shutil.copy(file, folder / name)
    return folder / "a", folder / "b"


def test_it_is_checked_and_measured(pair: Pair) -> None:
    result = isthmus.check(*pair, families=FAMILIES)
    assert result.mergeable
    assert not any("not known" in str(finding) for finding in result.findings)
    (apart,) = (str(finding) for finding in result.findings if "independently" in str(finding))
    assert ("not rotated" in apart) == ("gemma2" in str(pair[0]))
    model = isthmus.load(pair[0])
    assert list(isthmus.spectrum(dict(model.state), model.config)) == list(family(model.config).matrices)


@pytest.mark.parametrize("method", ["permutation", "orthogonal"])
def test_it_is_aligned_in_memory_and_layer_by_layer(pair: Pair, method: str) -> None:
    aligned = isthmus.align_models(*pair, method)  # type: ignore[arg-type]
    assert aligned.max_log_prob_error < 1e-4
    a, b = map(isthmus.load, pair)
    streamed = align_states(a.state, b.state, a.config, method, stream=True)  # type: ignore[arg-type]
    assert streamed.alignment.score == pytest.approx(aligned.alignment.score, abs=1e-6)


@pytest.mark.parametrize("method", ["none", "combined", "learned"])
def test_it_is_merged(pair: Pair, method: str, tmp_path: Path) -> None:
    merged = merge(*pair, data=DATA, tokens=256, context=64, align=method, learn=LearnPlan(steps=2, batch=2))
    merged.save(tmp_path / "merged")
    assert merged.report["alignment"]["method"] in (method, "combined", "orthogonal")  # learning may not help
    assert {part["block"] for part in merged.report["data"]} == {64}
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    assert model.config.num_hidden_layers == 2


def test_it_is_merged_along_a_curve(pair: Pair, tmp_path: Path) -> None:
    plan = CurvePlan(training=PathTraining(steps=2, batch=2, optimizer="muon"))
    merged = merge(*pair, data=DATA, tokens=256, context=64, align="orthogonal", path=plan)
    merged.save(tmp_path / "merged")
    assert len(merged.path.bends) == 1


@pytest.mark.parametrize("method", ["regmean", "fisher"])
def test_it_is_averaged_by_what_it_does_with_text(pair: Pair, method: str, tmp_path: Path) -> None:
    merged = combine(isthmus.recipe(method, list(pair)), data=DATA, tokens=256, context=64)
    merged.save(tmp_path / "merged")
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "merged")


def test_a_table_that_does_not_cover_the_file_names_the_tensor(pair: Pair, tmp_path: Path) -> None:
    """The configuration says what the file does not have."""
    shutil.copytree(pair[1], tmp_path / "b")
    facts = json.loads((tmp_path / "b" / "config.json").read_text())
    (tmp_path / "b" / "config.json").write_text(json.dumps({**facts, "intermediate_size": 72}))
    result = isthmus.check(pair[0], tmp_path / "b", families=FAMILIES)
    assert not result.mergeable
    assert any("mlp" in str(finding) for finding in result.findings)
