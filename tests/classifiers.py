"""Small classifiers and labelled examples, made for tests."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from conftest import EMBEDDED
from transformers import (
    AutoTokenizer,
    BertConfig,
    GPT2Config,
    LlamaConfig,
    PretrainedConfig,
    PreTrainedModel,
    RobertaConfig,
)
from transformers.models.auto.modeling_auto import (
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
)

NAMES = ("negative", "neutral", "positive")
SIZES: dict[str, dict[str, Any]] = {
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_inner": 64, "n_positions": 48},
    "llama": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2},
    "bert": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4},
    "roberta": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4},
}
CONFIGURATIONS: dict[str, type[PretrainedConfig]] = {
    "gpt2": GPT2Config,
    "llama": LlamaConfig,
    "bert": BertConfig,
    "roberta": RobertaConfig,
}


def classifier(
    kind: str, seed: int = 0, *, tokens: bool = False, labels: Sequence[str] = NAMES, **changes: Any
) -> PreTrainedModel:
    """A random classifier of texts, or of `tokens`, in which no parameter is at a value that hides a mistake."""
    numbered = dict(enumerate(labels))
    facts = {"vocab_size": 1027, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": None, **SIZES[kind]}
    if kind != "gpt2":
        facts |= {"intermediate_size": 64, "max_position_embeddings": 48}
    if kind in ("bert", "roberta"):
        facts |= {"pad_token_id": 1}
    facts |= {"id2label": numbered, "label2id": {name: row for row, name in numbered.items()}, **changes}
    torch.manual_seed(seed)
    made: Any = AutoModelForTokenClassification if tokens else AutoModelForSequenceClassification
    model: PreTrainedModel = made.from_config(CONFIGURATIONS[kind](**facts)).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            norm = any(part in name.lower() for part in ("ln_", "norm")) and name.endswith("weight")
            parameter.copy_(norm + 0.3 * torch.randn_like(parameter))
    return model


def saved_classifier(directory: Path, kind: str = "gpt2", seed: int = 0, **changes: Any) -> Path:
    """The same on disk, with a tokenizer that puts nothing around a text."""
    classifier(kind, seed, **changes).save_pretrained(directory)
    tokenizer = AutoTokenizer.from_pretrained(EMBEDDED / "adamw-1")
    tokenizer.save_pretrained(directory)
    return directory


# Of one token each, so that texts have few lengths: a model reads those of one length at once.
WORDS = ("import", "return", "self", "value", "None", "path", "name", "file")


def _numbered(number: int) -> list[str]:
    """Three words that no other number has."""
    return [WORDS[number // 64 % 8], WORDS[number // 8 % 8], WORDS[number % 8]]


def labelled(path: Path, rows: int = 160, labels: Sequence[Any] = NAMES, seed: int = 0) -> Path:
    """A file of labelled texts of different lengths, at most 512 rows."""
    drawn = random.Random(seed)
    lines = []
    for number in range(rows):
        words = ["self", *_numbered(number), *(drawn.choice(WORDS) for _ in range(drawn.choice((1, 9, 15, 27))))]
        lines.append(json.dumps({"text": " ".join(words), "label": drawn.choice(labels)}))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def labelled_words(path: Path, rows: int = 120, labels: Sequence[Any] = NAMES, seed: int = 0) -> Path:
    """A file of labelled words of one token and of several, some of which have no label, at most 512 rows."""
    drawn = random.Random(seed)
    lines = []
    for number in range(rows):
        count = drawn.choice((1, 4, 8))
        words = [*_numbered(number), *(("fade", "a", "cab", "b", "unforeseen", "of", "x", "predictability")[:count])]
        own = [drawn.choice(labels) if drawn.random() < 0.8 else -100 for _ in words]
        lines.append(json.dumps({"tokens": words, "ner_tags": own}))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path
