"""The floors: no arrow between the folders runs back up, and what is imported is declared."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FLOORS = {
    "checkpoint": set(),
    "align": {"checkpoint"},
    "eval": {"checkpoint"},
    "merge": {"checkpoint", "align", "eval"},
    "lab": {"checkpoint", "align", "eval", "merge"},
    "cli": {"checkpoint", "align", "eval", "merge", "lab"},
}
DISTRIBUTIONS = {"yaml": "pyyaml"}  # that are not called as their package is


def imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return names


@pytest.mark.parametrize("floor", FLOORS)
def test_no_arrow_runs_back_up(floor: str) -> None:
    for path in (ROOT / floor).rglob("*.py"):
        ours = {name.split(".")[1] for name in imported(path) if name.startswith("isthmus.")}
        assert ours <= FLOORS[floor] | {floor}, path.name


def test_everything_imported_is_declared() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = {re.match(r"[\w-]+", entry)[0].replace("-", "_") for entry in project["dependencies"]}  # type: ignore[index]
    files = [
        ROOT / "__init__.py",
        *(path for floor in FLOORS for path in (ROOT / floor).rglob("*.py")),
    ]
    used = {name.split(".")[0] for path in files for name in imported(path)} - sys.stdlib_module_names - {"isthmus"}
    assert {DISTRIBUTIONS.get(name, name) for name in used} == declared


@pytest.mark.parametrize(
    "command", [["-c", "import isthmus"], ["-m", "isthmus", "--help"], ["-m", "isthmus", "merge", "--help"]]
)
def test_torch_and_transformers_are_imported_only_when_needed(command: list[str]) -> None:
    done = subprocess.run([sys.executable, "-X", "importtime", *command], capture_output=True, text=True, check=True)
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
    assert "isthmus" in loaded
    assert not loaded & {"torch", "transformers", "numpy", "huggingface_hub", "matplotlib"}
