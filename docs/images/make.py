"""Draws path.png: the loss along a line and a curve between an embedded AdamW and an embedded Muon model."""

from __future__ import annotations

from pathlib import Path

import isthmus
from isthmus.eval.figures import loss_figure, png
from isthmus.lab.demo import CHECKPOINTS

DATA = ("stdlib:docs", "stdlib:code")
plan = isthmus.MergePlan(data=DATA, align="orthogonal", path=isthmus.CurvePlan())
merged = isthmus.merge_models([CHECKPOINTS / "adamw-1", CHECKPOINTS / "muon-1"], plan)
Path(__file__).with_name("path.png").write_bytes(png(loss_figure(merged.report)))
