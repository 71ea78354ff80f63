from __future__ import annotations

import json
import math
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from conftest import state_of, tiny_model
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from isthmus.align.families import family
from isthmus.align.pipeline import align_states
from isthmus.checkpoint.errors import BadInput
from isthmus.checkpoint.loading import Checkpoint, load
from isthmus.eval.text_hashes import TextHashes
from isthmus.merge.path import WeightPath, coefficients
from isthmus.merge.saved_path import read_path, write_path

A, B, M, N = (state_of(tiny_model(seed)) for seed in range(4))
PATHS = {
    "linear": WeightPath("linear", A, B),
    "polychain 1": WeightPath("polychain", A, B, (M,)),
    "polychain 2": WeightPath("polychain", A, B, (M, N)),
    "bezier 1": WeightPath("bezier", A, B, (M,)),
    "bezier 2": WeightPath("bezier", A, B, (M, N)),
}
SEEN = TextHashes.of([torch.arange(20).view(2, 10)])


@pytest.mark.parametrize("kind", PATHS)
def test_a_path_hits_its_endpoints_exactly(kind: str) -> None:
    path = PATHS[kind]
    for name in A:
        assert torch.equal(path(0.0)[name], A[name])
        assert torch.equal(path(1.0)[name], B[name])


@pytest.mark.parametrize("t", [0.1, 0.5, 0.83])
def test_a_line_is_a_weighted_average(t: float) -> None:
    found = PATHS["linear"](t)
    assert list(found) == list(A)
    assert len(found) == len(A)
    for name in A:
        expected = (1 - t) * A[name].double() + t * B[name].double()
        assert torch.allclose(found[name].double(), expected, atol=1e-6)


def test_a_polychain_passes_through_its_bends_in_straight_segments() -> None:
    path = PATHS["polychain 2"]
    for name in A:
        assert torch.allclose(path(1 / 3)[name], M[name], atol=1e-6)
        assert torch.allclose(path(2 / 3)[name], N[name], atol=1e-6)
        assert torch.allclose(path(0.5)[name], (M[name] + N[name]) / 2, atol=1e-6)
        assert torch.allclose(path(1 / 6)[name], (A[name] + M[name]) / 2, atol=1e-6)


@pytest.mark.parametrize("t", [0.2, 0.5, 0.9])
def test_a_bezier_curve_is_de_casteljaus(t: float) -> None:
    """Repeated straight interpolation of neighbours, in float64, is the slow way to the same point."""
    for kind in ("bezier 1", "bezier 2"):
        path = PATHS[kind]
        for name in A:
            points = [state[name].double() for state in path.points]
            while len(points) > 1:
                points = [(1 - t) * x + t * y for x, y in pairwise(points)]
            assert torch.allclose(path(t)[name].double(), points[0], atol=1e-6)


@given(st.sampled_from(["linear", "polychain", "bezier"]), st.floats(0, 1), st.integers(2, 6))
def test_coefficients_are_a_partition_of_one(kind: str, t: float, points: int) -> None:
    found = coefficients(kind, t, points)  # type: ignore[arg-type]
    assert len(found) == points
    assert min(found) >= 0
    assert math.isclose(sum(found), 1, abs_tol=1e-9)


def test_tensors_are_made_when_they_are_looked_up() -> None:
    seen = []

    class Watched(dict):
        def __getitem__(self, name: str) -> torch.Tensor:
            seen.append(name)
            return super().__getitem__(name)

    found = WeightPath("linear", Watched(A), B)(0.5)
    assert seen == []
    found["transformer.wpe.weight"]
    assert seen == ["transformer.wpe.weight"]


@pytest.fixture
def pair(saved) -> tuple[Checkpoint, Checkpoint]:
    return load(saved("a")), load(saved("b", 1))


@pytest.fixture
def stored(pair, tmp_path: Path) -> tuple[Path, WeightPath]:
    first, second = pair
    aligned = align_states(first.state, second.state, first.config)
    bends = tuple({name: torch.randn_like(value) for name, value in aligned.a.items()} for _ in range(11))
    path = WeightPath("bezier", aligned.a, aligned.b, bends)
    (tmp_path / "path").mkdir()
    write_path(tmp_path / "path", path, aligned.alignment, pair, {"steps": 7}, SEEN)
    return tmp_path / "path", path


def test_a_path_comes_back_as_it_was(pair, stored) -> None:
    directory, path = stored
    found = read_path(directory, *pair)
    assert found.training == {"steps": 7}
    assert found.seen == SEEN
    assert found.alignment.method == "orthogonal"
    assert found.path.kind == "bezier"
    assert len(found.path.bends) == 11
    for t in (0.0, 0.3, 1.0):
        for name, value in path(t).items():
            assert torch.allclose(found.path(t)[name], value, atol=1e-6), name
    assert found.path.a.keys() == family(pair[0].config).untied().schema().shapes.keys()


def test_only_a_directory_with_a_path_holds_one(stored, tmp_path: Path, pair) -> None:
    with pytest.raises(BadInput, match="holds no path saved by isthmus, or a damaged one"):
        read_path(tmp_path, *pair)


def test_a_path_between_other_models_is_refused(saved, stored, pair) -> None:
    directory, _ = stored
    with pytest.raises(BadInput, match="'path' leads from 'a' and 'b': give them in that order"):
        read_path(directory, pair[1], pair[0])
    with pytest.raises(BadInput, match="'path' leads from 'a' and 'b', whose weights are not those of these two"):
        read_path(directory, pair[0], load(saved("c", 2)))


def test_one_changed_weight_is_another_model(stored, pair, tmp_path: Path) -> None:
    file = tmp_path / "b" / "model.safetensors"
    tensors = load_file(file)
    name = next(iter(tensors))
    tensors[name].view(-1)[0] += 1e-3
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(BadInput, match="are not those of these two"):
        read_path(stored[0], pair[0], load(tmp_path / "b"))


@pytest.mark.parametrize("file", ["path.json", "bends.safetensors", "alignment.safetensors", "seen.safetensors"])
def test_a_damaged_path_is_refused(stored, pair, file: str) -> None:
    directory, _ = stored
    (directory / file).write_bytes((directory / file).read_bytes()[:40])
    with pytest.raises(BadInput):
        read_path(directory, *pair)


def test_others_can_read_what_is_written(stored) -> None:
    for file in stored[0].iterdir():
        assert file.stat().st_mode & 0o444 == 0o444, file.name


def test_no_weight_of_the_endpoints_is_stored_again(stored) -> None:
    content = json.loads((stored[0] / "path.json").read_text())
    assert [end["ref"] for end in content["endpoints"]] == ["a", "b"]
    assert {key.split("/")[0] for key in load_file(stored[0] / "bends.safetensors")} == {str(n) for n in range(11)}
