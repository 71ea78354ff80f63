"""Classifiers merged: accuracy of two that were trained apart, of their naive average, and of their aligned merge.

The task is built in: to tell from a few dozen tokens of the standard library which of its packages they are from. Two
embedded checkpoints of different seeds (or optimizers) get a head each, drawn from its own seed, and learn it on the
same examples in different orders. Accuracies are those on held-out examples.
"""

from __future__ import annotations

import json
import random
import sys
import sysconfig
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from isthmus.checkpoint.card import letter
from isthmus.lab.demo import CHECKPOINTS
from isthmus.merge.pipeline import merge_models
from isthmus.merge.plans import LearnPlan, MergePlan

RESULT = Path(__file__).parent / "results" / "classifiers.json"
PACKAGES = ("asyncio", "email", "unittest", "tkinter", "multiprocessing", "xml", "encodings", "importlib")
CHARACTERS, EXAMPLES = 160, 240  # of an example, and examples of a package at most
STEPS, BATCH, LENGTH = 400, 32, 64
PAIRS = (("adamw-1", "adamw-2"), ("muon-1", "muon-2"), ("adamw-1", "muon-1"))
TOKENS, LEARN = 20_000, LearnPlan(steps=60, batch=32)


def examples(seed: int = 0) -> list[dict[str, str]]:
    """Snippets of the packages, each with the name of its own: {"text", "label"}."""
    root, drawn = Path(sysconfig.get_paths()["stdlib"]), random.Random(seed)
    rows = []
    for package in PACKAGES:
        snippets = []
        for path in sorted((root / package).rglob("*.py")):
            text = path.read_text(encoding="utf-8", errors="ignore").replace(package, "package")
            starts = range(0, max(1, len(text) - CHARACTERS), CHARACTERS)
            snippets += [text[start : start + CHARACTERS] for start in starts]
        drawn.shuffle(snippets)
        rows += [{"text": text, "label": package} for text in snippets[:EXAMPLES] if text.strip()]
    drawn.shuffle(rows)
    return rows


def trained(
    start: Path, rows: Sequence[dict[str, str]], target: Path, *, seed: int, labels: Sequence[str] = PACKAGES
) -> Path:
    """A classifier of an embedded checkpoint, trained on some examples, saved to a directory."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    torch.manual_seed(seed)
    tokenizer = AutoTokenizer.from_pretrained(start)
    numbered = dict(enumerate(labels))
    model = AutoModelForSequenceClassification.from_pretrained(
        start,
        dtype=torch.float32,
        id2label=numbered,
        label2id={name: row for row, name in numbered.items()},
        pad_token_id=0,
    )
    encoded = [
        (tokenizer(row["text"], truncation=True, max_length=LENGTH)["input_ids"], labels.index(row["label"]))
        for row in rows
    ]
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-4, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 5e-4, total_steps=STEPS)
    drawn = random.Random(seed)
    model.train()
    for _ in range(STEPS):
        batch = drawn.sample(encoded, BATCH)
        longest = max(len(ids) for ids, _ in batch)
        ids = torch.tensor([own + [0] * (longest - len(own)) for own, _ in batch])
        mask = torch.tensor([[1] * len(own) + [0] * (longest - len(own)) for own, _ in batch])
        loss = model(input_ids=ids, attention_mask=mask, labels=torch.tensor([label for _, label in batch])).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
    model.eval().save_pretrained(target)
    tokenizer.save_pretrained(target)
    return target


def table(report: dict[str, Any]) -> dict[str, float]:
    """Accuracy by model, of a report."""
    ends = {letter(place): sum(end["accuracies"].values()) for place, end in enumerate(report["endpoints"])}
    baselines = {name: one["accuracy"] for name, one in report["baselines"].items() if "accuracy" in one}
    return {**ends, **baselines, "merge": report["merge_point"]["accuracy"]}


def main(quick: bool) -> None:
    """Train the pairs, merge them, and write the table."""
    rows = examples()
    cut = len(rows) // 2
    results: dict[str, Any] = {"packages": PACKAGES, "examples": len(rows), "steps": STEPS, "pairs": {}}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        data = folder / "held-out.jsonl"
        data.write_text("".join(json.dumps(row) + "\n" for row in rows[cut:]), encoding="utf-8")
        for a, b in PAIRS[: 1 if quick else None]:
            ends = [
                trained(CHECKPOINTS / name, rows[:cut], folder / f"{a}-{b}-{side}", seed=side)
                for side, name in enumerate((a, b))
            ]
            for align in ("orthogonal", "combined", "learned"):
                plan = MergePlan(data=(str(data),), align=align, tokens=TOKENS, t=0.5, learn=LEARN)
                report = merge_models(ends, plan).report
                results["pairs"].setdefault(f"{a}, {b}", {})[align] = table(report)
                print(a, b, align, table(report), file=sys.stderr, flush=True)
    if not quick:
        RESULT.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main("--quick" in sys.argv)
