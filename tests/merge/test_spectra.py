from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from conftest import EMBEDDED, state_of, tiny_config, tiny_model
from group import random_elements
from memory import peak, reset_peak

from isthmus.align.alignment import Alignment
from isthmus.align.families import FAMILIES, family
from isthmus.checkpoint.errors import IncompatibleModels
from isthmus.checkpoint.loading import load
from isthmus.eval.progress import Progress
from isthmus.eval.spectrum import singular_values
from isthmus.merge.spectra import compare_models, spectrum

NAMES = [f"h.{layer}.{kind}" for layer in range(2) for kind in ("q", "k", "v", "o", "fc", "proj")]


def test_every_matrix_with_q_k_and_v_apart() -> None:
    spectra = spectrum(state_of(tiny_model()), tiny_config())
    assert list(spectra) == NAMES
    assert all((values[:-1] >= values[1:]).all() for values in spectra.values())


@pytest.mark.parametrize("kind", ["permutation", "orthogonal"])
def test_the_gauge_does_not_show(kind: str) -> None:
    state, table = state_of(tiny_model()), family(tiny_config())
    there = Alignment("orthogonal" if kind == "orthogonal" else "permutation", random_elements(table, kind), 0.0)
    before, after = spectrum(state, tiny_config()), spectrum(there.apply(state, table), there.config(tiny_config()))
    assert all(torch.allclose(after[name], before[name], rtol=1e-4) for name in before)


def test_optimizers_leave_different_spectra() -> None:
    names = ("adamw-1", "adamw-2", "muon-1", "muon-2")
    record = compare_models([EMBEDDED / name for name in names], Progress())
    distance = {(pair["a"], pair["b"]): pair["distance"] for pair in record["distances"]}
    same = max(distance["adamw-1", "adamw-2"], distance["muon-1", "muon-2"])
    across = min(value for (a, b), value in distance.items() if a[:4] != b[:4])
    assert same < 0.1 < 0.2 < 0.5 < across
    rank = {model["ref"]: model["stable_rank"] for model in record["models"]}
    assert all(rank["muon-1"][kind] > rank["adamw-1"][kind] for kind in ("q", "o", "fc", "proj"))


def test_models_of_other_depth_are_refused(saved) -> None:
    with pytest.raises(IncompatibleModels, match="'deep' has other matrices than the first model"):
        compare_models([saved("m"), saved("deep", n_layer=3)], Progress())


@pytest.mark.parametrize("shape", [(9000, 40), (40, 9000), (64, 64)])
def test_singular_values_are_those_of_an_svd(shape: tuple[int, int]) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    expected = torch.linalg.svdvals(matrix.double())
    assert torch.allclose(singular_values(matrix), expected, rtol=1e-6)


def test_a_state_on_disk_is_measured_piece_by_piece(tmp_path: Path) -> None:
    """Peak memory above what the process holds, of a model that is many times as large as one of its layers."""
    tiny_model(n_layer=24, n_embd=256, n_head=4).save_pretrained(tmp_path)
    lazy = load(tmp_path, families=FAMILIES)
    whole = 4 * sum(math.prod(shape) for shape in lazy.schema.shapes.values())
    spectrum({**lazy.state}, lazy.config)  # what the libraries take is taken
    reset_peak()
    before = peak()
    spectrum(lazy.state, lazy.config)
    assert peak() - before < whole / 2
