"""What a model loses by another model's tokenizer: its loss before and after, per byte of the same text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..checkpoint.card import letter
from ..checkpoint.config import DEFAULT_CONTEXT, context_length
from ..checkpoint.inputs import Inputs
from ..checkpoint.loading import Checkpoint
from ..checkpoint.one_vocabulary import TransplantedVocabulary
from ..eval.loss import Losses, LossMeter
from ..eval.progress import Progress


def transplant_losses(
    inputs: Inputs, base: int, report: Mapping[str, Tensor], *, device: str, progress: Progress
) -> list[dict[str, Any]]:
    """What the report says of every model that took another tokenizer; nothing where none did.

    Tokens of two tokenizers are not the same, so that their losses are compared per byte: −log p of all tokens of a
    block but the first, by the number of bytes that they stand for. `base` is how many models stand before A.
    """
    vocabulary = inputs.unified
    if not isinstance(vocabulary, TransplantedVocabulary) or not inputs.first.schema.writes:
        return []
    places = [place for place in range(len(inputs.members)) if place != vocabulary.owner]
    progress.stage("measuring what other tokenizers cost", len(places))
    donor, records = inputs.members[vocabulary.owner].tokenizer(), []
    for place in places:
        shared, count = len(vocabulary.own[place]), len(vocabulary.tokens)
        record: dict[str, Any] = {"model": letter(place - base) if place >= base else "base"}
        record |= {"shared_tokens": shared, "made_rows": count - shared}
        if report:
            texts = {label: [str(donor.decode(row)) for row in rows] for label, rows in report.items()}
            original, member = vocabulary.original(place), inputs.members[place]
            both = {label: _that_fit((original, member), own) for label, own in texts.items()}
            both = {label: own for label, own in both.items() if own}
            if not both:
                records.append(record)
                continue
            before, after = (per_byte(model, both, device) for model in (original, member))
            change = after - before
            record |= {"loss_before": before.mean, "loss_after": after.mean, "loss_change_stderr": change.stderr}
        records.append(record)
        progress.advance()
    return records


def _that_fit(models: Sequence[Checkpoint], texts: Sequence[str]) -> list[str]:
    """The texts, cut to what all models read of them by their own tokenizers; not those of less than two tokens."""
    tokenizers = [(model.tokenizer(), context_length(model.config) or DEFAULT_CONTEXT) for model in models]
    fitting = []
    for text in texts:
        lengths = []
        for tokenizer, limit in tokenizers:
            ids = tokenizer.encode(text, add_special_tokens=False, verbose=False)
            if len(ids) > limit:
                text = str(tokenizer.decode(ids[:limit]))
            lengths.append(len(ids))
        if min(lengths, default=0) > 1:
            fitting.append(text)
    return fitting


def per_byte(model: Checkpoint, texts: Mapping[str, list[str]], device: str) -> Losses:
    """The loss of a model on some texts by its own tokenizer, in nats per byte, text by text."""
    tokenizer, limit = model.tokenizer(), context_length(model.config) or DEFAULT_CONTEXT
    losses = {}
    for label, own in texts.items():
        values = []
        for text in own:
            ids = torch.tensor([tokenizer.encode(text, add_special_tokens=False, verbose=False)[:limit]])
            meter = LossMeter(model.config, {label: ids}, device=device)
            size = len(str(tokenizer.decode(ids[0, 1:])).encode())
            values.append(meter.token_losses(model.state)[label].double().sum() / max(1, size))
        losses[label] = torch.stack([value.double() for value in values])
    return Losses(losses)
