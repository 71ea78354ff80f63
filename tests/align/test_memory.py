"""What is freed goes back to the system."""

from __future__ import annotations

import ctypes
import platform
import subprocess
import sys

import pytest

from isthmus.align.memory import release_freed, release_large_when_freed

# Tensors of 4 MiB, with small ones between them that stay: the heap would keep what lies between.
JOB = """
import sys, torch
from isthmus.align.memory import release_large_when_freed

def resident():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmRSS")) * 1024

if sys.argv[1] == "released":
    release_large_when_freed()
torch.ones(2**20)
before, kept, large = resident(), [], []
for _ in range(50):
    large.append(torch.ones(2**20))
    kept.append([torch.ones(2**10) for _ in range(8)])
large.clear()
print(resident() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries have ways of their own")
def test_large_tensors_go_back_as_they_are_freed() -> None:
    kept, released = (
        int(subprocess.run([sys.executable, "-c", JOB, how], check=True, capture_output=True, text=True).stdout)
        for how in ("kept", "released")
    )
    assert released < 20e6 < 100e6 < kept


def test_a_library_that_cannot_be_told_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda _: object())
    release_freed()
    release_large_when_freed()
