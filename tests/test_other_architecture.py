"""The whole tool on an architecture that it does not come with: GPT-NeoX, by the table in `gpt_neox` alone."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from conftest import EMBEDDED
from gpt_neox import tiny_neox
from merging import combine, merge
from transformers import GPTNeoXForCausalLM

import isthmus
from isthmus.align.families import FAMILIES
from isthmus.align.families.gpt_neox import gpt_neox
from isthmus.align.pipeline import align_states
from isthmus.merge.plans import LearnPlan

DATA = ["stdlib:docs"]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two random models on disk, with the tokenizer of the embedded checkpoints."""
    source, folder = EMBEDDED / "adamw-1", tmp_path_factory.mktemp("neox")
    rows = json.loads((source / "config.json").read_text())["vocab_size"]
    for seed, name in enumerate("ab"):
        tiny_neox(seed, vocab_size=rows, max_position_embeddings=64).save_pretrained(folder / name)
        for file in source.glob("tokenizer*"):
            shutil.copy(file, folder / name)
    return folder / "a", folder / "b"


def test_it_is_checked_and_measured(pair: tuple[Path, Path]) -> None:
    result = isthmus.check(*pair, families=FAMILIES)
    assert result.mergeable
    assert not any("not known" in str(finding) for finding in result.findings)
    model = isthmus.load(pair[0])
    assert list(isthmus.spectrum(dict(model.state), model.config)) == list(gpt_neox(model.config).matrices)


@pytest.mark.parametrize("method", ["permutation", "orthogonal"])
def test_it_is_aligned_in_memory_and_layer_by_layer(pair: tuple[Path, Path], method: str) -> None:
    aligned = isthmus.align_models(*pair, method)  # type: ignore[arg-type]
    assert aligned.max_log_prob_error < 1e-4
    a, b = map(isthmus.load, pair)
    streamed = align_states(a.state, b.state, a.config, method, stream=True)  # type: ignore[arg-type]
    assert streamed.alignment.score == pytest.approx(aligned.alignment.score, abs=1e-6)


@pytest.mark.parametrize("method", ["none", "activations", "combined", "learned"])
def test_it_is_merged(pair: tuple[Path, Path], method: str, tmp_path: Path) -> None:
    merged = merge(*pair, data=DATA, tokens=256, align=method, learn=LearnPlan(steps=2, batch=2))
    merged.save(tmp_path / "merged")
    assert merged.report["alignment"]["method"] in (method, "combined")  # learning may not help
    assert GPTNeoXForCausalLM.from_pretrained(tmp_path / "merged").config.num_hidden_layers == 2


def test_it_is_averaged_by_what_goes_into_its_maps(pair: tuple[Path, Path], tmp_path: Path) -> None:
    merged = combine(isthmus.recipe("regmean", list(pair)), data=DATA, tokens=256)
    merged.save(tmp_path / "merged")
    assert GPTNeoXForCausalLM.from_pretrained(tmp_path / "merged")
