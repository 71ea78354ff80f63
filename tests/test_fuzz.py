"""Damaged files of every kind, hundreds of them: each ends in a result or in a sentence, and never in anything else.

``make fuzz`` runs thousands. A seed that failed is run again by ``make fuzz COUNT=1 SEED=...``.
"""

from __future__ import annotations

import os
from collections import Counter

from fuzz.watch import Watched

COUNT = int(os.environ.get("ISTHMUS_FUZZ_COUNT", "300"))
SEED = int(os.environ.get("ISTHMUS_FUZZ_SEED", "0"))


def test_damaged_files_end_in_a_sentence() -> None:
    codes: Counter[str] = Counter()
    found = []
    with Watched() as watched:
        for answer in watched.run(range(SEED, SEED + COUNT)):
            codes[str(answer["code"])] += 1
            if answer["defects"]:
                found.append(
                    f"seed {answer['seed']}: {', '.join(answer['defects'])}\n  isthmus {answer['command']!a}\n"
                    f"  {answer['damage']!a}\n  {answer['err'][-600:]!a}"
                )
    assert not found, "\n".join(found)
    # What is not refused must be taken: a reader that refuses everything would pass, too.
    assert codes["0"] > COUNT / 5
    assert codes["2"] > COUNT / 5
