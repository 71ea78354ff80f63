"""An ensemble as a model: what it says is the average of what its members say, and its cache changes nothing."""

from __future__ import annotations

import pytest
import torch
from conftest import state_of, tiny_model
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

from isthmus.checkpoint.model import log_probs
from isthmus.eval.ensemble import Ensemble, averaged
from isthmus.eval.loss import LossMeter, ensemble_losses

MODELS = [tiny_model(seed) for seed in range(3)]
STATES = [(state_of(model), model.config) for model in MODELS]
IDS = torch.randint(128, (2, 20), generator=torch.Generator().manual_seed(0))


def test_probabilities_are_averaged() -> None:
    logits = Ensemble.of(STATES)(IDS).logits
    expected = sum(log_probs(state, config, IDS).double().exp() for state, config in STATES) / 3
    assert torch.allclose(logits.double().exp(), torch.as_tensor(expected), atol=1e-6)


def test_logits_are_averaged() -> None:
    logits = Ensemble.of(STATES, "logits")(IDS).logits
    expected = sum(log_probs(state, config, IDS) for state, config in STATES) / 3
    assert torch.allclose(logits, torch.as_tensor(expected).log_softmax(-1), atol=1e-5)


@pytest.mark.parametrize("average", ["probabilities", "logits"])
def test_of_one_model_it_is_that_model(average: str) -> None:
    logits = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(averaged([logits], average), logits.log_softmax(-1), atol=1e-6)


def test_its_loss_is_what_the_members_losses_come_to() -> None:
    blocks = {"text": torch.randint(128, (4, 32), generator=torch.Generator().manual_seed(1))}
    members = [LossMeter(config, blocks).token_losses(state) for state, config in STATES]
    expected = ensemble_losses(members)
    log_probabilities = (
        Ensemble.of(STATES)(blocks["text"]).logits[:, :-1].gather(2, blocks["text"][:, 1:, None])[..., 0]
    )
    assert torch.allclose(-log_probabilities.double().mean(1), expected.per_block["text"], atol=1e-6)


@pytest.mark.parametrize(
    "options", [{}, {"num_beams": 3}, {"do_sample": True, "top_k": 20}, {"num_return_sequences": 2, "num_beams": 2}]
)
def test_its_cache_changes_nothing(options: dict[str, object]) -> None:
    model = Ensemble.of(STATES)
    mask = torch.ones_like(IDS)
    mask[0, :4] = 0  # padded on the left
    common = {"attention_mask": mask, "max_new_tokens": 8, "pad_token_id": 0, **options}
    texts = []
    for cached in (True, False):
        torch.manual_seed(0)
        texts.append(model.generate(IDS, use_cache=cached, **common))
    assert torch.equal(*texts)
    assert texts[0].shape[1] > IDS.shape[1]


def test_greedy_text_is_the_most_probable_of_the_average() -> None:
    model = Ensemble.of(STATES)
    ids = IDS[:1]
    for _ in range(4):
        probabilities = sum(log_probs(state, config, ids)[0, -1].exp() for state, config in STATES)
        ids = torch.cat([ids, torch.as_tensor(probabilities).argmax().view(1, 1)], 1)
    text = model.generate(IDS[:1], attention_mask=torch.ones(1, 20), max_new_tokens=4, do_sample=False, eos_token_id=-1)
    assert torch.equal(text, ids)


def test_padding_on_the_left_changes_nothing() -> None:
    """As in a batch of prompts of several lengths."""
    model = Ensemble.of(STATES)
    ids, options = IDS[:1, :10], {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0}
    alone = model.generate(ids, attention_mask=torch.ones_like(ids), **options)[0, 10:]
    padded = torch.cat([torch.zeros_like(ids), ids], 1)
    mask = torch.cat([torch.zeros_like(ids), torch.ones_like(ids)], 1)
    for cached in (True, False):
        assert torch.equal(model.generate(padded, attention_mask=mask, use_cache=cached, **options)[0, 20:], alone)


OTHERS = {
    "bloom": {"hidden_size": 32, "n_layer": 2, "n_head": 2},
    "mamba": {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 4, "pad_token_id": 0},
}


@pytest.mark.parametrize("kind", OTHERS)
def test_members_of_architectures_without_positions(kind: str) -> None:
    """They do not say how long their context is, and some have caches of another kind."""
    config = CONFIG_MAPPING[kind](vocab_size=128, bos_token_id=0, eos_token_id=0, **OTHERS[kind])
    torch.manual_seed(0)
    members = [AutoModelForCausalLM.from_config(config).eval() for _ in range(2)]
    ensemble = Ensemble.of([(dict(member.named_parameters()), config) for member in members])
    expected = torch.stack([member(IDS).logits.softmax(-1) for member in members]).mean(0)
    assert torch.allclose(ensemble(IDS).logits.exp(), expected, atol=1e-6)
    options = {"max_new_tokens": 6, "do_sample": False, "attention_mask": torch.ones_like(IDS)}
    assert torch.equal(*(ensemble.generate(IDS, use_cache=cached, **options) for cached in (True, False)))
