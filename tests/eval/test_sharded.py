from __future__ import annotations

import ast
from pathlib import Path

import pytest
from sharded_jobs import launched, trained


@pytest.mark.parametrize("processes", [2, 4])
def test_processes_that_share_all_weights_compute_what_one_does(processes: int, tmp_path: Path) -> None:
    """Logits of three architectures, gradients of bends, and two steps of every optimizer; gloo on the CPU."""
    done = launched(processes, "computes_what_one_process_computes", tmp_path)
    assert done.returncode == 0, done.stderr


def test_alignments_of_shared_models_are_learned_as_one_process_learns_them(tmp_path: Path) -> None:
    """Losses, gradients and steps, alone and with a bend."""
    done = launched(4, "moves_what_one_process_moves", tmp_path)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("job", ["computes_in_bfloat16", "runs_what_has_buffers_and_ties"])
def test_what_else_they_compute(job: str, tmp_path: Path) -> None:
    done = launched(2, job, tmp_path)
    assert done.returncode == 0, done.stderr


def test_a_bend_that_no_step_has_reached_yet_does_not_end_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No optimizer has a state for it, nor has what is kept of the run; what shares nothing says who can go on."""
    monkeypatch.setenv("WHAT", "bends")
    for stop in ("2", "99"):
        monkeypatch.setenv("STOP", stop)
        done = launched(2, "trains", tmp_path)
        assert done.returncode == 0, done.stderr
        if stop == "2":
            alone = launched(1, "trains", tmp_path)
            assert alone.returncode != 0
            assert "was trained by processes that share all weights (FSDP): go on with two or more" in alone.stderr
    assert (tmp_path / "bends" / "trained.safetensors").exists()


def test_a_run_goes_on_with_another_number_of_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Interrupted among two after five steps of twelve, and ended by four, as if it had been two all along: the bend
    of a path, and the alignment of a line.
    """
    kinds = ("bend", "alignment")
    monkeypatch.setenv("WHAT", " ".join(kinds))
    for processes, stop, part in ((2, "99", "whole"), (2, "5", "parts"), (4, "99", "parts")):
        monkeypatch.setenv("STOP", stop)
        (tmp_path / part).mkdir(exist_ok=True)
        done = launched(processes, "trains", tmp_path / part)
        assert done.returncode == 0, done.stderr
        assert all((tmp_path / part / kind / "trained.safetensors").exists() == (stop == "99") for kind in kinds)
    for kind in kinds:
        whole, parts = (trained(tmp_path / part / kind) for part in ("whole", "parts"))
        assert max(float((whole[name] - parts[name]).abs().max()) for name in whole) < 1e-4
        histories = [ast.literal_eval((tmp_path / part / kind / "history").read_text()) for part in ("whole", "parts")]
        for one, other in zip(*histories, strict=True):
            assert other == pytest.approx(one, abs=1e-5)
        assert histories[0][-1][2] < histories[0][0][2]
