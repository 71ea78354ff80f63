from __future__ import annotations

from itertools import combinations

import pytest
import torch
from conftest import EMBEDDED, state_of, tiny_config, tiny_model
from transformers import AutoModelForCausalLM, BloomConfig

from isthmus.checkpoint.loading import load
from isthmus.checkpoint.model import log_probs
from isthmus.eval.progress import Progress
from isthmus.eval.samples import PURPOSES, Writer, samples, written_blocks
from isthmus.merge.path import WeightPath

pytestmark = pytest.mark.usefixtures("afresh")


def test_all_models_go_on_from_the_same_prompts() -> None:
    docs, code = load(EMBEDDED / "docs"), load(EMBEDDED / "code")
    tokenizer = docs.tokenizer()
    ids = torch.tensor([tokenizer.encode("Return the name of the file. " * 30)[:128]] * 3)
    middle = WeightPath("linear", docs.state, code.state)(0.5)
    models = {"A": (docs.state, docs.config), "B": (code.state, code.config), "merge": (middle, docs.config)}
    written = samples(models, tokenizer, {"x": ids}, per_label=2, new_tokens=12)
    assert len(written) == 2
    for sample in written:
        assert sample.label == "x"
        assert sample.prompt.startswith("Return the name of the file.")
        assert list(sample.continuations) == ["A", "B", "merge"]
        assert len(set(sample.continuations.values())) > 1
    assert samples(models, tokenizer, {"x": ids}, per_label=2, new_tokens=12) == written


def test_a_text_that_ends_early_is_shown_to_its_end() -> None:
    """Of texts that are written together, the others go on; where no end is known, all do."""
    checkpoint = load(EMBEDDED / "docs")
    tokenizer, blocks = checkpoint.tokenizer(), torch.arange(200, 248).view(2, 24)

    def written(end: int | list[int] | None) -> list[str]:
        config = type(checkpoint.config).from_dict({**checkpoint.config.to_dict(), "eos_token_id": end})
        models = {"m": (dict(checkpoint.state), config)}
        texts = samples(models, tokenizer, {"x": blocks}, per_label=2, new_tokens=12)
        return [one.continuations["m"] for one in texts]

    first, second = written(None)
    tokens = tokenizer.encode(first)
    end = next(token for place, token in enumerate(tokens) if place > 2 and token not in tokenizer.encode(second))
    shorter, same = written([end, 1023])
    assert same == second
    assert first.startswith(shorter)
    assert 0 < len(shorter) < len(first)


def test_a_context_shorter_than_a_prompt_and_a_sample() -> None:
    """24 tokens of prompt leave 8 of a context of 32."""
    tokenizer = load(EMBEDDED / "docs").tokenizer()
    config = tiny_config(vocab_size=1024)
    ids = torch.randint(1024, (1, 32), generator=torch.Generator().manual_seed(0))
    (sample,) = samples({"m": (state_of(tiny_model(vocab_size=1024)), config)}, tokenizer, {"x": ids}, new_tokens=64)
    assert sample.continuations["m"]
    short = tiny_config(vocab_size=1024, n_positions=16)
    (sample,) = samples(
        {"m": (state_of(tiny_model(vocab_size=1024, n_positions=16)), short)},
        tokenizer,
        {"x": ids[:, :16]},
        new_tokens=64,
    )
    assert sample.continuations["m"]


def test_a_model_that_does_not_say_how_long_its_context_is() -> None:
    config = BloomConfig(vocab_size=1024, hidden_size=32, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=0)
    state = dict(AutoModelForCausalLM.from_config(config).named_parameters())
    tokenizer, ids = load(EMBEDDED / "docs").tokenizer(), torch.randint(1024, (2, 32))
    assert len(samples({"m": (state, config)}, tokenizer, {"x": ids}, per_label=2, new_tokens=3)) == 2


def beginnings(count: int) -> torch.Tensor:
    return torch.zeros(count, 1, dtype=torch.int64)


def test_a_model_writes_blocks_as_it_predicts() -> None:
    checkpoint = load(EMBEDDED / "docs")
    state = dict(checkpoint.state)
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    blocks = written_blocks(state, checkpoint.config, beginnings(48), 64, seed=1)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert blocks.shape == (48, 64)
    assert torch.equal(blocks, written_blocks(state, checkpoint.config, beginnings(48), 64, seed=1))
    assert not torch.equal(blocks, written_blocks(state, checkpoint.config, beginnings(48), 64, seed=2))
    # The loss on what is drawn from the predictions is their entropy.
    scores = log_probs(state, checkpoint.config, blocks)[:, :-1]
    entropy = -(scores.exp() * scores).sum(-1).mean()
    drawn = -scores.gather(-1, blocks[:, 1:, None]).mean()
    assert drawn.item() == pytest.approx(entropy.item(), abs=0.1)


def test_what_is_written_in_several_parts_is_as_much(monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = load(EMBEDDED / "docs")
    monkeypatch.setattr("isthmus.eval.samples.CACHE_BYTES", 8 * 4 * 128 * 32 * 4)
    first = torch.randint(1024, (10, 5), generator=torch.Generator().manual_seed(0))
    blocks = written_blocks(dict(checkpoint.state), checkpoint.config, first, 32, seed=1)
    assert blocks.shape == (10, 32)
    assert torch.equal(blocks[:, :5], first), "they go on from their beginnings, in order"


def test_models_write_in_turn_and_no_text_serves_two_purposes() -> None:
    config = tiny_config()
    states = [state_of(tiny_model(seed)) for seed in (1, 2)]
    writer = Writer(states, config, 0, "cpu", Progress())
    texts = {purpose: writer.blocks(purpose, 5, 16) for purpose in PURPOSES}
    assert {rows.shape for rows in texts.values()} == {(5, 16)}
    for one, other in combinations(texts.values(), 2):
        assert not torch.equal(one, other)
    swapped = Writer(states[::-1], config, 0, "cpu", Progress()).blocks("fit", 5, 16)
    assert not torch.equal(swapped[0], texts["fit"][0])
    # Each likes its own: on what it wrote, it has the lower loss.
    own = [log_probs(state, config, texts["fit"]) for state in states]
    losses = torch.stack([-one[:, :-1].gather(-1, texts["fit"][:, 1:, None]).mean((1, 2)) for one in own])
    assert losses.argmin(0).tolist() == [0, 1, 0, 1, 0]
    again = Writer(states, config, 1, "cpu", Progress())
    assert not any(torch.equal(again.blocks("fit", 5, 16), rows) for rows in texts.values()), "another seed"


def test_a_model_that_gives_nan_still_writes() -> None:
    """What its loss is, is said elsewhere."""
    state = {name: torch.full_like(tensor, torch.nan) for name, tensor in state_of(tiny_model()).items()}
    assert written_blocks(state, tiny_config(), beginnings(2), 8, seed=0).shape == (2, 8)


def test_weights_of_half_precision_write_in_single() -> None:
    state = {name: tensor.bfloat16() for name, tensor in state_of(tiny_model()).items()}
    wide = {name: tensor.float() for name, tensor in state.items()}
    narrow, single = (written_blocks(one, tiny_config(), beginnings(4), 16, seed=0) for one in (state, wide))
    assert torch.equal(narrow, single)
