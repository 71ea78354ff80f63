"""What goes into the sdist and the wheel, and which names are public."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both distributions, built from a copy of the tracked files."""
    work = tmp_path_factory.mktemp("build")
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, tracked.split("\0")):
        if (ROOT / name).is_file():
            (work / "src" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, work / "src" / name)
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(work / "dist"), str(work / "src")]
    subprocess.run(command, check=True, capture_output=True)
    return work / "dist"


def test_the_wheel_holds_the_package_and_its_data(built: Path) -> None:
    names = set(zipfile.ZipFile(next(built.glob("*.whl"))).namelist())
    for expected in (
        "isthmus/__init__.py",
        "isthmus/cli.py",
        "isthmus/py.typed",
        "isthmus/align/families/gpt2.py",
        "isthmus/checkpoint/card.md.jinja",
        "isthmus/eval/report.html.jinja",
        "isthmus/lab/checkpoints/docs/model.safetensors",
        "isthmus/lab/checkpoints/muon-2/tokenizer.json",
    ):
        assert expected in names
    assert {name.split("/")[0] for name in names if "dist-info" not in name} == {"isthmus"}
    assert not [name for name in names for part in name.split("/") if part.startswith(("test", "conftest", "bench"))]


def test_the_sdist_can_be_built_and_holds_no_tests(built: Path) -> None:
    with tarfile.open(next(built.glob("*.tar.gz"))) as archive:
        names = {name.split("/", 1)[1] for name in archive.getnames() if "/" in name}
    assert {
        "pyproject.toml",
        "LICENSE",
        "README.md",
        "cli.py",
        "lab/checkpoints/docs/model.safetensors",
    } <= names
    assert not [name for name in names if name.startswith(("tests", "benchmarks", "docs/", ".ci"))]


def test_an_installed_wheel_runs_outside_the_repository(built: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(next(built.glob("*.whl"))) as wheel:
        wheel.extractall(tmp_path / "site")
    script = "import isthmus, sys; print(isthmus.__file__); print(isthmus.load(sys.argv[1]).config.n_layer)"
    model = tmp_path / "site" / "isthmus" / "lab" / "checkpoints" / "docs"
    done = subprocess.run(
        [sys.executable, "-c", script, str(model)],
        cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path / "site"), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
    )
    assert done.stdout.split() == [str(tmp_path / "site" / "isthmus" / "__init__.py"), "4"], done.stderr


def test_public_names() -> None:
    import isthmus

    for name in isthmus.__all__:
        assert getattr(isthmus, name) is not None
    assert set(isthmus.__all__) == set(isthmus._HOMES) <= set(dir(isthmus))
    with pytest.raises(AttributeError, match="has no attribute 'frobnicate'"):
        isthmus.frobnicate  # noqa: B018
