"""What it does to the numbers when the text trained the models: two embedded models, trained apart, that then read
50,000 tokens several times, aligned in closed form; on this text and on text that is new to them (the baseline).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from measurement import record
from torch import Tensor

import isthmus
from isthmus.align.pipeline import align_states
from isthmus.checkpoint.loading import Checkpoint
from isthmus.checkpoint.model import empty_model, with_tied
from isthmus.eval.barrier import profile
from isthmus.eval.loss import LossMeter
from isthmus.eval.memorization import own_words
from isthmus.eval.text import Text
from isthmus.merge.path import WeightPath

EMBEDDED = Path(__file__).parents[1] / "lab" / "checkpoints"
TOKENS, BATCH = 50_000, 16


def read(model: Checkpoint, text: Tensor, times: int, seed: int) -> dict[str, Tensor]:
    """The state of a model that has read a text several times."""
    trained, generator = empty_model(model.config), torch.Generator().manual_seed(seed)
    state = {name: tensor.float().clone() for name, tensor in model.state.items()}
    trained.load_state_dict(with_tied(state, trained), assign=True)
    optimizer = torch.optim.AdamW(trained.requires_grad_(True).parameters(), lr=1e-3)
    for _ in range(times):
        for chosen in torch.randperm(len(text), generator=generator).split(BATCH):
            trained(text[chosen], labels=text[chosen]).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    parameters = dict(trained.named_parameters())
    return {name: parameters[name].detach() for name in state}


def case(times: int) -> dict[str, Any]:
    first, second = (isthmus.load(EMBEDDED / name) for name in ("adamw-1", "adamw-2"))
    config = first.config
    text = Text(["stdlib:docs:heldout"], first.tokenizer(), context=128, vocabulary=config.vocab_size, seed=1)
    (part,) = text.blocks(fit_tokens=TOKENS, select_tokens=0, report_tokens=8192)
    blocks = {"read": part.fit[:64], "new": part.report}
    states = [read(model, part.fit, times, seed) for seed, model in enumerate((first, second))]
    aligned = align_states(*states, config, "orthogonal")
    line = profile(
        WeightPath("linear", aligned.a, aligned.b), LossMeter(aligned.config, blocks), (0, 0.25, 0.5, 0.75, 1)
    )
    own = [own_words(state, config, blocks, seed=0) for state in states]
    return {
        label: {
            "ends": [round(end.label_mean(label), 3) for end in (line.start, line.end)],
            "barrier": round(line.label_barrier(label), 3),
            "gap": [round(one.gap.label_mean(label), 3) for one in own],
            "alike": [round(one.alike.label_mean(label), 3) for one in own],
            "known by heart": [label in one.by_heart() for one in own],
        }
        for label in blocks
    }


def main() -> None:
    what = "losses and barriers in nats per token, by how often the models have read the text"
    baseline = "new: text of the same kind that they have not read"
    record("memorized", {"what": what, "baseline": baseline, "cases": {times: case(times) for times in (1, 2, 4, 8)}})


if __name__ == "__main__":
    main()
