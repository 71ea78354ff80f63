from __future__ import annotations

import json
import os
from functools import partial
from pathlib import Path

import pytest

from isthmus.lab.parts import compute


def square(number: int) -> dict[str, int]:
    if number < 0:
        raise ArithmeticError(f"{number} is below 0")
    return {"square": number**2, "process": os.getpid()}


@pytest.mark.parametrize("workers", [1, 2])
def test_parts_are_computed_once(tmp_path: Path, workers: int) -> None:
    parts = {f"of {number}": partial(square, number) for number in range(4)}
    records = compute(tmp_path, parts, stage="", workers=workers)
    assert [records[f"of {number}"]["square"] for number in range(4)] == [0, 1, 4, 9]
    assert (os.getpid() in {part["process"] for part in records.values()}) == (workers == 1)
    (tmp_path / "of 2.json").write_text(json.dumps({"square": "kept"}))
    again = compute(tmp_path, parts, stage="", workers=workers)
    assert again == {**records, "of 2": {"square": "kept"}}


@pytest.mark.parametrize("workers", [1, 2])
def test_what_was_finished_before_a_failure_is_kept(tmp_path: Path, workers: int) -> None:
    parts = {name: partial(square, number) for name, number in (("a", 1), ("b", 2), ("c", -3))}
    with pytest.raises(ArithmeticError, match="-3 is below 0"):
        compute(tmp_path, parts, stage="", workers=workers)
    assert {file.name for file in tmp_path.iterdir()} == {"a.json", "b.json"}
