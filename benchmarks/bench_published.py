"""Pairs of the size that others have published barriers of: GPT-2s of 6 layers and width 256; losses, not timings.

One pair of every kind, AdamW and Muon, measured as in `isthmus.lab.table`: without alignment, by every closed form,
learned, and with one bend. What differs from the published ones is in the record beside their numbers. The models are
trained in `.build/published`; finished parts there are used.
"""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from measurement import record

from isthmus.eval.progress import Progress
from isthmus.lab.options import Effort, StudyOptions
from isthmus.lab.pairs import kind_of, train, training_recipe
from isthmus.lab.parts import compute, cores
from isthmus.lab.table import WAYS, measure_pair

PAIRS = (("adamw-1", "adamw-2"), ("muon-1", "muon-2"), ("adamw-1", "muon-1"))
EFFORT = Effort(pretraining=700, bend=300, learning=400, layers=6, width=256)
PUBLISHED = [
    {
        "work": "Zhang et al. 2026 (arXiv 2605.09991)",
        "models": "6 layers, width 256, 15,000 steps, GPT-2's vocabulary, blocks of 256; enwik8 to LM1B",
        "naive": "midpoints of 8 to 9 nats, ends of 3 to 4",
        "adamw-adamw": {"line after alignment": [0.26, 0.45], "one bend": [0.04, 0.06]},
        "muon-muon": {"line after alignment": [0.18, 0.43], "one bend": [0.01, 0.06]},
    },
    {
        "work": "Theus et al. 2025 (arXiv 2506.22712)",
        "models": "6 layers, width 256 and 512; whole circuits are interpolated, whose midpoint is no plain model",
        "Tiny Shakespeare": {"naive": 2.02, "weight matching": 0.34, "learned": 0.02},
        "BookCorpus": {"naive": 4.34, "weight matching": 1.56, "learned": 0.42},
    },
]


def main(directory: Path) -> None:
    options, models = StudyOptions(workers=cores()), directory / "models"
    names = list(dict.fromkeys(name for pair in PAIRS for name in pair))
    training = {name: partial(train, models, training_recipe(name, EFFORT), EFFORT.config()) for name in names}
    compute(models, training, "training models", options.workers, Progress())
    parts = {f"{a}, {b}": partial(measure_pair, directory, a, b, EFFORT) for a, b in PAIRS}
    rows: dict[str, Any] = {}
    for name, measured in compute(directory / "barriers", parts, "measuring", options.workers, Progress()).items():
        losses = measured["losses"]["naive"]
        barriers = {way: round(measured["barriers"][way], 4) for way in WAYS}
        rows[kind_of(name)] = {"ends": [round(losses[0], 3), round(losses[-1], 3)], **barriers}
    content = {"what": __doc__.split("\n")[0], "baseline": "naive: the straight line without alignment", "pairs": rows}
    record("published", {**content, "effort": asdict(EFFORT), "published": PUBLISHED})


if __name__ == "__main__":
    main(Path(__file__).parents[1] / ".build" / "published")
