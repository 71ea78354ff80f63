"""Runs that are stopped while they train or save, by any signal, end in the same bytes as runs that are not."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import EMBEDDED, tiny_model

STOPS = int(os.environ.get("ISTHMUS_STOPS", "1"))  # of every signal
PARENT, TESTS = (str(Path(__file__).parents[level]) for level in (4, 2))

# Imports once and forks for every run. Reads commands, a JSON list each: what to wait for ("" for the end), the signal,
# seconds to wait after that, the arguments. Prints exit codes, as a shell counts them.
DRIVER = """
import glob, json, os, signal, sys, time
sys.path[:0] = sys.argv[1:]
from shortened import shorten
shorten()
import accelerate, matplotlib.figure, scipy.optimize, torch, torch._dynamo, transformers
from isthmus.cli import script
from isthmus.eval import memorization
from isthmus.merge import pipeline, probe
from isthmus.merge.training import path_training
from transformers import GPT2LMHeadModel
probe.TOKENS, memorization.BLOCKS = 256, 2
path_training.SPACING = 8  # saved after every few steps: signals come in the middle
for line in sys.stdin:
    awaited, sent, later, arguments = json.loads(line)
    child = os.fork()
    if not child:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.argv = ["isthmus", *arguments]
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores it
        script()
    if awaited:
        while not glob.glob(awaited) and os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            time.sleep(0.002)
        time.sleep(later)
        os.kill(child, sent)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


class Driver:
    """Runs commands of isthmus, and stops them."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", DRIVER, PARENT, TESTS], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def __call__(self, *arguments: object, awaited: str = "", sent: int = 0, later: float = 0.0) -> int:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps([awaited, sent, later, [str(a) for a in arguments]]) + "\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("resuming")
    for seed, name in enumerate(("a", "b")):
        tiny_model(seed, vocab_size=4096).save_pretrained(root / name)
        for file in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(EMBEDDED / "docs" / file, root / name / file)
    models = "".join(f"  - model: {root / name}\n" for name in ("a", "b"))
    weighed = "parameters: {density: 0.5, weight: 0.5}"
    recipe = f"merge_method: dare_ties\nbase_model: {root / 'a'}\nmodels:\n{models}{weighed}\n"
    (root / "recipe.yml").write_text(recipe)
    draw = random.Random(0)
    (root / "text.txt").write_text(" ".join("".join(draw.choices("etaoinshrdlu", k=5)) for _ in range(6000)))
    return root


@pytest.fixture(scope="module")
def drive() -> Any:
    driver = Driver()
    yield driver
    driver.process.communicate()


def without_times(content: Any) -> Any:
    """A report without what takes time, and without the hashes that follow from it."""
    if isinstance(content, dict):
        return {k: without_times(v) for k, v in content.items() if k not in ("seconds", "files", "seal")}
    return [without_times(entry) for entry in content] if isinstance(content, list) else content


def result(output: Path) -> dict[str, Any]:
    """All that a run wrote but times."""
    files: dict[str, Any] = {path.name: path.read_bytes() for path in output.iterdir()}
    files["isthmus.json"] = without_times(json.loads(files["isthmus.json"]))
    return {name: content for name, content in files.items() if name not in ("report.html", "README.md")}


def test_a_path_that_was_stopped_is_the_same(drive: Driver, world: Path, tmp_path: Path) -> None:
    """SIGKILL, SIGTERM and Ctrl-C while it trains, at any step; then the same command again."""
    settings = (
        "--data",
        world / "text.txt",
        "--tokens",
        256,
        "--steps",
        36,
        "--batch",
        2,
        "--align",
        "none",
        "--quiet",
    )

    def train(name: str, **stop: Any) -> int:
        return drive("path", world / "a", world / "b", "-o", tmp_path / name, *settings, **stop)

    assert train("whole") == 0
    whole = result(tmp_path / "whole")
    assert "bends.safetensors" in whole
    for number in range(STOPS):
        for sent, code in ((9, -9), (15, 143), (2, 130)):
            name = f"cut-{sent}-{number}"
            state = tmp_path / f".{name}.isthmus-training" / "latest.json"
            assert train(name, awaited=str(state), sent=sent, later=0.03 * number) == code
            assert state.exists()
            assert 0 < json.loads(state.read_text())["step"] < 36, "the signal came too late to prove anything"
            assert not (tmp_path / name).exists()
            assert train(name) == 0
            assert result(tmp_path / name) == whole
            shutil.rmtree(tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == ["whole"]


def test_a_recipe_that_was_stopped_is_the_same(drive: Driver, world: Path, tmp_path: Path) -> None:
    def merge(name: str, **stop: Any) -> int:
        return drive("merge", world / "recipe.yml", "-o", tmp_path / name, "--quiet", **stop)

    assert merge("whole") == 0
    whole = result(tmp_path / "whole")
    for number in range(STOPS):
        for sent, code in ((9, -9), (15, 143), (2, 130)):
            awaited = str(tmp_path / ".cut.isthmus-*" / "new" / "cut")
            assert merge("cut", awaited=awaited, sent=sent, later=0.001 * number) in (code, 0)
            if not (tmp_path / "cut").exists():
                assert merge("cut") == 0
            assert {path.name for path in tmp_path.iterdir()} == {"whole", "cut"}
            assert result(tmp_path / "cut") == whole
            shutil.rmtree(tmp_path / "cut")


def test_two_trainings_into_one_output(world: Path, tmp_path: Path, isthmus: Any) -> None:
    """The second is refused at once; the first goes on, unharmed."""
    from isthmus.merge.training.training_state import TrainingState

    settings = ("--data", world / "text.txt", "--tokens", 256, "--steps", 4, "--batch", 2, "--align", "none")
    command = ("path", world / "a", world / "b", "-o", tmp_path / "out", *settings)
    with TrainingState.beside(tmp_path / "out", None).claimed():
        found = isthmus(*command)
        assert (found.code, "another process is training for this output" in found.err) == (2, True), found.err
        restarted = isthmus(*command, "--restart")
        assert (restarted.code, "another process is training" in restarted.err) == (2, True), restarted.err
    assert isthmus(*command).code == 0
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_restart_removes_nothing_but_the_training(world: Path, tmp_path: Path, isthmus: Any) -> None:
    folder = tmp_path / ".out.isthmus-training"
    folder.mkdir()
    (folder / "notes.txt").write_text("mine")
    (folder / "latest.json").write_text('{"ident')  # half written, by whomever
    settings = ("--data", world / "text.txt", "--tokens", 256, "--steps", 2, "--batch", 2, "--align", "none")
    command = ("path", world / "a", world / "b", "-o", tmp_path / "out", *settings)
    damaged = isthmus(*command)
    assert (damaged.code, "add --restart to drop it" in damaged.err) == (2, True), damaged.err
    assert isthmus(*command, "--restart").code == 0
    assert [path.name for path in folder.iterdir()] == ["notes.txt"]
