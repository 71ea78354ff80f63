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
from tiny_models import tiny_bert, tiny_neox, tiny_rotary
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoTokenizer,
    BertForMaskedLM,
    Gemma2ForCausalLM,
    LlamaForCausalLM,
    MixtralForCausalLM,
    PreTrainedModel,
    Qwen3ForCausalLM,
)

import isthmus
from isthmus.align.canonical import canonical
from isthmus.align.families import FAMILIES, family
from isthmus.align.pipeline import align_states
from isthmus.merge.plans import CurvePlan, LearnPlan, PathTraining

DATA = ["stdlib:docs"]
MODELS: dict[str, Callable[..., PreTrainedModel]] = {
    "gpt_neox": tiny_neox,
    "llama": partial(tiny_rotary, LlamaForCausalLM),
    "qwen3": partial(tiny_rotary, Qwen3ForCausalLM, head_dim=8),
    "gemma2": partial(tiny_rotary, Gemma2ForCausalLM, head_dim=8),
    "mixtral": partial(tiny_rotary, MixtralForCausalLM, num_local_experts=3),
    "bert": partial(tiny_bert, BertForMaskedLM),
}
Pair = tuple[Path, Path]


@pytest.fixture(scope="module", params=MODELS)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """Two random models on disk, with the tokenizer of the embedded checkpoints and a context that fits no block."""
    folder = tmp_path_factory.mktemp(request.param)
    tokenizer = AutoTokenizer.from_pretrained(EMBEDDED / "adamw-1")
    if request.param == "bert":
        tokenizer.add_special_tokens({"mask_token": "[MASK]", "cls_token": "[CLS]", "sep_token": "[SEP]"})
    for seed, name in enumerate("ab"):
        longest = 131072 if request.param != "bert" else 512
        model = MODELS[request.param](seed, vocab_size=len(tokenizer), max_position_embeddings=longest)
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    return folder / "a", folder / "b"


def opened(directory: Path) -> PreTrainedModel:
    """What transformers makes of it, without a warning."""
    masked = json.loads((directory / "config.json").read_text())["model_type"] == "bert"
    kind = AutoModelForMaskedLM if masked else AutoModelForCausalLM
    model, info = kind.from_pretrained(directory, output_loading_info=True)
    assert not any(info.values()), info
    return model


def test_it_is_checked_and_measured(pair: Pair) -> None:
    result = isthmus.check(*pair, families=FAMILIES)
    assert result.mergeable
    assert not any("not known" in str(finding) for finding in result.findings)
    (apart,) = (str(finding) for finding in result.findings if "independently" in str(finding))
    assert ("not rotated" in apart) == ("gemma2" in str(pair[0]))
    assert ("neither flipped" in apart) == ("bert" in str(pair[0]))
    model = isthmus.load(pair[0])
    table = family(model.config).untied()
    matrices = table.measured(table.split(canonical(model.state, family(model.config))))
    measured = isthmus.spectrum(dict(model.state), model.config)
    assert measured.keys() == matrices.keys()
    assert all(len(measured[name]) == min(matrix.shape) for name, matrix in matrices.items())


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
    assert opened(tmp_path / "merged").config.num_hidden_layers == 2


def test_it_is_merged_along_a_curve(pair: Pair, tmp_path: Path) -> None:
    plan = CurvePlan(training=PathTraining(steps=2, batch=2, optimizer="muon"))
    merged = merge(*pair, data=DATA, tokens=256, context=64, align="orthogonal", path=plan)
    merged.save(tmp_path / "merged")
    assert len(merged.path.bends) == 1


@pytest.mark.parametrize("method", ["regmean", "fisher"])
def test_it_is_averaged_by_what_it_does_with_text(pair: Pair, method: str, tmp_path: Path) -> None:
    merged = combine(isthmus.recipe(method, list(pair)), data=DATA, tokens=256, context=64)
    merged.save(tmp_path / "merged")
    assert opened(tmp_path / "merged")


def test_a_table_that_does_not_cover_the_file_names_the_tensor(pair: Pair, tmp_path: Path) -> None:
    """The configuration says what the file does not have."""
    shutil.copytree(pair[1], tmp_path / "b")
    facts = json.loads((tmp_path / "b" / "config.json").read_text())
    (tmp_path / "b" / "config.json").write_text(json.dumps({**facts, "intermediate_size": 72}))
    result = isthmus.check(pair[0], tmp_path / "b", families=FAMILIES)
    assert not result.mergeable
    assert any(name in str(finding) for finding in result.findings for name in ("mlp", "intermediate"))
