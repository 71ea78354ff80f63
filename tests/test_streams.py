"""Standard streams that are closed, full, or that nobody reads; and names that no UTF-8 can write."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import EMBEDDED

from isthmus.checkpoint.untrusted_text import plain

A, B = EMBEDDED / "docs", EMBEDDED / "code"
COMMAND = f"{sys.executable} -m isthmus"
CLOSED = {
    "stdout": (f"{COMMAND} check {A} {B} >&-", 0),
    "stdout, and it is asked for": (f"{COMMAND} check {A} {B} --json - -q >&-", 1),
    "stderr": (f"{COMMAND} check {A} {B} --json - 2>&-", 0),
    "stderr, and there is an error": (f"{COMMAND} check {A} nowhere/ 2>&-", 2),
    "both": (f"{COMMAND} check {A} {B} >&- 2>&-", 0),
    "stdin": (f"{COMMAND} check {A} {B} --json - <&-", 0),
    "nobody reads": (f"{COMMAND} check {A} {B} --json - -q | true; exit ${{PIPESTATUS[0]}}", None),
    "a full stderr": (f"{COMMAND} check {A} ./nowhere 2>/dev/full", 2),
    "a full stdout": (f"{COMMAND} check {A} {B} --json - -q >/dev/full", 1),
}


@pytest.mark.parametrize("kind", CLOSED)
def test_streams(kind: str, tmp_path: Path) -> None:
    command, code = CLOSED[kind]
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, cwd=tmp_path)
    assert "Traceback" not in done.stderr
    assert "unforeseen" not in done.stderr
    assert "Exception ignored" not in done.stderr
    assert done.returncode in ((code,) if code is not None else (0, 1))
    assert not list(tmp_path.iterdir())
    if done.stdout:
        assert json.loads(done.stdout)["mergeable"]


def test_no_file_is_opened_in_the_place_of_a_closed_stream(tmp_path: Path, saved) -> None:
    """What is written to a closed stdout must not end in a file of the merge."""
    a, b, out = saved("a"), saved("b", 1), tmp_path / "out"
    command = f"{COMMAND} merge {a} {b} -o {out} --align none --t 0.5 <&- >&- 2>&-"
    assert subprocess.run(["bash", "-c", command]).returncode == 0
    from transformers import AutoModelForCausalLM

    AutoModelForCausalLM.from_pretrained(out)


@pytest.mark.parametrize(
    "name", [b"m\xff", b"\xed\xa0\x80", b"a\nb", b"\x1b[31mred", "\u202egnp".encode(), b"[red]", b"x" * 200]
)
def test_names_of_models_are_text(saved, isthmus, tmp_path: Path, name: bytes) -> None:
    a, b = saved("a"), saved("b", 1)
    odd = tmp_path / os.fsdecode(name)
    b.rename(odd)
    out = tmp_path / "out"
    found = isthmus("merge", a, odd, "-o", out, "--align", "none", "--t", 0.5, "--json", "-")
    assert found.code == 0, found.err
    expected = plain(name.decode("utf-8", errors="replace"))
    assert json.loads(found.out)["endpoints"][1]["ref"] == expected
    assert json.loads((out / "isthmus.json").read_text(encoding="utf-8"))["endpoints"][1]["ref"] == expected
    (odd / "config.json").unlink()
    found = isthmus("check", a, odd)
    assert found.code == 2
    assert found.err.count("\n") == 1


LONG = ["x" * 300, "./" + "x" * 300, "/".join(["x" * 200] * 30), "./" + "é" * 200, "~nobody-of-this-name/x", "./a\0b"]
USES = {
    "model": lambda a, long, out: ["check", a, long],
    "output": lambda a, long, out: ["merge", a, a, "-o", long, "--align", "none", "--t", 0.5],
    "text": lambda a, long, out: ["merge", a, a, "-o", out, "--data", long],
    "path": lambda a, long, out: ["merge", a, a, "-o", out, "--path", long, "--data", "stdlib:docs"],
    "recipe": lambda a, long, out: ["merge", f"{long}.yml", "-o", out],
    "push": lambda a, long, out: ["push", long, "user/new"],
    "json": lambda a, long, out: ["check", a, a, "--json", long],
}


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("long", LONG, ids=["long", "dot", "path", "letters", "home", "NUL"])
def test_names_that_no_system_has(isthmus, tmp_path: Path, monkeypatch, use: str, long: str) -> None:
    if use == "output" and long.startswith("~"):
        pytest.skip("a folder may be called so")
    monkeypatch.chdir(tmp_path)
    found = isthmus(*USES[use](A, long, tmp_path / "out"))
    assert found.code in ((1, 2) if use == "json" else (2,)), found.err
    assert found.err.splitlines()[-1].startswith("isthmus: ")
    assert "unforeseen" not in found.err
    assert not list(tmp_path.iterdir())


def test_nothing_but_the_result_is_on_stdout(tmp_path: Path, saved) -> None:
    """tokenizers prints what it does not know of a special token to stdout, past Python's streams."""
    model = saved("m", tokenizer=True)
    (model / "special_tokens_map.json").write_text('{"eos_token": {"content": "<|end|>", "type": "x"}}')
    done = subprocess.run(["bash", "-c", f"{COMMAND} check {model} {model} --json -"], capture_output=True, text=True)
    assert json.loads(done.stdout)["command"] == "check"


def test_a_termination_in_a_finalizer_ends_the_process() -> None:
    """What a signal's handler raises there is dropped by Python, and the signal would be lost."""
    script = """
import os, signal, time
from isthmus import cli

class Finalized:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0)

def app(**_):
    Finalized()
    try:
        time.sleep(30)
    finally:
        time.sleep(1)  # what is cleaned up is not interrupted
        print("cleaned up")

cli.app = app
cli.main()
"""
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert ended.returncode == 143
    assert ended.stdout == "cleaned up\n"
