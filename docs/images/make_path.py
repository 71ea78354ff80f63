"""Draws path.png: the loss along a line and a curve between an embedded AdamW and an embedded Muon model."""

from __future__ import annotations

from pathlib import Path

import isthmus
from isthmus.eval.figures import loss_figure, png
from isthmus.lab.demo import CHECKPOINTS

DATA = ("stdlib:docs", "stdlib:code")
ENDS = (CHECKPOINTS / "adamw-1", CHECKPOINTS / "muon-1")
found = isthmus.merge_models(ENDS, isthmus.MergePlan(DATA, align="orthogonal", path=isthmus.CurvePlan()))
Path(__file__).with_name("path.png").write_bytes(png(loss_figure(found.report)))
