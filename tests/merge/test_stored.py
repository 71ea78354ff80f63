from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from isthmus.align.families import family
from isthmus.align.pipeline import align_states
from isthmus.checkpoint.errors import BadInput
from isthmus.checkpoint.loading import Checkpoint, load
from isthmus.eval.text_hashes import TextHashes
from isthmus.merge.path import WeightPath
from isthmus.merge.saved_path import read_path, write_path

SEEN = TextHashes.of([torch.arange(20).view(2, 10)])


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
