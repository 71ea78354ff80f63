"""A server that sends more than it announced is stopped."""

from __future__ import annotations

import threading

import pytest

from isthmus.checkpoint.errors import CorruptCheckpoint
from isthmus.checkpoint.hub import capped


def test_a_download_stops_at_its_limit() -> None:
    bar = capped(100, "'config.json' of 'm'")(disable=True)
    bar.update(60)
    bar.update(40)
    with pytest.raises(CorruptCheckpoint, match=r"'config\.json' of 'm' does not end after the 100 bytes"):
        bar.update(1)


def test_no_thread_is_left_behind() -> None:
    before = threading.active_count()
    for _ in range(3):
        capped(100, "'config.json' of 'm'")(total=50).close()
    assert threading.active_count() == before
