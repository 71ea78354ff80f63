"""Draws budget.png from `benchmarks/results/budget.json`: loss against cost, from a merge to the ensemble."""

from __future__ import annotations

import json
from pathlib import Path

from isthmus.eval.figures import GREY, ORANGE, blank, png, without_frame

HERE = Path(__file__).parent
ROWS = json.loads((HERE.parents[1] / "benchmarks" / "results" / "budget.json").read_text(encoding="utf-8"))["rows"]
NAMES = {"adamw-1, adamw-2": "AdamW, AdamW", "muon-1, muon-2": "Muon, Muon", "adamw-1, muon-1": "AdamW, Muon"}
STYLES = {"orthogonal": ("#2563a8", "o-"), "learned": ("#1a7f5a", "s-")}

figure = blank(9.6, 3.6)
for axis, (pair, name) in zip(figure.subplots(1, 3, sharey=True), NAMES.items(), strict=True):
    for align, (colour, style) in STYLES.items():
        rows = [row for row in ROWS if (row["pair"], row["align"]) == (pair, align)]
        axis.plot([row["cost"] for row in rows], [row["excess"] for row in rows], style, color=colour, label=align)
    ensemble = next(row["ensemble"] for row in ROWS if row["pair"] == pair)
    axis.plot([2], [ensemble], "*", color=ORANGE, markersize=13, label="ensemble of both")
    axis.axhline(0, color=GREY, linewidth=0.8)
    axis.set(title=name, xlabel="parameters, over one model's")
    if pair == next(iter(NAMES)):
        axis.set_ylabel("loss above both models' mean, nats")
        axis.legend(frameon=False, fontsize="small")
(HERE / "budget.png").write_bytes(png(without_frame(figure)))
