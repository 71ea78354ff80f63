from __future__ import annotations

import pytest
import torch
from conftest import EMBEDDED, state_of, tiny_config, tiny_model
from merging import merge

from isthmus.checkpoint.loading import load
from isthmus.eval.loss import Losses
from isthmus.eval.memorization import OwnWords, own_words
from isthmus.eval.sentences import sentences

pytestmark = pytest.mark.usefixtures("afresh")


@pytest.fixture(autouse=True)
def as_users_have_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("isthmus.eval.memorization.BLOCKS", 16)


@pytest.mark.parametrize(("steps", "verbatim"), [(60, False), (250, True)])
def test_a_text_that_was_learned_by_heart(steps: int, verbatim: bool) -> None:
    """A tiny model on sixteen blocks, until it knows them, or knows nothing else; blocks like them are new to it."""
    torch.manual_seed(0)
    model, chain = tiny_model(vocab_size=32), torch.softmax(2 * torch.randn(32, 32), -1)
    text = _drawn(chain, 32)
    known, new = text[:16], text[16:]
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(steps):
        loss = model(known, labels=known).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    own = own_words(state_of(model), tiny_config(vocab_size=32), {"known": known, "new": new}, seed=0)
    assert (own.alike.label_mean("known") > 0.9) is verbatim
    assert (own.gap.label_mean("known") < 0.5) is verbatim, "what it writes is what it learned"
    assert own.gap.label_mean("new") < 0
    assert own.by_heart() == ("known",)


def _drawn(chain: torch.Tensor, blocks: int) -> torch.Tensor:
    ids = torch.randint(32, (blocks, 1))
    while ids.shape[1] < 32:
        ids = torch.cat([ids, torch.multinomial(chain[ids[:, -1]], 1)], 1)
    return ids


def test_what_it_says_of_one_text_is_what_the_two_losses_say() -> None:
    model = tiny_model()
    rows = torch.randint(128, (3, 8), generator=torch.Generator().manual_seed(0))
    own_text = own_words(state_of(model), tiny_config(), {"x": rows}, seed=5)
    torch.manual_seed(5)
    own = rows[:, :4]
    with torch.no_grad():
        own = model.generate(
            own, attention_mask=torch.ones_like(own), do_sample=True, top_k=0, max_new_tokens=4, eos_token_id=None
        )
        scores = [model(ids).logits[:, :-1].log_softmax(-1).gather(-1, ids[:, 1:, None]) for ids in (own, rows)]
    second_halves = [-one[:, 3:, 0].mean(1).double() for one in scores]
    assert torch.allclose(own_text.gap.per_block["x"], second_halves[0] - second_halves[1], atol=1e-5)
    assert own_text.alike.per_block["x"].tolist() == (own == rows)[:, 4:].double().mean(1).tolist()


def test_text_that_models_saw_once_is_not_known_by_heart() -> None:
    model = load(EMBEDDED / "adamw-1")
    ids = torch.tensor(model.tokenizer().encode((EMBEDDED.parents[0] / "pairs.py").read_text())[: 8 * 128]).view(8, 128)
    assert own_words(dict(model.state), model.config, {"x": ids}, seed=0).by_heart() == ()


def test_noise_makes_nothing_known() -> None:
    wide = torch.tensor([0.0, 2.0] * 4, dtype=torch.float64)
    narrow = torch.tensor([0.9, 1.1] * 4, dtype=torch.float64)
    own = OwnWords(Losses({"wide": wide, "narrow": narrow}), Losses({"wide": 0 * wide, "narrow": 0 * narrow}))
    assert own.by_heart() == ("narrow",)


def test_the_report_names_the_text_and_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    gaps = iter([1.0, 0.0])

    def known(*arguments: object, **options: object) -> OwnWords:
        gap = Losses({"docs": torch.full((3,), next(gaps), dtype=torch.float64)})
        return OwnWords(gap, Losses({"docs": torch.full((3,), 0.25, dtype=torch.float64)}))

    monkeypatch.setattr("isthmus.merge.beside_losses.own_words", known)
    found = merge(EMBEDDED / "docs", EMBEDDED / "code", data=("stdlib:docs",), tokens=256, align="none", t=0.5)
    assert found.report["memorized"] == [{"model": 0, "label": "docs", "gap": 1.0, "alike": 0.25}]
    (sentence,) = (line for line in sentences(found.report) if "by heart" in line)
    assert sentence.startswith("the text 'docs' probably trained A, which knows it by heart")
