from __future__ import annotations

import pytest
import torch
from conftest import EMBEDDED, state_of
from tiny_models import tiny_bert
from transformers import AutoTokenizer, BertForMaskedLM, PreTrainedTokenizerBase

from isthmus.checkpoint.errors import BadInput
from isthmus.eval.loss import LossMeter
from isthmus.eval.masking import Masking
from isthmus.eval.progress import Progress
from isthmus.eval.samples import Writer
from isthmus.eval.summary import unit
from isthmus.eval.targets import is_masked, predicted, scores, shown, text_of
from isthmus.eval.text import Text
from isthmus.eval.text_hashes import TextHashes

MASK, FIRST, LAST = 1024, 1025, 1026
MASKING = Masking(MASK, (FIRST, LAST), (0, MASK, FIRST, LAST), 1027, seed=0)
BLOCKS = torch.randint(1, 1024, (200, 100), generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    made = AutoTokenizer.from_pretrained(EMBEDDED / "adamw-1")
    made.add_special_tokens({"mask_token": "[MASK]", "cls_token": "[CLS]", "sep_token": "[SEP]"})
    return made


def test_what_is_hidden_is_fifteen_percent_in_three_ways() -> None:
    hidden = MASKING.hide(BLOCKS)
    assert hidden.shape == (200, 102)
    assert torch.equal(torch.stack(text_of(hidden)), BLOCKS), "the text is still there"
    seen = shown(hidden)
    assert (seen[:, 0] == FIRST).all()
    assert (seen[:, -1] == LAST).all()
    targets = predicted(hidden)
    assert targets.shape == (200, 15)
    masked, changed = seen[:, 1:-1] == MASK, (seen[:, 1:-1] != BLOCKS)
    assert masked.float().mean() == pytest.approx(0.15 * 0.8, abs=0.01)
    assert (changed & ~masked).float().mean() == pytest.approx(0.15 * 0.1, abs=0.005)


def test_every_model_is_asked_for_the_same_in_any_order_and_another_seed_for_other_tokens() -> None:
    whole = MASKING.hide(BLOCKS)
    assert torch.equal(MASKING.hide(BLOCKS.flip(0)), whole.flip(0))
    assert torch.equal(MASKING.hide(BLOCKS[7:9]), whole[7:9])
    other = Masking(MASK, (FIRST, LAST), (), 1027, seed=1).hide(BLOCKS)
    assert not torch.equal(other, whole)


def test_special_tokens_are_hidden_last() -> None:
    row = torch.zeros(1, 100, dtype=torch.int64)
    row[0, :15] = 5
    assert (predicted(MASKING.hide(row)) == 5).all()
    assert predicted(MASKING.hide(torch.zeros(1, 100, dtype=torch.int64))).shape == (1, 15), "and if there is no other"


def test_scores_are_those_at_the_hidden_places() -> None:
    hidden = MASKING.hide(BLOCKS[:4])
    places = torch.arange(102).expand(4, -1)[..., None].expand(-1, -1, 3)  # as if scores told where they come from
    found = scores(places, hidden)[..., 0]
    assert torch.equal(BLOCKS[:4].gather(1, found - 1), predicted(hidden))


def test_of_a_causal_model_everything_but_the_first_token_is_predicted() -> None:
    assert not is_masked(BLOCKS)
    assert torch.equal(shown(BLOCKS), BLOCKS)
    assert torch.equal(torch.stack(text_of(BLOCKS)), BLOCKS)
    assert torch.equal(predicted(BLOCKS), BLOCKS[:, 1:])
    logits = torch.randn(200, 100, 3)
    assert torch.equal(scores(logits, BLOCKS), logits[:, :-1])


def test_the_loss_is_that_of_transformers(tokenizer: PreTrainedTokenizerBase) -> None:
    model = tiny_bert(BertForMaskedLM, vocab_size=len(tokenizer), max_position_embeddings=64)
    text = Text.of_model(["stdlib:docs"], tokenizer, model.config, context=64, seed=0)
    (part,) = text.blocks(select_tokens=256, report_tokens=256)
    meter = LossMeter(model.config, {"docs": part.report})
    labels = torch.full_like(part.report, -100)
    chosen = (part.report >= 2**24) & (part.report % 2**24 != 2**24 - 1)
    labels[chosen] = part.report[chosen] % 2**24
    with torch.no_grad():
        expected = model(shown(part.report), labels=labels).loss.item()
    assert meter(state_of(model)).mean == pytest.approx(expected, abs=1e-5)
    assert part.report.shape[1] == 64, "with the tokens that begin and end it"
    assert tokenizer.decode(shown(part.report)[0]).startswith("[CLS]")


def test_text_that_was_trained_on_is_found_again_behind_masks(tokenizer: PreTrainedTokenizerBase) -> None:
    config = tiny_bert(BertForMaskedLM, vocab_size=len(tokenizer)).config
    for seed in (0, 1):
        text = Text.of_model(["stdlib:docs"], tokenizer, config, context=128, seed=seed)
        (part,) = text.blocks(fit_tokens=2048, select_tokens=256, report_tokens=256)
        assert TextHashes.of([part.fit]).within(part.fit).all()
        assert TextHashes.of([torch.stack(text_of(part.fit))]).within(part.fit).all()
        assert not TextHashes.of([part.fit]).within(part.report).any()


def test_without_a_mask_and_without_hidden_tokens_there_is_no_loss(tokenizer: PreTrainedTokenizerBase) -> None:
    config = tiny_bert(BertForMaskedLM).config
    plain = AutoTokenizer.from_pretrained(EMBEDDED / "adamw-1")
    beyond = AutoTokenizer.from_pretrained(EMBEDDED / "adamw-1")
    beyond.add_special_tokens({"mask_token": "[MASK]"})
    with pytest.raises(BadInput, match=r"gives the id 1024 to a token that .* beyond the vocabulary of 128"):
        Text.of_model(["stdlib:docs"], beyond, config, context=32, seed=0)
    with pytest.raises(BadInput, match="no room for text"):
        Text.of_model(["stdlib:docs"], tokenizer, tiny_bert(BertForMaskedLM, vocab_size=1027).config, context=2, seed=0)
    with pytest.raises(BadInput, match="no mask token"):
        Text.of_model(["stdlib:docs"], plain, config, context=32, seed=0)
    with pytest.raises(BadInput, match="reads in both directions"):
        LossMeter(config, {"docs": BLOCKS % 128})
    with pytest.raises(BadInput, match="write no text"):
        Writer([], config, 0, "cpu", Progress()).blocks("fit", 1, 32)


def test_what_losses_are_in_is_said() -> None:
    assert unit({"task": "fill-mask"}) == "nats per hidden token"
    assert unit({"task": "text-generation"}) == unit({}) == "nats per token"
