"""Weights that are searched for on text against equal ones: fine-tunes of one base, two and three, by every search.

The base is the embedded adamw-1; `docs` and `code` are embedded, and a third is trained here on Python's C headers. The
baseline is the same operator with equal weights. Losses are on the report text, in nats per token, with the standard
error of the paired difference; seconds are processor time of the search alone, on one thread, and their ratio is to
the search by coordinates. The third model is trained into a directory that may be named, and taken from there the next
time; `two` or `three` after it measures that case alone.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from bench_domains import CHECKPOINTS, TOKENS, headers
from measurement import RESULTS, record

from isthmus.checkpoint.loading import load
from isthmus.eval.loss import LossMeter
from isthmus.eval.progress import Progress
from isthmus.eval.text import Text
from isthmus.lab.pretrain import TrainingRecipe, make_checkpoint, small_config
from isthmus.merge.plans import MergePlan, SearchPlan
from isthmus.merge.recipes.recipe import recipe
from isthmus.merge.weight_search.chosen import WeightChooser
from isthmus.merge.weight_search.objective import MergeWithWeights
from isthmus.merge.weight_search.weight_table import WeightSpace

SEARCHES = (
    SearchPlan("coordinate"),
    SearchPlan("gradient", "model"),
    SearchPlan("gradient", "layer"),
    SearchPlan("gradient", "matrix"),
    SearchPlan("cma", "model", evaluations=40),
    SearchPlan("cma", "layer", evaluations=40),
)
METHODS = ("linear", "task_arithmetic")
CASES = {"three": 3, "two": 2}


def rows(models: list[Path], specs: list[str], keep: Callable[[dict[str, Any]], None]) -> None:
    """Every method with equal weights and those of every search; all rows so far are given to `keep`."""
    base = load(CHECKPOINTS / "adamw-1")
    states = [{name: load(place).state[name].float() for name in base.schema.shapes} for place in models]
    own_base = {name: base.state[name].float() for name in base.schema.shapes}
    text = Text(tuple(specs), base.tokenizer(), context=128, vocabulary=1024, seed=0)
    fitted = max(search.tokens(128) for search in SEARCHES)
    parts = text.blocks(fit_tokens=fitted, select_tokens=TOKENS, report_tokens=TOKENS)
    fit, select, report = ({p.label: getattr(p, part) for p in parts} for part in ("fit", "select", "report"))
    meter = LossMeter(base.config, report)
    table: dict[str, dict[str, Any]] = {}
    names, seconds_of = list(base.schema.shapes), dict.fromkeys(METHODS, 0.0)
    runs = [(method, search) for part in (SEARCHES[:4], SEARCHES[4:]) for method in METHODS for search in part]
    for method, search in runs:
        needs = method != "linear"
        plan = recipe(method, [str(place) for place in models], base="adamw-1" if needs else None)
        given = ([own_base] if needs else []) + states
        merge = MergeWithWeights(WeightSpace.of(plan, names, search.granularity), tuple(given))
        score, asked = LossMeter(base.config, select), MergePlan(specs, search=search)
        began = time.process_time()
        chosen = WeightChooser(asked, score, base.config, "cpu", Progress(), lambda: fit).choose(merge)
        seconds = time.process_time() - began
        equal, best = meter(merge(merge.space.equal())), meter(merge(_table(chosen.record)))
        gain = equal - best
        seconds_of[method] = seconds_of[method] or seconds
        name = f"{method}, {search.method}" + ("" if search.method == "coordinate" else f" by {search.granularity}")
        table[name] = {
            "loss": round(best.mean, 4),
            "equal": round(equal.mean, 4),
            "gain": round(gain.mean, 4),
            "gain_stderr": round(gain.stderr, 4),
            "select_gain": round(chosen.record["select_loss_uniform"] - chosen.record["select_loss"], 4),
            "evaluations": chosen.record["evaluations"],
            "seconds": round(seconds, 1),
            "time_ratio": round(seconds / seconds_of[method], 2),
            "weights": [round(weight, 3) for weight in chosen.record["weights"]],
        }
        keep(table)


def _table(record: Any) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(group["weights"]) for group in record["groups"])


def main(work: Path, only: str | None = None) -> None:
    torch.set_num_threads(1)
    file = RESULTS / "weight_search.json"
    results = json.loads(file.read_text()) if file.exists() else {}
    train, heldout = headers(work / "text")
    if not (work / "headers").exists():
        third = TrainingRecipe("headers", "adamw", 7, 300, base="adamw-1", data=(str(train),), adamw_lr=1e-3)
        make_checkpoint(third, small_config(), work, Progress())
    models = [CHECKPOINTS / "docs", CHECKPOINTS / "code", work / "headers"]
    texts = ["docs=stdlib:docs:heldout", "code=stdlib:code:heldout", f"headers={heldout}"]
    for case, count in CASES.items() if only is None else ((only, CASES[only]),):

        def keep(table: dict[str, Any], case: str = case) -> None:
            results[case] = table
            record("weight_search", {**results, "what": __doc__.split("\n")[0], "tokens": TOKENS})

        rows(models[:count], texts[:count], keep)


if __name__ == "__main__":
    if sys.argv[1:]:
        main(Path(sys.argv[1]), *sys.argv[2:3])
    else:
        with tempfile.TemporaryDirectory() as folder:
            main(Path(folder))
