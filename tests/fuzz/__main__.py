"""``python -m fuzz``: many cases, and a table of how they ended. Exit code 1 when there was a defect."""

from __future__ import annotations

import argparse
import re
import sys
import time
from collections import Counter

from fuzz.watch import Watched


def main() -> int:
    """Run what the options ask for."""
    parser = argparse.ArgumentParser(description="Run isthmus on damaged files.")
    parser.add_argument("--count", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=0, help="the first seed; case i has the seed SEED + i")
    parser.add_argument("--show", action="store_true", help="print every case")
    asked = parser.parse_args()
    began, codes, sentences, found = time.monotonic(), Counter(), Counter(), Counter()  # type: ignore[var-annotated]
    peak = slowest = 0.0
    with Watched() as watched:
        for answer in watched.run(range(asked.seed, asked.seed + asked.count)):
            codes[str(answer["code"])] += 1
            peak, slowest = max(peak, answer.get("peak", 0)), max(slowest, answer.get("seconds", 0))
            last = (answer["err"].rstrip().splitlines() or [""])[-1]
            sentences[str(answer["code"]), re.sub(r"'[^']*'|\d+", "_", last)[:150]] += 1
            if answer["defects"] or asked.show:
                print(
                    f"seed {answer['seed']}: {answer['defects']}\n  isthmus {answer['command']!a}\n"
                    f"  {ascii(answer['damage'])[:300]}\n  code {answer['code']}: {ascii(last)[:600]}",
                    flush=True,
                )
            found.update(re.sub(r"\(.*|:.*", "", defect) for defect in answer["defects"])
    print(f"\n{asked.count} cases from seed {asked.seed} in {time.monotonic() - began:.0f} s")
    print(f"exit codes: {dict(codes)}; peak {peak / 1e9:.2f} GB; slowest {slowest:.1f} s; deaths {watched.deaths}")
    for (code, sentence), count in sorted(sentences.items(), key=lambda entry: -entry[1]):
        print(f"{count:5} {code} {sentence!a}")
    print(f"defects: {dict(found)}")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
