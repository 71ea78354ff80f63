"""Fine-tunes of one base on other domains, two and three: what each operator makes of them, on held-out text of all.

The base is the embedded adamw-1; `docs` and `code` are embedded, and a third is trained here on the C headers that come
with Python, with the same recipe. Nothing is timed: losses in nats per token, means over domains.
"""

from __future__ import annotations

import sys
import sysconfig
import tempfile
import zlib
from pathlib import Path

from measurement import record

from isthmus.eval.progress import Progress
from isthmus.lab.pretrain import TrainingRecipe, make_checkpoint, small_config
from isthmus.merge.pipeline import merge_models
from isthmus.merge.plans import MergePlan, SpectrumPlan
from isthmus.merge.recipes.recipe import recipe

CHECKPOINTS = Path(__file__).parents[1] / "lab" / "checkpoints"
TOKENS = 8192
DENSITY = [[0.5]]


def headers(directory: Path) -> tuple[Path, Path]:
    """Python's C headers as text, cut into what is trained on and what is held out."""
    parts = directory / "train", directory / "heldout"
    for file in sorted(Path(sysconfig.get_paths()["include"]).rglob("*.h")):
        part = parts[zlib.crc32(file.name.encode()) % 5 == 0]
        part.mkdir(parents=True, exist_ok=True)
        (part / f"{file.parent.name}-{file.stem}.txt").write_text(file.read_text(encoding="utf-8", errors="replace"))
    return parts


def rows(models: list[Path], texts: list[str]) -> dict[str, dict[str, object]]:
    """Every operator, as it is and with weights searched for: its loss on all domains, and what it is held against."""
    base, names = str(CHECKPOINTS / "adamw-1"), [str(model) for model in models]
    plans = {
        "linear": recipe("linear", names),
        "karcher": recipe("karcher", names),
        "task_arithmetic": recipe("task_arithmetic", names, base=base),
        "ties": recipe("ties", names, base=base, densities=DENSITY),
        "dare_linear": recipe("dare_linear", names, base=base, densities=DENSITY),
        "dare_ties": recipe("dare_ties", names, base=base, densities=DENSITY),
        "model_stock": recipe("model_stock", names, base=base),
        "fisher": recipe("fisher", names),
        "regmean": recipe("regmean", names),
    }
    found: dict[str, dict[str, object]] = {}
    for method, plan in plans.items():
        weighted = "weight" in plan.operator.parameters
        for soup in ("uniform", "search") if weighted else ("uniform",):
            report = merge_models(plan, MergePlan(texts, soup=soup, tokens=TOKENS, spectrum=SpectrumPlan(True))).report
            point = report["merge_point"]
            found[f"{method}, searched" if soup == "search" else method] = {
                "loss": round(point["loss"], 4),
                "losses": {label: round(loss, 4) for label, loss in point["losses"].items()},
                "gain_over_best_model": round(point["gain"], 4),
                "gain_stderr": round(point["gain_stderr"], 4),
                "uniform_average": round(report["baselines"]["naive_average"]["loss"], 4),
                "ensemble": round(report["baselines"]["ensemble"]["loss"], 4),
                "spectrum": report["spectrum"]["verdict"],
                "weights": [round(w, 3) for w in report["soup"]["weights"]] if report["soup"] else None,
            }
            print(len(models), method, soup, found[f"{method}, searched" if soup == "search" else method], flush=True)
    return found


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        train, heldout = headers(work / "text")
        third = TrainingRecipe("headers", "adamw", 7, 300, base="adamw-1", data=(str(train),), adamw_lr=1e-3)
        make_checkpoint(third, small_config(), work, Progress())
        models = [CHECKPOINTS / "docs", CHECKPOINTS / "code", work / "headers"]
        texts = ["docs=stdlib:docs:heldout", "code=stdlib:code:heldout", f"headers={heldout}"]
        record(
            "domains",
            {
                "what": __doc__.split("\n")[0],
                "tokens": TOKENS,
                "two": rows(models[:2], texts[:2]),
                "three": rows(models, texts),
            },
        )


if __name__ == "__main__":
    sys.exit(main())
