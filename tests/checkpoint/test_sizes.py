"""Sizes in words, and back."""

from __future__ import annotations

import pytest

from isthmus.checkpoint.errors import BadInput
from isthmus.checkpoint.sizes import bytes_of, shown_size


@pytest.mark.parametrize(
    ("size", "expected"), [("6GB", 6 * 10**9), ("1.5 g", 1_500_000_000), ("500MiB", 500 * 10**6), ("123", 123)]
)
def test_sizes(size: str, expected: int) -> None:
    assert bytes_of(size) == expected


@pytest.mark.parametrize("size", ["", "much", "-1GB", "6 giga"])
def test_what_is_no_size(size: str) -> None:
    with pytest.raises(BadInput, match="a size such as 6GB"):
        bytes_of(size)


@pytest.mark.parametrize(("count", "shown"), [(188_160, "188 kB"), (87e6, "87 MB"), (25.34e9, "25.3 GB")])
def test_sizes_as_people_say_them(count: float, shown: str) -> None:
    assert shown_size(count) == shown
