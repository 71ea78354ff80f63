"""A model that is overwritten while it is read: old, new, or refused; never a mixture of two versions."""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from conftest import EMBEDDED, state_of, tiny_model
from torch import Tensor

from isthmus.align.families import FAMILIES
from isthmus.checkpoint.check import check
from isthmus.checkpoint.errors import BadInput, CorruptCheckpoint
from isthmus.checkpoint.file_version import TICK
from isthmus.checkpoint.inputs import open_inputs
from isthmus.checkpoint.loading import Checkpoint, load
from isthmus.checkpoint.rows import in_blocks
from isthmus.checkpoint.source import Source

READS = 20
COARSE = 0.01  # file times are those of the kernel's last tick: a pause may look so much longer than it was


def version(directory: Path, seed: int, form: str) -> Path:
    """A model all of whose files tell one version from another."""
    model = tiny_model(seed, vocab_size=1024)
    if form == "pickle":
        directory.mkdir()
        model.config.save_pretrained(directory)
        torch.save(state_of(model), directory / "pytorch_model.bin")
    else:
        model.save_pretrained(directory, max_shard_size="60kB" if form == "shards" else "1GB")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(EMBEDDED / "docs" / name, directory / name)
    facts = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps({**facts, "transformers_version": str(seed)}))
    (directory / "generation_config.json").write_text(json.dumps({"transformers_version": str(seed)}))
    return directory


def in_place(new: Path, target: Path) -> Iterator[None]:
    for file in new.iterdir():
        with (target / file.name).open("r+b") as out:
            out.write(file.read_bytes())
            out.truncate()
        yield


def by_rename(new: Path, target: Path) -> Iterator[None]:
    for file in new.iterdir():
        shutil.copy(file, target / f".{file.name}.part")
        (target / f".{file.name}.part").rename(target / file.name)
        yield


def whole_directory(new: Path, target: Path) -> Iterator[None]:
    shutil.copytree(new, target.with_name("next"))
    target.rename(target.with_name("last"))
    target.with_name("next").rename(target)
    shutil.rmtree(target.with_name("last"))
    yield


WAYS = {"in place": in_place, "by rename": by_rename, "whole directory": whole_directory}


@dataclass
class Writer:
    """Overwrites a model again and again, and knows when it was held up between two files of one version.

    A pause of nearly `TICK` may look like the end of the work to whoever reads the folder: nobody can tell.
    """

    way: str
    versions: list[Path]
    target: Path
    held_up: list[tuple[float, float]] = field(default_factory=list)

    def __call__(self, over: threading.Event) -> None:
        turn = 1
        while not over.is_set():
            last = time.monotonic()
            for _ in WAYS[self.way](self.versions[turn % 2], self.target):
                now = time.monotonic()
                if now - last > TICK - COARSE:
                    self.held_up.append((last, now))
                last = now
            time.sleep(2.5 * TICK if turn % 3 else 0)
            turn += 1

    def was_held_up(self, start: float, stop: float) -> bool:
        """Whether that happened in a span of time."""
        return any(first < stop and last > start for first, last in self.held_up)


def number_of(model: Checkpoint, state: dict[str, Tensor]) -> set[object]:
    """Which versions the parts of a model are of."""
    versions = {seed: state_of(tiny_model(seed, vocab_size=1024)) for seed in (1, 2)}
    found: set[object] = {int(json.loads(model.files[name].read_text())["transformers_version"]) for name in GENERATED}
    for name, tensor in state.items():
        found.add(next((seed for seed in versions if torch.equal(versions[seed][name], tensor)), "neither"))
    return {*found, int(model.facts["transformers_version"])}


GENERATED = ("config.json", "generation_config.json")


@pytest.mark.parametrize("form", ["one file", "shards", "pickle"])
@pytest.mark.parametrize("way", WAYS)
def test_reads_while_it_is_overwritten(tmp_path: Path, way: str, form: str) -> None:
    versions = [version(tmp_path / f"v{seed}", seed, form) for seed in (1, 2)]
    target = Path(shutil.copytree(versions[0], tmp_path / "m"))
    over, overwrite = threading.Event(), Writer(way, versions, target)
    writer = threading.Thread(target=overwrite, args=(over,))
    writer.start()
    outcomes = []
    try:
        for turn in range(READS):
            start, parts = time.monotonic(), set()
            with suppress(BadInput):
                model = load(target, families=FAMILIES)
                state = {name: model.state[name] for name in model.state}
                if turn % 2:
                    state = {name: torch.cat(list(in_blocks(model.state, name))) for name in state}
                time.sleep(TICK)
                parts = number_of(model, state)
            outcomes.append((start, time.monotonic(), parts))
    finally:
        over.set()
        writer.join()
    mixed = [(start, stop) for start, stop, parts in outcomes if len(parts) > 1 or "neither" in parts]
    seen = sum(bool(parts) for _, _, parts in outcomes)
    print(f"{way}, {form}: {seen} of {READS} read, {len(mixed)} while the writer was held up, the others refused")
    assert all(overwrite.was_held_up(*span) for span in mixed), outcomes


@pytest.mark.parametrize("form", ["one file", "shards", "pickle"])
@pytest.mark.parametrize("way", WAYS)
def test_what_was_opened_is_not_read_from_another_version(tmp_path: Path, way: str, form: str) -> None:
    old, new = (version(tmp_path / name, seed, form) for name, seed in (("m", 1), ("new", 2)))
    model = load(old, families=FAMILIES)
    first, *others = model.state
    before = model.state[first].clone()
    kept = model.state[first]
    list(WAYS[way](new, old))
    assert torch.equal(kept, before)
    for name in others:
        with pytest.raises(CorruptCheckpoint, match="of 'm' was changed while it was read: run again"):
            _ = model.state[name]
        with pytest.raises(CorruptCheckpoint, match="of 'm' was changed while it was read: run again"):
            list(in_blocks(model.state, name))
    assert {int(json.loads(model.files[name].read_text())["transformers_version"]) for name in GENERATED} == {1}
    assert len(model.tokenizer()) == 1024


def test_one_shard_is_enough(tmp_path: Path) -> None:
    old, new = (version(tmp_path / name, seed, "shards") for name, seed in (("m", 1), ("new", 2)))
    model = load(old, families=FAMILIES)
    names = list(model.state)
    last = sorted(file.name for file in old.glob("model-*"))[-1]
    shutil.copy(new / last, old / last)
    with pytest.raises(CorruptCheckpoint, match=f"'{last}' of 'm' was changed"):
        _ = [model.state[name] for name in names]


def test_times_that_are_put_back_do_not_hide_it(tmp_path: Path) -> None:
    old, new = (version(tmp_path / name, seed, "one file") for name, seed in (("m", 1), ("new", 2)))
    model, file = load(old, families=FAMILIES), old / "model.safetensors"
    before = file.stat()
    list(in_place(new, old))
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(CorruptCheckpoint, match="was changed"):
        dict(model.state)


def load_often(directory: Path) -> None:
    for _ in range(50):  # on a busy machine the writer is held up now and then
        load(directory)


def test_a_file_that_is_always_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("isthmus.checkpoint.file_version.PATIENCE", 0.1)
    old, over = version(tmp_path / "m", 1, "one file"), threading.Event()
    content = (old / "model.safetensors").read_bytes()

    def write() -> None:
        with (old / "model.safetensors").open("r+b") as file:
            while not over.is_set():
                file.seek(0)
                file.write(content)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        with pytest.raises(CorruptCheckpoint, match=r"'model\.safetensors' of 'm' is being written: run again when"):
            load_often(old)
    finally:
        over.set()
        writer.join()


@pytest.mark.parametrize("way", WAYS)
def test_between_the_check_and_the_load(tmp_path: Path, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was checked is what is merged."""
    old, new = (version(tmp_path / name, seed, "one file") for name, seed in (("m", 1), ("new", 2)))
    other = version(tmp_path / "other", 3, "one file")

    def overwritten(*arguments: object, **options: object) -> object:
        found = check(*arguments, **options)  # type: ignore[arg-type]
        list(WAYS[way](new, old))
        return found

    monkeypatch.setattr("isthmus.checkpoint.inputs.check", overwritten)
    with pytest.raises(CorruptCheckpoint, match="was changed"):
        open_inputs((old, other), families=FAMILIES)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors.index.json"])
def test_small_files(tmp_path: Path, name: str) -> None:
    old, new = (version(tmp_path / folder, seed, "shards") for folder, seed in (("m", 1), ("new", 2)))
    source = Source(load(old).source.reference)
    shutil.copy(new / name, old / name)
    with pytest.raises(CorruptCheckpoint, match=f"'{name}' of 'm' was changed while it was read"):
        source.json(name)


def test_a_merge_of_a_model_that_is_overwritten(tmp_path: Path, isthmus, monkeypatch: pytest.MonkeyPatch) -> None:
    old, new = (version(tmp_path / name, seed, "one file") for name, seed in (("m", 1), ("new", 2)))
    other = version(tmp_path / "other", 3, "one file")
    from isthmus.merge import result

    save: Callable[..., dict[str, str]] = result.save_weights

    def slow(*arguments: object, **options: object) -> dict[str, str]:
        list(in_place(new, old))
        return save(*arguments, **options)

    monkeypatch.setattr(result, "save_weights", slow)
    done = isthmus("merge", old, other, "-o", tmp_path / "out", "--align", "none", "--t", "0.5")
    assert done.code == 2
    assert "'model.safetensors' of 'm' was changed while it was read" in done.err
    assert not (tmp_path / "out").exists()


def test_open_files_do_not_add_up(tmp_path: Path) -> None:
    directory = version(tmp_path / "m", 1, "shards")
    before = len(list(Path("/proc/self/fd").iterdir())) if Path("/proc/self/fd").exists() else 0
    model = load(directory, families=FAMILIES)
    _ = [model.state[name] for name in model.state]
    if before:
        assert len(list(Path("/proc/self/fd").iterdir())) <= before + 1  # the lock of its copies
