"""What isthmus wrote itself and reads again may have been replaced by a named pipe: nothing waits for one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

READ = """
import sys
from pathlib import Path
from isthmus.align.alignment import Alignment
from isthmus.checkpoint.errors import BadInput
from isthmus.merge.recipes.yaml_reader import directories_in
from isthmus.eval.text_hashes import TextHashes
from isthmus.merge.recipes.mergekit import read_recipe
from isthmus.merge.saved_path import read_bends
from isthmus.merge.training.training_state import TrainingState

folder = Path(sys.argv[1])
run = TrainingState(folder, {})
readers = {
    "alignment.safetensors": Alignment.load,
    "seen.safetensors": TextHashes.load,
    "bends.safetensors": read_bends,
    "latest.json": lambda path: run.exists(),
    "recipe.yml": read_recipe,
    "other.yml": directories_in,
}
for name, read in readers.items():
    try:
        read(folder / name)
    except BadInput as error:
        print(error)
    else:
        print("read")
"""


def test_nothing_waits_for_a_pipe(tmp_path: Path) -> None:
    names = ("alignment.safetensors", "seen.safetensors", "bends.safetensors", "latest.json", "recipe.yml", "other.yml")
    for name in names:
        os.mkfifo(tmp_path / name)
    done = subprocess.run(
        [sys.executable, "-c", READ, str(tmp_path)], capture_output=True, text=True, timeout=60, check=False
    )
    lines = done.stdout.splitlines()
    assert len(lines) == len(names), done.stderr
    assert "'alignment.safetensors' is not an alignment saved by isthmus" in lines[0]
    assert "'seen.safetensors'" in lines[1]
    assert "is a named pipe, not a file" in lines[1]
    assert "'bends.safetensors'" in lines[2]
    assert "is a named pipe, not a file" in lines[2]
    assert "is damaged and cannot go on: add --restart to drop it" in lines[3]
    assert "recipe.yml" in lines[4]
    assert lines[5] == "read"  # who reads the recipe says so


def test_a_training_with_a_pipe_among_its_files_is_damaged(tmp_path: Path) -> None:
    from isthmus.checkpoint.errors import BadInput
    from isthmus.merge.training.training_state import TrainingState

    (tmp_path / "step-3").mkdir()
    (tmp_path / "latest.json").write_text('{"identity": {}, "step": 3, "history": [[0, null, 1.0]]}')
    os.mkfifo(tmp_path / "step-3" / "model.safetensors")
    run = TrainingState(tmp_path, {})
    assert run.exists()
    with pytest.raises(BadInput, match="is damaged and cannot go on"):
        run.load(None)  # type: ignore[arg-type]
