"""What config.json says, and what follows from it. transformers is only imported where the file alone does not tell."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from isthmus.checkpoint.bounds import require_numbers
from isthmus.checkpoint.errors import BadInput, CorruptCheckpoint
from isthmus.checkpoint.foreign import plain
from isthmus.checkpoint.model import Families, Schema, schema
from isthmus.checkpoint.source import Source

if TYPE_CHECKING:
    from transformers import PretrainedConfig


def read_facts(source: Source) -> dict[str, Any]:
    """The content of config.json.

    Raises BadInput for a model that is defined by its repository's own code, or that is quantized.
    """
    facts = source.json("config.json")
    require_numbers(facts, source.name)
    settings = source.json("tokenizer_config.json") if "tokenizer_config.json" in source.files else {}
    for file, said in (("config.json", facts), ("tokenizer_config.json", settings)):
        if "auto_map" in said:
            raise BadInput(f"'{source.name}' is defined by code in its repository ({file}), which isthmus never runs")
    if not isinstance(facts.get("model_type"), str):
        raise BadInput(f"config.json of '{source.name}' has no model_type: it was not saved by transformers")
    if "quantization_config" in facts:
        raise BadInput(f"'{source.name}' is quantized: merge the full-precision weights")
    return facts


def build_config(facts: Mapping[str, Any], model: str) -> PretrainedConfig:
    """The configuration as transformers makes it of `facts`.

    Raises BadInput for an architecture that transformers does not know; CorruptCheckpoint for values that it refuses.
    """
    from transformers import CONFIG_MAPPING

    kind = facts["model_type"]
    if kind not in CONFIG_MAPPING:
        raise BadInput(
            f"'{model}' has the model type '{plain(kind, 60)}', which this version of transformers does not know"
        )
    try:
        return CONFIG_MAPPING[kind].from_dict(dict(facts))
    except Exception as error:
        raise CorruptCheckpoint(f"config.json of '{model}' is not valid: {error}") from None


def vocabulary_rows(facts: Mapping[str, Any], model: str) -> int:
    """The rows of the embedding. Raises as `build_config` does."""
    rows = facts.get("vocab_size")
    return rows if isinstance(rows, int) else int(build_config(facts, model).vocab_size)


def schema_of(facts: Mapping[str, Any], model: str, families: Families | None = None) -> Schema:
    """The tensors of a model: from the facts alone where its family is among `families` and the file is complete.

    Raises as `build_config` does.
    """
    if families is not None and facts["model_type"] in families:
        try:
            return families[facts["model_type"]](SimpleNamespace(**facts)).schema()
        except (AttributeError, TypeError, ArithmeticError):
            pass  # the file leaves something out, or something in it is wrong: transformers knows which
    return schema(build_config(facts, model), families)


def untied_facts(facts: Mapping[str, Any]) -> dict[str, Any]:
    """The facts of the same model with an unembedding of its own."""
    return {**facts, "tie_word_embeddings": False}
