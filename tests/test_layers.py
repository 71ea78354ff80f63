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
    "eval": {"checkpoint", "align"},
    "merge": {"checkpoint", "align", "eval"},
    "lab": {"checkpoint", "align", "eval", "merge"},
    "terminal": {"checkpoint", "eval", "merge", "lab"},
    "cli": {"checkpoint", "align", "eval", "merge", "lab", "terminal"},
}
DISTRIBUTIONS = {"yaml": "pyyaml"}  # that are not called as their package is


def modules_of(floor: str) -> list[Path]:
    """A folder of modules, or a single one."""
    return sorted((ROOT / floor).rglob("*.py")) or [ROOT / f"{floor}.py"]


MODULES = {
    path.relative_to(ROOT).with_suffix("").parts: path
    for path in [ROOT / "__init__.py", *(path for floor in FLOORS for path in modules_of(floor))]
}


def absolute(path: Path) -> set[str]:
    """The packages that a module imports by their full names, wherever in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names.add(str(node.module).split(".")[0])
    return names


def arrows(path: Path) -> set[tuple[str, ...]]:
    """The modules of ours that a module imports, wherever in it."""
    package, targets = path.relative_to(ROOT).parts[:-1], set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = package[: len(package) + 1 - node.level]
            module = (*base, *(node.module.split(".") if node.module else ()))
            for alias in node.names:
                choices = ((*module, alias.name), (*module, alias.name, "__init__"), module, (*module, "__init__"))
                targets.add(next(choice for choice in choices if choice in MODULES))
    return targets


@pytest.mark.parametrize("floor", FLOORS)
def test_no_arrow_runs_back_up(floor: str) -> None:
    targets = {(path.name, target[0]) for path in modules_of(floor) for target in arrows(path)}
    assert targets, "the imports were not understood"
    assert {target for target in targets if target[1] not in FLOORS[floor] | {floor}} == set()


def test_no_import_goes_in_a_circle() -> None:
    left = {module: arrows(path) for module, path in MODULES.items()}
    while leaves := [module for module, targets in left.items() if not targets]:
        left = {module: targets.difference(leaves) for module, targets in left.items() if module not in leaves}
    circle = {".".join(module): sorted(".".join(target) for target in targets) for module, targets in left.items()}
    assert circle == {}


def test_imports_of_ours_are_relative() -> None:
    """Tools that read imports follow them without an installation."""
    assert [path.name for path in MODULES.values() if "isthmus" in absolute(path)] == []


def test_everything_imported_is_declared() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = {re.match(r"[\w-]+", entry)[0].replace("-", "_") for entry in project["dependencies"]}  # type: ignore[index]
    optional = [entry for name, own in project["optional-dependencies"].items() if name != "dev" for entry in own]
    extras = {re.match(r"[\w-]+", entry)[0].replace("-", "_") for entry in optional}  # type: ignore[index]
    used = set().union(*map(absolute, MODULES.values())) - sys.stdlib_module_names
    assert {DISTRIBUTIONS.get(name, name) for name in used} - extras == declared


@pytest.mark.parametrize(
    "command", [["-c", "import isthmus"], ["-m", "isthmus", "--help"], ["-m", "isthmus", "merge", "--help"]]
)
def test_torch_and_transformers_are_imported_only_when_needed(command: list[str]) -> None:
    done = subprocess.run([sys.executable, "-X", "importtime", *command], capture_output=True, text=True, check=True)
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
    assert "isthmus" in loaded
    assert not loaded & {"torch", "transformers", "numpy", "huggingface_hub", "matplotlib"}
