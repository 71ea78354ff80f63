"""One yardstick for all merges that tests write: the loss that is shown is transformers' loss of the saved directory.

`conftest` puts `watched` around every save in this process; a merge with a loss that cannot be held against its files
fails the test. What a process of its own writes is held against them with `require_loss_of_files`.
"""

from __future__ import annotations

import functools
import json
import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
)

RADIX = 2**24  # how blocks of masked language models are written
SEGMENT = 2**23  # is added to the tokens of a second segment
WITHIN = 1e-3  # nats per token
TEXTS: list[Tensor] = []  # the report blocks of every text that was read
CHECKED: list[Path] = []  # the directories that were held against their reports


def recorded(blocks: Callable[..., Any]) -> Callable[..., Any]:
    """`Text.blocks` or `Writer.blocks`, remembering the blocks to report on that it gave."""

    @functools.wraps(blocks)
    def reading(*arguments: Any, **options: Any) -> Any:
        texts = blocks(*arguments, **options)
        TEXTS.extend([texts] if isinstance(texts, Tensor) else [part.report for part in texts])
        return texts

    return reading


def watched(save: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    """`Merge.save`, and what it wrote held against what it says."""

    @functools.wraps(save)
    def saving(merge: Any, directory: str | Path, **options: Any) -> dict[str, Any]:
        report = save(merge, directory, **options)
        if report["data"]:
            assert merge.shown is not None, "a loss is shown, and no text is there to hold it against"
            blocks = dict(merge.shown.blocks)
            for label, rows in blocks.items():
                assert any(rows is text for text in TEXTS), f"'{label}' is not the report text that was read"
            assert [part["label"] for part in report["data"]] == list(blocks)
            require_loss_of_files(Path(directory), blocks, base=merge.under and merge.under.reference)
        return report

    return saving


def loss_of_files(directory: Path, blocks: Mapping[str, Tensor], base: Any = None) -> dict[str, float]:
    """Label → mean loss per token, by a plain loop over what transformers loads, and peft of an adapter of a `base`."""
    masked = any(int(rows.max()) >= RADIX for rows in blocks.values())
    loader: Any = AutoModelForMaskedLM if masked else AutoModelForCausalLM
    measured = hidden_loss if masked else next_token_loss
    if any(int(rows.min()) < -1 for rows in blocks.values()):
        (name,) = AutoConfig.from_pretrained(base or directory).architectures
        tokens = name.endswith("ForTokenClassification")
        loader = AutoModelForTokenClassification if tokens else AutoModelForSequenceClassification
        measured = label_loss
    model = loader.from_pretrained(base or directory, dtype=torch.float32).eval()
    if base is not None:
        model = PeftModel.from_pretrained(model, directory).eval()
    losses = {}
    for label, rows in blocks.items():
        total = 0.0
        for ids in rows:
            total += measured(model, ids)
        losses[label] = total / len(rows)
    return losses


@torch.no_grad()
def next_token_loss(model: Any, ids: Tensor) -> float:
    scores = model(ids[None]).logits[0, :-1].log_softmax(-1)
    return -float(scores.gather(1, ids[1:, None]).double().mean())


@torch.no_grad()
def hidden_loss(model: Any, ids: Tensor) -> float:
    """By transformers' own loss, which leaves out labels of −100."""
    shown = torch.tensor([entry // RADIX - 1 if entry >= RADIX else entry for entry in ids.tolist()])
    hidden = [entry % RADIX if entry >= RADIX and entry % RADIX != RADIX - 1 else -100 for entry in ids.tolist()]
    return float(model(input_ids=shown[None], labels=torch.tensor(hidden)[None]).loss)


def example_of(row: Tensor) -> tuple[dict[str, Tensor], list[int]]:
    """What a model is given of a labelled block, and the label of every token, −100 for none."""
    entries = [entry for entry in row.tolist() if entry != -1]
    ids = [entry if entry >= 0 else (-2 - entry) // RADIX for entry in entries]
    given = {"input_ids": torch.tensor([[entry % SEGMENT for entry in ids]])}
    if max(ids) >= SEGMENT:
        given["token_type_ids"] = torch.tensor([[entry // SEGMENT for entry in ids]])
    return given, [-100 if entry >= 0 else (-2 - entry) % RADIX for entry in entries]


@torch.no_grad()
def label_loss(model: Any, row: Tensor) -> float:
    """By transformers' own loss, an example at a time."""
    given, labels = example_of(row)
    whole = type(model).__name__.endswith("ForSequenceClassification")
    return float(model(**given, labels=torch.tensor(labels[:1] if whole else [labels])).loss)


@torch.no_grad()
def accuracy_of_files(directory: Path, blocks: Mapping[str, Tensor]) -> float:
    """The share of right labels, by a plain loop over what transformers loads: the mean over texts, of examples."""
    (name,) = AutoConfig.from_pretrained(directory).architectures
    whole = name.endswith("ForSequenceClassification")
    loader: Any = AutoModelForSequenceClassification if whole else AutoModelForTokenClassification
    model = loader.from_pretrained(directory, dtype=torch.float32).eval()
    means = []
    for rows in blocks.values():
        shares = []
        for row in rows:
            given, labels = example_of(row)
            likeliest = model(**given).logits.argmax(-1).flatten().tolist()
            right = [one == label for one, label in zip(likeliest, labels, strict=False) if label != -100]
            shares.append(sum(right) / len(right))
        means.append(sum(shares) / len(shares))
    return sum(means) / len(means)


def require_loss_of_files(directory: Path, blocks: Mapping[str, Tensor], base: Any = None) -> None:
    """Report, card and files of a merge agree on its loss."""
    report = json.loads((directory / "isthmus.json").read_text(encoding="utf-8"))
    point, losses = report["merge_point"], loss_of_files(directory, blocks, base)
    mean = sum(losses.values()) / len(losses)
    assert math.isfinite(mean)
    for label, loss in losses.items():
        assert abs(loss - point["losses"][label]) < WITHIN, f"{label}: {loss} in the files, {point} in the report"
    assert abs(mean - point["loss"]) < WITHIN, f"{mean} in the files, {point} in the report"
    ends = [sum(end["loss"].values()) / len(end["loss"]) for end in report["endpoints"]]
    assert abs(min(ends) - mean - point["gain"]) < WITHIN, "the gain is not that of the files"
    numbers = list(losses.values()) + ([mean] if len(losses) > 1 else [])
    require_row(numbers, (directory / "README.md").read_text(encoding="utf-8"))
    CHECKED.append(directory)


def require_row(losses: list[float], shown: str) -> None:
    """A table for people has these losses in the row of the merge."""
    rows = re.findall(r"^\W*(?:\*\*)?merge (?:at t = |by ).*$", shown, re.MULTILINE)
    rows = [re.findall(r"(?<![\w.])\d+\.\d{3}(?!\d)", row) for row in rows]
    numbers = next(([float(number) for number in row] for row in rows if len(row) >= len(losses)), None)
    assert numbers is not None, f"no row of the merge in:\n{shown}"
    for loss, number in zip(losses, numbers[-len(losses) :], strict=True):
        assert abs(loss - number) < WITHIN + 5e-4, f"{numbers} is shown, and the files have {losses}"
