"""Kills at any moment, concurrent runs, and what they leave: an output is the old one or the new one, never a mixture.

`ISTHMUS_KILLS` and `ISTHMUS_PAIRS` say how many; the defaults are quick.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from isthmus.checkpoint.errors import BadInput
from isthmus.checkpoint.manifest import require_replaceable, sealed
from isthmus.checkpoint.saving import atomic_directory, write_json
from isthmus.checkpoint.working_folders import SHORT, FolderLock, WorkingFolder, hidden_sibling

KILLS = int(os.environ.get("ISTHMUS_KILLS", "6"))
PAIRS = int(os.environ.get("ISTHMUS_PAIRS", "2"))
PARENT = str(Path(__file__).parents[3])

# Saves over and over, each time other content under the same names; imports once, and forks for every run.
WRITER = """
import os, sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from isthmus.checkpoint import saving
from isthmus.checkpoint.manifest import sealed

def write(target, content, overwrite):
    with saving.atomic_directory(target, overwrite=overwrite) as directory:
        for name in ("model.safetensors", "config.json"):
            (directory / name).write_text(content * 20_000)
        saving.write_json(directory / "isthmus.json", sealed({"content": content}, directory))

if sys.argv[3] == "aside":
    saving._swap = lambda first, second: False
count = 0
while True:
    count += 1
    write(Path(sys.argv[2]), f"{os.getpid()}-{count} ", True)
    print(count, flush=True)
"""


def write(target: Path, content: str, *, overwrite: bool = True) -> None:
    with atomic_directory(target, overwrite=overwrite) as directory:
        (directory / "config.json").write_text(content)
        write_json(directory / "isthmus.json", sealed({"content": content}, directory))


def write_while(target: Path, happens: Callable[[], object], *, overwrite: bool) -> None:
    """Write an output while something else happens."""
    with atomic_directory(target, overwrite=overwrite) as directory:
        (directory / "mine").touch()
        happens()


def require_whole(target: Path) -> None:
    """All files are of one run, as its seal says."""
    require_replaceable(target, target.name)
    content = json.loads((target / "isthmus.json").read_text())["content"]
    for name in ("model.safetensors", "config.json"):
        assert (target / name).read_text() == content * 20_000


def namespaces() -> bool:
    """Whether this machine gives out new process namespaces."""
    try:
        return subprocess.run(["unshare", "-fp", "--mount-proc", "true"], capture_output=True).returncode == 0
    except OSError:
        return False


@pytest.mark.parametrize("way", ["exchange", "aside", "exchange in a namespace"])
def test_killed_while_saving(way: str, tmp_path: Path) -> None:
    """Every time the next run, which has the same process id in a namespace of its own, goes on as if nothing were."""
    target, draw = tmp_path / "out", random.Random(way)
    apart = way.endswith("namespace")
    if apart and not namespaces():
        pytest.skip("no process namespaces here")
    before = ["unshare", "-fp", "--mount-proc", "--kill-child"] if apart else []
    leftovers = 0
    for _ in range(KILLS):
        run = subprocess.Popen(
            [*before, sys.executable, "-c", WRITER, PARENT, str(target), way],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert run.stdout is not None
        assert run.stdout.readline().strip() == "1", run.communicate()[1]
        time.sleep(draw.uniform(0, 0.05))
        run.kill()
        run.communicate()
        wait_for_locks(tmp_path)
        leftovers += any(path.name.startswith(".out") for path in tmp_path.iterdir())
        if way != "aside" or target.exists():  # else it is put back by the next run
            require_whole(target)
    with atomic_directory(target, overwrite=True) as directory:
        (directory / "x").touch()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    print(f"{way}: {KILLS} kills, {leftovers} of them left something behind")


def wait_for_locks(folder: Path) -> None:
    """Until the kernel has ended the process in its namespace, too."""
    import fcntl

    deadline = time.monotonic() + 10
    for lock in folder.glob(".out.isthmus-*/lock"):
        with lock.open() as file:
            while time.monotonic() < deadline:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    time.sleep(0.01)


PAIR = """
import os, sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from isthmus.checkpoint import saving
from isthmus.checkpoint.errors import BadInput
from isthmus.checkpoint.manifest import sealed
root, pairs, overwrite = Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4] == "overwrite"
for pair in range(pairs):
    target, runs = root / str(pair), []
    start = time.monotonic() + 0.02
    for side in "ab":
        child = os.fork()
        if not child:
            code = 1
            try:
                while time.monotonic() < start:
                    pass
                with saving.atomic_directory(target, overwrite=overwrite) as directory:
                    for name in ("model.safetensors", "config.json"):
                        (directory / name).write_text(f"{pair}{side} " * 20_000)
                    saving.write_json(directory / "isthmus.json", sealed({"content": f"{pair}{side} "}, directory))
                code = 0
            except BadInput as error:
                code = 2 if "written by another process" in str(error) or "is not empty" in str(error) else 1
            finally:
                os._exit(code)
        runs.append(child)
    print(*sorted(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in runs))
"""


@pytest.mark.parametrize("way", ["new", "overwrite"])
def test_two_runs_into_one_output(way: str, tmp_path: Path) -> None:
    """One of two gets a new output, and the other a sentence; with --overwrite both are done, one after the other."""
    command = [sys.executable, "-c", PAIR, PARENT, str(tmp_path), str(PAIRS), way]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stderr == ""
    assert done.stdout.splitlines() == ["0 2" if way == "new" else "0 0"] * PAIRS
    assert {path.name for path in tmp_path.iterdir()} == {str(pair) for pair in range(PAIRS)}
    for pair in range(PAIRS):
        require_whole(tmp_path / str(pair))


def test_an_output_that_appears_during_the_work_is_left(tmp_path: Path) -> None:
    target = tmp_path / "out"
    with pytest.raises(BadInput, match="'out' was written by another process in the meantime, and was left as it is"):
        write_while(target, lambda: write(target, "theirs"), overwrite=False)
    assert (target / "config.json").read_text() == "theirs"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("change", ["notes.txt", "config.json"])
@pytest.mark.parametrize("swaps", [True, False])
def test_what_is_put_into_the_old_output_during_the_work_is_not_lost(
    change: str, swaps: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from isthmus.checkpoint import saving

    if not swaps:
        monkeypatch.setattr(saving, "_swap", lambda first, second: False)
    target = tmp_path / "out"
    write(target, "old")
    with pytest.raises(BadInput, match=f"'{change}' was"):
        write_while(target, lambda: (target / change).write_text("somebody's work"), overwrite=True)
    assert (target / change).read_text() == "somebody's work"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_an_output_that_vanishes_during_the_work_is_written_anew(tmp_path: Path) -> None:
    import shutil

    write(tmp_path / "out", "old")
    with atomic_directory(tmp_path / "out", overwrite=True) as directory:
        (directory / "x").touch()
        shutil.rmtree(tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["x"]


def test_an_old_output_that_was_moved_aside_is_put_back(tmp_path: Path) -> None:
    """A kill between the two renames of a file system that cannot exchange; the next run finds the old output."""
    target = tmp_path / "out"
    write(target, "old")
    folder = hidden_sibling(target, ".isthmus-").with_name(".out.isthmus-0123456789abcdef")
    (folder / "new" / "out").mkdir(parents=True)
    target.rename(folder / "old")
    with pytest.raises(BadInput, match="is not empty"):
        write(target, "new", overwrite=False)
    assert (target / "config.json").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_the_work_of_the_living_and_foreign_folders_stay(tmp_path: Path) -> None:
    foreign = [".out.isthmus-training", ".out.isthmus-notes", ".out.isthmus-0123456789ABCDEF", ".out", "out.isthmus"]
    for name in foreign:
        (tmp_path / name).mkdir()
    (tmp_path / ".out.isthmus-00000000000000ff").symlink_to(tmp_path / ".out")
    living = WorkingFolder(hidden_sibling(tmp_path / "out", ".isthmus-"))
    write(tmp_path / "out", "1")
    write(tmp_path / "out", "2")
    assert living.path.exists()
    living.release()
    assert {path.name for path in tmp_path.iterdir()} == {*foreign, "out", ".out.isthmus-00000000000000ff"}


def test_a_claim_ends_with_its_last_reference(tmp_path: Path) -> None:
    claim = WorkingFolder(tmp_path / "isthmus-merge-")
    assert claim.path.stat().st_mode & 0o777 == 0o700
    del claim
    assert list(tmp_path.iterdir()) == []


def test_a_fork_does_not_take_its_parents_folder_with_it(tmp_path: Path) -> None:
    claim = WorkingFolder(tmp_path / "x-")
    child = os.fork()
    if not child:
        claim.release()
        os._exit(0)
    os.waitpid(child, 0)
    assert claim.path.exists()
    claim.release()


@pytest.mark.parametrize("length", [1, 100, 140, 255])
def test_hidden_names_are_short_enough(length: int) -> None:
    name = hidden_sibling(Path("/somewhere") / ("x" * length), ".isthmus-training").name
    assert len(os.fsencode(name)) <= SHORT
    assert (name == "." + "x" * length + ".isthmus-training") == (length <= 100)


def test_a_lock_is_held_by_one(tmp_path: Path) -> None:
    with (
        FolderLock(tmp_path / "run", "taken"),
        pytest.raises(BadInput, match="taken"),
        FolderLock(tmp_path / "run", "taken"),
    ):
        pass
    with FolderLock(tmp_path / "run", "taken"):
        pass


SCRATCH = """
import os, signal, sys, tempfile
sys.path.insert(0, sys.argv[1])
tempfile.tempdir = sys.argv[2]
from isthmus.merge.offloaded import Scratch
scratch = Scratch()
print(scratch._folder.path, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_the_temporary_folders_of_killed_runs_are_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from isthmus.merge.offloaded import Scratch

    done = subprocess.run([sys.executable, "-c", SCRATCH, PARENT, str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert Path(done.stdout.strip()).is_dir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    first, second = Scratch(), Scratch()
    assert {path.name for path in tmp_path.iterdir()} == {first._folder.path.name, second._folder.path.name}


def test_a_command_leaves_no_temporary_folders(saved: Callable[..., Path], tmp_path: Path) -> None:
    ends, temporary = (saved("a"), saved("b", 1)), tmp_path / "temporary"
    temporary.mkdir()
    command = [sys.executable, "-m", "isthmus", "merge", *ends, "-o", tmp_path / "out", "--align", "none", "--t", "0.5"]
    for code in (0, 2):  # the second time the output is not empty
        done = subprocess.run(command, env={**os.environ, "TMPDIR": str(temporary)}, capture_output=True, check=False)
        assert done.returncode == code, done.stderr
        assert not list(temporary.glob("isthmus-*"))
