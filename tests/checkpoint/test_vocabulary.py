from __future__ import annotations

import pytest

from isthmus.checkpoint.vocabulary import Conflict, Growth, Vocabulary, compare_vocabularies

ABC = {"a": 0, "b": 1, "c": 2}
GROWN = {**ABC, "d": 3, "e": 4}


def compare(a: dict, rows_a: int, b: dict, rows_b: int):
    return compare_vocabularies(Vocabulary(a, rows_a), Vocabulary(b, rows_b))


def test_the_same_vocabulary() -> None:
    assert compare(ABC, 3, dict(ABC), 3) is None


@pytest.mark.parametrize(
    ("a", "rows_a", "b", "rows_b", "expected"),
    [
        (ABC, 3, GROWN, 5, Growth(3, 5, 1, ("d", "e"))),
        (GROWN, 5, ABC, 3, Growth(3, 5, 0, ("d", "e"))),
        (ABC, 3, ABC, 8, Growth(3, 8, 1)),
        (ABC, 8, ABC, 3, Growth(3, 8, 0)),
        (ABC, 8, GROWN, 8, Growth(3, 8, 1, ("d", "e"))),  # one trained rows that are padding in the other
        (ABC, 16, GROWN, 5, Growth(3, 5, 1, ("d", "e"))),  # and dropped the rest of the padding
        (ABC, 3, {**ABC, "e": 4}, 5, Growth(3, 5, 1, ("e",))),
        (ABC, 6, {**ABC, "e": 4}, 6, Growth(4, 6, 1, ("e",))),  # row 3 is padding in both
    ],
)
def test_growth(a: dict, rows_a: int, b: dict, rows_b: int, expected: Growth) -> None:
    assert compare(a, rows_a, b, rows_b) == expected


@pytest.mark.parametrize(
    ("a", "b", "count"),
    [
        ({"a": 0, "b": 1}, {"a": 1, "b": 0}, 2),
        (ABC, {"a": 0, "b": 1, "x": 2}, 2),
        ({**ABC, "x": 3}, {**ABC, "y": 3}, 2),
        ({**ABC, "x": 3}, {**ABC, "y": 4}, 2),
        ({"a": 0, "c": 2}, {"a": 0, "b": 1, "c": 2}, 1),  # a hole filled is no growth at the end
    ],
)
def test_conflicts(a: dict, b: dict, count: int) -> None:
    found = compare(a, 8, b, 8)
    assert isinstance(found, Conflict)
    assert found.count == count
