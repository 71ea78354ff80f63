"""How long the rest of some work takes."""

from __future__ import annotations

import pytest

from isthmus.eval.progress import Remaining

STAGES = [("reading", 1.0), ("aligning", 10.0), ("writing text", 2.0), ("training", 60.0), ("writing text", 2.0)]


def test_what_is_left_of_this_stage_and_the_later_ones() -> None:
    remaining = Remaining(STAGES)
    assert remaining.seconds(0.0, 5.0) is None
    remaining.stage("reading", 100.0)
    assert remaining.seconds(0.0, 100.0) == pytest.approx(75)
    remaining.stage("aligning (orthogonal)", 101.0)
    assert remaining.seconds(0.0, 101.0) == pytest.approx(74)
    assert remaining.seconds(0.5, 106.0) == pytest.approx(5 + 64)


def test_a_machine_that_is_slower_than_it_was_is_believed() -> None:
    remaining = Remaining(STAGES)
    remaining.stage("reading", 0.0)
    remaining.stage("aligning", 2.0)
    remaining.stage("writing text", 22.0)
    assert remaining.seconds(0.0, 22.0) == pytest.approx(2 * 64)
    remaining.stage("training 1 bend (muon)", 26.0)
    assert remaining.seconds(0.5, 26.0 + 60) == pytest.approx(2 * 32, rel=0.05)


def test_stages_that_were_not_expected_pass_by() -> None:
    remaining = Remaining(STAGES)
    remaining.stage("aligning", 0.0)
    remaining.stage("a surprise", 5.0)
    assert remaining.seconds(0.0, 10.0) == pytest.approx(64)
    remaining.stage("training", 10.0)
    remaining.stage("training", 20.0)  # once more, of the same
    assert remaining.seconds(0.0, 20.0) == pytest.approx(52)


def test_text_that_is_written_twice_does_not_skip_what_is_between() -> None:
    remaining = Remaining(STAGES)
    remaining.stage("aligning", 0.0)
    remaining.stage("writing text", 10.0)
    remaining.stage("writing text", 11.0)
    assert remaining.seconds(0.0, 12.0) == pytest.approx(62)
