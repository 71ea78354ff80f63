from __future__ import annotations

import shutil

import pytest
from conftest import EMBEDDED

from isthmus.checkpoint.check import check
from isthmus.checkpoint.checks.cost import Cost, cost_findings


def test_words() -> None:
    assert str(Cost(996_000_000, 2_900_000_000, 700_000_000)) == (
        "996 MB to download, 80 s at 100 Mbit/s; an aligned merge takes about 2.9 GB of memory and 700 MB of disk"
    )
    assert str(Cost(0, 10**9, 4_000)).startswith("nothing is left to download; ")


def test_the_output_is_what_an_untied_merge_in_float32_takes() -> None:
    from isthmus.checkpoint.loading import load

    result = check(EMBEDDED / "docs", EMBEDDED / "code")
    numbers = sum(value.numel() for value in load(EMBEDDED / "docs").untied().state.values())
    assert result.cost is not None
    assert (result.cost.output, result.cost.download) == (4 * numbers, 0)


def test_a_machine_that_is_too_small() -> None:
    assert cost_findings(Cost(0, 10**9, 10**9)) == []
    memory, disk = cost_findings(Cost(10**18, 10**15, 10**9))
    assert memory.kind == disk.kind == "degrades"
    assert "of memory, and this machine has" in memory.what
    assert "and the disk of the cache has" in disk.what


def test_only_the_disk_is_full(monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=10))
    (found,) = cost_findings(Cost(1000, 1000, 1000))
    assert found.what == "1 kB are to be downloaded, and the disk of the cache has 0 kB free"
    assert found.advice == "make room, or set HF_HOME to another disk"
