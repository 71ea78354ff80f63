"""Every option that is given has an effect, or is bad usage: one sentence, exit code 2, nothing written."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import EMBEDDED

DOCS, CODE, ADAMW = (EMBEDDED / name for name in ("docs", "code", "adamw-1"))
DATA = ("--data", "stdlib:docs")
TWO, PLAIN = ("merge", DOCS, CODE), ("--align", "none", "--t", 0.5)
LINEAR = (*TWO, "--method", "linear")

IDLE: list[tuple[tuple[object, ...], str]] = [
    ((*LINEAR, "--density", 0.5), "linear takes no --density"),
    ((*LINEAR, "--lambda", 2), "linear takes no --lambda"),
    ((*LINEAR, "--t", 0.5), "linear takes no --t"),
    ((*LINEAR, "--t", "auto"), "--t auto is for two models"),
    ((*LINEAR, "--base", ADAMW), "linear takes no --base"),
    ((*LINEAR, "--path", "linear"), "--path is for two models"),
    ((*LINEAR, "--bends", 2), "--bends is for two models"),
    ((*LINEAR, *DATA, "--path", "polychain", "--interior", 0.2), "--interior is for two models"),
    ((*LINEAR, *DATA, "--path", "polychain", "--align", "learned", "--align-steps", 5), "--align-steps is for"),
    ((*LINEAR, "--align-steps", 10), "--align-steps is for --align learned"),
    ((*LINEAR, "--objective", "worst"), "--objective is what t is chosen by, or weights"),
    ((*LINEAR, "--interior", 0.2), "--interior is for two models"),
    ((*LINEAR, "--budget", 1.5), "--budget is for two models"),
    ((*LINEAR, "--mixed-precision", "bf16"), "--mixed-precision is for --align learned"),
    ((*LINEAR, "--restart"), "--restart is for two models"),
    ((*LINEAR, "--tokens", 64), "--tokens counts tokens of text"),
    ((*LINEAR, "--context", 64), "--context counts tokens of text"),
    ((*LINEAR, "--max-excess", 0.2), "--max-excess is for the verdict on a spectrum"),
    ((*LINEAR, *DATA, "--search", "--weight", 1), "--weight contradicts --search"),
    ((*LINEAR, *DATA, "--soup", "greedy", "--weight", 1), "--weight contradicts --soup greedy"),
    ((*LINEAR, *DATA, "--soup", "greedy", "--search"), "--soup contradicts --search"),
    ((*LINEAR, *DATA, "--soup", "search", "--weight", 1), "--weight contradicts --soup search"),
    ((*LINEAR, *DATA, "--search", "gradient", "--weight", 1), "--weight contradicts --search"),
    ((*LINEAR, *DATA, "--granularity", "layer"), "--granularity is for a search for weights: add --search"),
    ((*LINEAR, *DATA, "--soup", "search", "--granularity", "layer"), "--granularity is for a search for weights"),
    ((*LINEAR, *DATA, "--search", "gradient", "--evaluations", 50), "--evaluations counts what --search cma tries"),
    ((*LINEAR, *DATA, "--search", "gradient", "--restart"), "--restart is for two models"),
    ((*TWO, *DATA, "--method", "slerp", "--search", "gradient", "--t", 0.3), "--t contradicts --search"),
    ((*TWO, *DATA, "--search", "gradient"), "--search is one of the options that are for a --method"),
    ((*LINEAR, "--weight", "0,1,2,3,4,5,6,7,8,9"), "--weight 0,1,2,3,4,5,6,7,8,9: 'weight' is a gradient of 10 values"),
    ((*TWO, "--method", "task_arithmetic", "--base", ADAMW, "--density", 0.5), "task_arithmetic takes no --density"),
    ((*TWO, "--method", "karcher", "--weight", 1), "karcher takes no --weight"),
    ((*TWO, *PLAIN, "--lambda", 0), "--lambda is one of the options that are for a --method"),
    ((*TWO, *PLAIN, "--soup", "uniform"), "--soup is one of the options that are for a --method"),
    ((*TWO, *PLAIN, "--weight", 1), "--weight is one of the options that are for a --method"),
    ((*TWO, *PLAIN, "--bends", 1), "--bends is for bends: add --path polychain or bezier"),
    ((*TWO, *PLAIN, "--steps", 300), "--steps is for bends"),
    ((*TWO, *PLAIN, "--bend-optimizer", "muon"), "--bend-optimizer is for bends"),
    ((*TWO, *PLAIN, "--bend-lr", 0.1), "--bend-lr is for bends"),
    ((*TWO, *PLAIN, "--bend-weight-decay", 0.2), "--bend-weight-decay is for bends"),
    ((*TWO, *PLAIN, "--bend-start", "midpoint"), "--bend-start is for bends"),
    ((*TWO, *PLAIN, "--batch", 8), "--batch is for bends"),
    ((*TWO, *PLAIN, "--accumulate", 2), "--accumulate is for bends"),
    ((*TWO, *DATA, "--align", "none", "--align-steps", 10), "--align-steps is for an alignment that is learned"),
    ((*TWO, *DATA, "--align", "orthogonal", "--align-batch", 2), "--align-batch is for an alignment that is learned"),
    ((*TWO, *DATA, "--path", "bezier", "--align-steps", 10), "--align-steps is for an alignment that is learned"),
    ((*TWO, *DATA, "--align", "none", "--fit-on", "docs"), "--fit-on is for training"),
    ((*TWO, *DATA, "--align", "orthogonal", "--mixed-precision", "no"), "--mixed-precision is for training"),
    ((*TWO, *DATA, "--t", 0.5, "--objective", "mean"), "--objective is for the choice of t"),
    ((*TWO, *DATA, "--t", 0.5, "--interior", 0.1), "--interior is for the choice of t"),
    ((*TWO, *PLAIN, "--tokens", 64), "--tokens counts tokens of text"),
    ((*TWO, *PLAIN, "--report-on", "law"), "--report-on names a text"),
    ((*TWO, "--path", "polychain", "--fit-on", "law"), "--fit-on names a text"),
    ((*TWO, *PLAIN, "--max-excess", 0.1), "--max-excess is for the verdict on a spectrum"),
    ((*TWO, *DATA, "--no-spectrum", "--same-kind", 0.1), "--same-kind is for the verdict on a spectrum"),
    ((*TWO, *DATA, "--no-spectrum", "--require-spectrum"), "--no-spectrum contradicts --require-spectrum"),
    (("align", DOCS, CODE, "--context", 64), "--context is for blocks of text, at which --method orthogonal"),
    (("align", DOCS, CODE, *DATA), "--data is text, at which --method orthogonal does not look"),
    (("align", DOCS, CODE, "--method", "permutation", *DATA), "--data is text, at which --method permutation"),
    (("align", DOCS, CODE, "--align-steps", 10), "--align-steps is for --method learned"),
    (
        ("align", DOCS, CODE, "--method", "combined", *DATA, "--mixed-precision", "no"),
        "--mixed-precision is for --method",
    ),
]


@pytest.mark.parametrize(
    ("arguments", "said"), IDLE, ids=lambda value: str(value)[:40] if isinstance(value, str) else ""
)
def test_an_option_without_effect_is_bad_usage(
    isthmus, tmp_path: Path, arguments: tuple[object, ...], said: str
) -> None:
    found = isthmus(*arguments, "-o", tmp_path / "out")
    assert (found.code, said in found.error) == (2, True), found.err
    assert found.error.startswith("isthmus: ")
    assert found.error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_ensembles(isthmus) -> None:
    found = isthmus("ensemble", DOCS, CODE, *DATA, "--overwrite")
    assert (found.code, "--overwrite is for an output: add -o" in found.err) == (2, True)
    alone = isthmus("ensemble", DOCS, *DATA, "--path", "path", "--at", 0.5, "--align", "none")
    assert (alone.code, "--align is for the soup of two models or more" in alone.err) == (2, True)


@pytest.mark.parametrize(
    "options",
    [
        (*PLAIN, "--path", "linear", "--device", "cpu", "--seed", 1, "--dtype", "float32"),
        (*PLAIN, "--spectrum", "--max-excess", 0.2),
        ("--method", "ties", "--base", ADAMW, "--weight", 1, "--weight", "0,1", "--density", 0.5, "--lambda", 0.9),
    ],
)
def test_options_with_an_effect(isthmus, tmp_path: Path, options: tuple[object, ...]) -> None:
    assert isthmus(*TWO, "-o", tmp_path / "out", *options).code == 0
