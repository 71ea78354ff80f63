"""Models that cannot be merged yet: one sentence each, the same from `check`, `merge` and opening one alone."""

from __future__ import annotations

from pathlib import Path

import pytest
from altered_models import BERT, OTHER_KINDS, config, file, of_type, tensors

from isthmus.align.families import FAMILIES
from isthmus.checkpoint.check import check
from isthmus.checkpoint.errors import BadInput
from isthmus.checkpoint.loading import load

SENTENCES = {
    "quantized": "'m' is quantized: take the full-precision weights",
    "quantized tensors": "'m' is quantized (its tensor 'transformer.h.0.mlp.c_fc.qweight' says so)",
    "question answering": "'m' has a head that answers questions (GPT2ForQuestionAnswering)",
    "double heads": "'m' has a second head beside that of a language model (GPT2DoubleHeadsModel)",
    "classifier by its tensor": "'m' has a classifier head ('score.weight') beside the weights of a language model",
    "value head": "'m' has a value head ('v_head.summary.weight') beside the weights of a language model",
    "value head by its class": "a value head beside that of a language model (AutoModelForCausalLMWithValueHead)",
    "adapter beside weights": "'m' holds an adapter beside its weights (adapter_config.json)",
    "adapter and its weights beside weights": "'m' holds an adapter beside its weights (adapter_config.json)",
    "no head where it is not tied": "lm_head.weight",
    "encoder-decoder": "'m' is an encoder-decoder model (T5ForConditionalGeneration)",
    "encoder-decoder with a decoder's class": "'m' is an encoder-decoder model (BartForConditionalGeneration)",
    "encoder": "'m' is an encoder-decoder model (T5EncoderModel)",
    "images": "'m' is an image model (ViTForImageClassification)",
    "image features": "'m' is of type 'vit', for which transformers has no language model",
}  # fmt: skip


@pytest.mark.parametrize("name", OTHER_KINDS)
def test_one_sentence_for_what_is_no_causal_language_model(saved, name: str) -> None:
    model = saved("m", tokenizer=True, vocab_size=1024)
    OTHER_KINDS[name](model)
    with pytest.raises(BadInput) as alone:
        load(model, families=FAMILIES)
    assert SENTENCES[name] in str(alone.value)
    if name == "quantized":
        with pytest.raises(BadInput, match="is quantized"):
            check(model, model, families=FAMILIES)
        return
    blocks = [str(finding) for finding in check(model, model, families=FAMILIES).findings if finding.kind == "blocks"]
    assert len(blocks) == 1
    assert SENTENCES[name] in blocks[0]


@pytest.mark.parametrize(
    "alter",
    [
        config(architectures=["GPT2LMHeadModel"]),
        config(architectures=None),
        config(architectures="GPT2LMHeadModel"),
        config(architectures=["OurGPT2"]),
        config(quantization_config=None),
        config(quantization_config={}),
        file("adapter_model.safetensors", b"left over"),
        tensors(lambda t: t.pop("transformer.h.0.attn.bias", None)),
    ],
)
def test_what_is_one_is_read(saved, alter) -> None:
    model = saved("m")
    alter(model)
    assert check(model, model, families=FAMILIES).mergeable
    assert load(model, families=FAMILIES).state


def test_a_causal_language_model_whose_class_sounds_like_another(tmp_path: Path) -> None:
    """transformers' causal language model of this type is called ...ForConditionalGeneration."""
    from isthmus.checkpoint.checks.kind import _description
    from isthmus.checkpoint.task import CAUSAL, class_name

    assert _description("Gemma3ForConditionalGeneration")
    assert class_name("gemma3", CAUSAL) == "Gemma3ForConditionalGeneration"
    assert _description("GPTNeoXForCausalLM") is None


@pytest.mark.parametrize("architectures", [["BertForMaskedLM"], None])
def test_models_of_masked_text_are_averaged_and_not_measured(saved, isthmus, tmp_path, architectures) -> None:
    for name in ("a", "b"):
        of_type("BertConfig", "BertForMaskedLM", **BERT)(saved(name, tokenizer=True, vocab_size=1024))
        config(architectures=architectures)(tmp_path / name)
    ends = (tmp_path / "a", tmp_path / "b")
    findings = check(*ends, families=FAMILIES).findings
    assert not any(finding.kind == "blocks" for finding in findings)
    assert any("reads in both directions" in finding.what for finding in findings if finding.kind == "notes")
    common = ["--align", "none", "--t", 0.5]
    assert isthmus("merge", *ends, "-o", tmp_path / "average", *common).code == 0
    text = tmp_path / "text.txt"
    text.write_text("A line of text, and another one. " * 400)
    measured = isthmus("merge", *ends, "-o", tmp_path / "measured", *common, "--data", text, "--tokens", 64)
    assert measured.code == 2
    assert "no loss can be measured" in measured.error
    assert not (tmp_path / "measured").exists()
