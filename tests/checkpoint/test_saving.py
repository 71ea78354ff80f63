from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections import UserDict
from pathlib import Path

import pytest
import torch
from conftest import state_of, tiny_config, tiny_model
from safetensors.torch import load_file

from isthmus.checkpoint.errors import BadInput, IsthmusError, NotFinite
from isthmus.checkpoint.headers import read_header
from isthmus.checkpoint.manifest import sealed
from isthmus.checkpoint.saving import atomic_directory, write_json
from isthmus.checkpoint.serialization import save_small_files, save_weights

STATE = state_of(tiny_model())
SHAPES = {name: tuple(value.shape) for name, value in STATE.items()}


def content(directory: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in directory.iterdir() if path.name != "isthmus.json"}


def seal(directory: Path) -> None:
    """Make a directory one that isthmus wrote."""
    write_json(directory / "isthmus.json", sealed({"schema": 1, "command": "merge"}, directory))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_weights_are_read_back_by_safetensors(tmp_path: Path, dtype: torch.dtype) -> None:
    save_weights(tmp_path, SHAPES, STATE, dtype)
    found = load_file(tmp_path / "model.safetensors")
    assert found.keys() == STATE.keys()
    assert all(torch.equal(found[name], STATE[name].to(dtype)) for name in STATE)
    read_header(tmp_path / "model.safetensors", "m")


def test_tensors_that_are_not_contiguous(tmp_path: Path) -> None:
    value = torch.arange(12.0).view(3, 4).T
    save_weights(tmp_path, {"x": (4, 3)}, {"x": value}, torch.float32)
    assert torch.equal(load_file(tmp_path / "model.safetensors")["x"], value)


def test_shards_are_loaded_by_transformers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import AutoModelForCausalLM

    monkeypatch.setattr("isthmus.checkpoint.serialization.SHARD_BYTES", 20_000)
    save_weights(tmp_path, SHAPES, STATE, torch.float32)
    save_small_files(tmp_path, tiny_config().to_diff_dict(), {}, torch.float32)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    files = {path.name for path in tmp_path.glob("*.safetensors")}
    assert len(files) > 2
    assert set(index["weight_map"].values()) == files
    model, report = AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"]
    assert all(torch.equal(value, STATE[name]) for name, value in model.named_parameters())


class Asked(UserDict[str, torch.Tensor]):
    """A state that remembers which tensors were looked up."""

    def __init__(self, state: dict[str, torch.Tensor]):
        super().__init__(state)
        self.asked: list[str] = []

    def __getitem__(self, name: str) -> torch.Tensor:
        self.asked.append(name)
        return super().__getitem__(name)


def test_one_tensor_at_a_time(tmp_path: Path) -> None:
    state = Asked(STATE)
    save_weights(tmp_path, SHAPES, state, torch.float32)
    assert state.asked == list(SHAPES)


def test_the_configuration_names_its_class_and_dtype(tmp_path: Path) -> None:
    save_small_files(tmp_path, tiny_config().to_diff_dict(), {}, torch.bfloat16)
    found = json.loads((tmp_path / "config.json").read_text())
    assert found["architectures"] == ["GPT2LMHeadModel"]
    assert found["dtype"] == "bfloat16"
    assert "_name_or_path" not in found


def test_a_directory_appears_whole(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "out"
    with atomic_directory(target) as directory:
        (directory / "a").write_text("1")
        assert not target.exists()
    assert content(target) == {"a": "1"}
    assert [path.name for path in target.parent.iterdir()] == ["out"]


def fail_with(error: BaseException, target: Path) -> None:
    with atomic_directory(target, overwrite=True) as directory:
        (directory / "a").write_text("new")
        raise error


@pytest.mark.parametrize("error", [RuntimeError(), KeyboardInterrupt(), SystemExit()])
def test_or_not_at_all(tmp_path: Path, error: BaseException) -> None:
    with pytest.raises(type(error)):
        fail_with(error, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_overwriting_replaces_everything(tmp_path: Path) -> None:
    for text in ("old", "new"):
        with atomic_directory(tmp_path / "out", overwrite=True) as directory:
            (directory / text).write_text(text)
            seal(directory)
    assert content(tmp_path / "out") == {"new": "new"}
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_failure_while_overwriting_leaves_the_old(tmp_path: Path) -> None:
    with atomic_directory(tmp_path / "out") as directory:
        (directory / "a").write_text("old")
        seal(directory)
    with pytest.raises(KeyboardInterrupt):
        fail_with(KeyboardInterrupt(), tmp_path / "out")
    assert content(tmp_path / "out") == {"a": "old"}


SCRIPT = """
import os, signal, sys
from pathlib import Path
from isthmus.checkpoint import saving
from isthmus.checkpoint.manifest import sealed
from isthmus.checkpoint.saving import write_json
moment, target = sys.argv[1:]
die = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)
if moment == "before the exchange":
    saving._exchange = die
elif moment == "after the exchange":
    saving.shutil.rmtree = die
with saving.atomic_directory(target, overwrite=True) as directory:
    for name in ("a", "b"):
        (directory / name).write_text("new")
        if moment == "between two files":
            die()
    write_json(directory / "isthmus.json", sealed({"command": "merge"}, directory))
"""


@pytest.mark.parametrize(
    ("moment", "survivor"),
    [("between two files", "old"), ("before the exchange", "old"), ("after the exchange", "new")],
)
def test_killed_at_any_moment_it_is_the_old_or_the_new(tmp_path: Path, moment: str, survivor: str) -> None:
    target = tmp_path / "out"
    with atomic_directory(target) as directory:
        for name in ("a", "b"):
            (directory / name).write_text("old")
        seal(directory)
    done = subprocess.run([sys.executable, "-c", SCRIPT, moment, str(target)])
    assert done.returncode == -signal.SIGKILL
    assert content(target) == {"a": survivor, "b": survivor}
    with atomic_directory(target, overwrite=True) as directory:
        (directory / "c").write_text("c")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_an_exchange_that_the_system_does_not_know(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from isthmus.checkpoint import saving

    monkeypatch.setattr(saving, "_swap", lambda first, second: False)
    test_overwriting_replaces_everything(tmp_path)


def test_a_link_and_a_file_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path)
    for name in ("file", "link"):
        with (
            pytest.raises(BadInput, match=f"'{name}' exists and is not a directory"),
            atomic_directory(tmp_path / name, overwrite=True),
        ):
            pass


def test_a_write_that_fails_is_one_sentence(tmp_path: Path) -> None:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    try:
        with (
            pytest.raises(IsthmusError, match="could not write 'out': File too large; nothing was changed"),
            atomic_directory(tmp_path / "out") as directory,
        ):
            save_weights(directory, SHAPES, STATE, torch.float32)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == []


def test_json_refuses_nan(tmp_path: Path) -> None:
    with pytest.raises(NotFinite, match=r"'a\.1\.b' in 'x\.json' would be NaN or Inf"):
        write_json(tmp_path / "x.json", {"a": [{"b": 1.0}, {"b": float("nan")}]})
