from __future__ import annotations

import math

import pytest
import torch
from conftest import state_of, tiny_config, tiny_model

from isthmus.checkpoint.loading import load
from isthmus.eval.loss import Losses, LossMeter, cross_entropy, ensemble_losses, offloaded_token_losses, per_block
from isthmus.eval.targets import IGNORED

IDS = torch.randint(128, (6, 32), generator=torch.Generator().manual_seed(3))
BLOCKS = {
    label: torch.randint(tiny_config().vocab_size, (3, 32), generator=torch.Generator().manual_seed(seed))
    for seed, label in enumerate(("a", "b"))
}


@pytest.mark.parametrize("tied", [True, False])
def test_the_loss_is_that_of_transformers(tied: bool) -> None:
    model = tiny_model(tie_word_embeddings=tied)
    meter = LossMeter(tiny_config(tie_word_embeddings=tied), {"text": IDS})
    measured = meter(state_of(model))
    with torch.no_grad():
        expected = [model(row[None], labels=row[None]).loss.item() for row in IDS]
    assert measured.per_block["text"].tolist() == pytest.approx(expected, abs=1e-5)
    assert measured.mean == pytest.approx(sum(expected) / 6, abs=1e-5)


def test_every_target_is_as_exact_as_float32_allows() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = 5 * torch.randn(3, 7, 50_257, generator=generator)
    targets = torch.randint(50_257, (3, 7), generator=generator)
    targets[1, 4:] = IGNORED
    exact = -logits.double().log_softmax(-1).gather(-1, targets.clamp_min(0)[..., None])[..., 0]
    exact[1, 4:] = 0
    torch.testing.assert_close(cross_entropy(logits, targets).double(), exact, atol=0, rtol=1e-6)


def test_one_meter_measures_many_states_and_counts_blocks() -> None:
    done = []
    meter = LossMeter(tiny_config(), {"a": IDS[:2], "b": IDS}, on_blocks=done.append)
    first, second = meter(state_of(tiny_model(0))), meter(state_of(tiny_model(1)))
    assert first.mean != second.mean
    assert sum(done) == 16
    assert torch.equal(meter(state_of(tiny_model(0))).per_block["b"], first.per_block["b"])


def test_mean_and_standard_error_over_labels() -> None:
    losses = Losses({"a": torch.tensor([1.0, 3.0]).double(), "b": torch.tensor([4.0, 4.0, 7.0]).double()})
    assert losses.mean == pytest.approx((2.0 + 5.0) / 2)
    assert losses.stderr == pytest.approx(math.sqrt(2.0 / 2 + 3.0 / 3) / 2)
    assert Losses({"a": torch.tensor([1.0])}).stderr == 0.0


def test_differences_are_paired() -> None:
    """What blocks have in common cancels in the standard error of a difference."""
    noise = torch.randn(50, generator=torch.Generator().manual_seed(0)).double()
    a, b = Losses({"x": noise + 1.0}), Losses({"x": noise})
    assert (a - b).mean == pytest.approx(1.0)
    assert (a - b).stderr < 1e-12 < a.stderr
    assert a.mixed(b, 0.25).mean == pytest.approx(0.75 * a.mean + 0.25 * b.mean)


def test_what_rounding_does_is_not_sure() -> None:
    """Of one function computed twice all blocks can be equally far apart, which is no standard error at all."""
    for apart, sure in ((2e-16, False), (2e-6, False), (1e-3, True)):
        difference = Losses({"x": torch.full((8,), apart, dtype=torch.float64)})
        assert difference.is_surely_positive is sure
        assert not (-difference).is_surely_positive
    noisy = Losses({"x": torch.tensor([0.1, -0.1, 0.2, -0.15], dtype=torch.float64)})
    assert not noisy.is_surely_positive


def test_the_ensemble_averages_probabilities() -> None:
    meter = LossMeter(tiny_config(), {"text": IDS})
    members = [tiny_model(0), tiny_model(1)]
    measured = ensemble_losses([meter.token_losses(state_of(model)) for model in members])
    with torch.no_grad():
        mean = sum(model(IDS).logits.double().softmax(-1) for model in members) / 2
    picked = mean[:, :-1].gather(-1, IDS[:, 1:, None]).squeeze(-1).log()
    assert torch.allclose(measured.per_block["text"], -picked.mean(1), atol=1e-5)
    one = meter.token_losses(state_of(members[0]))
    assert ensemble_losses([one, one]).mean == pytest.approx(per_block(one).mean)


@pytest.mark.parametrize("memory", [10**9, 60_000, 1_000])
def test_losses_do_not_depend_on_where_layers_lie(saved, memory: int) -> None:
    """All in memory, some of them, and none but the one whose turn it is."""
    checkpoint = load(saved("model"))
    seen = []
    losses = offloaded_token_losses(checkpoint.directory, BLOCKS, memory, on_blocks=seen.append)
    expected = LossMeter(checkpoint.config, BLOCKS).token_losses(checkpoint.state)
    assert all(torch.allclose(losses[label], expected[label], atol=1e-5) for label in BLOCKS)
    assert sum(seen) == 6
