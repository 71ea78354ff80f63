"""The content of config.json (`facts`), and what follows from it. transformers is imported only if needed."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Protocol

from .config_limits import require_numbers
from .errors import BadInput, CorruptCheckpoint, IsthmusError, UnsupportedFamily, one_line
from .model import Families, Schema, empty_model, schema
from .rust_panics import is_failure
from .small_files import GENERATION
from .source import Source
from .task import classifier_task
from .untrusted_text import plain

if TYPE_CHECKING:
    from transformers import PretrainedConfig


# Keys in which two models that can be merged may differ, and that change what a model computes.
FORWARD_KEYS = frozenset({"vocab_size", "layer_norm_epsilon", "layer_norm_eps", "rms_norm_eps", "tie_word_embeddings"})

# What configurations call the longest text that a model is made for, in tokens.
CONTEXT_KEYS = ("max_position_embeddings", "n_positions", "seq_length", "max_seq_len", "context_length")
# Types whose positions are counted from the one after that of padding, so that the first ones are never used.
PADDED_POSITIONS = frozenset(
    {"roberta", "roberta-prelayernorm", "camembert", "xlm-roberta", "xlm-roberta-xl", "xmod", "data2vec-text", "mpnet"}
    | {"ibert", "luke", "longformer", "esm"}
)
DEFAULT_CONTEXT = 2048  # for models that take any length, as those without positions do


class HasFacts(Protocol):
    """An object with the content of a config.json, such as a checkpoint."""

    @property
    def facts(self) -> Mapping[str, Any]:
        """The content of config.json."""
        ...


def read_facts(source: Source) -> dict[str, Any]:
    """The content of config.json.

    Raises BadInput for a model that is defined by code in its repository, or that is quantized; CorruptCheckpoint for a
    file that is damaged or has impossible numbers.
    """
    facts = source.json("config.json")
    require_numbers(facts, source.name)
    settings = source.json("tokenizer_config.json") if "tokenizer_config.json" in source.files else {}
    for file, content in (("config.json", facts), ("tokenizer_config.json", settings)):
        if "auto_map" in content:
            raise BadInput(f"'{source.name}' is defined by code in its repository ({file}), which isthmus never runs")
    if not isinstance(facts.get("model_type"), str):
        raise BadInput(f"config.json of '{source.name}' has no model_type: it was not saved by transformers")
    if GENERATION in source.files:  # a merge copies it, so it must be readable
        source.json(GENERATION)
    if facts.get("quantization_config"):
        raise BadInput(
            f"'{source.name}' is quantized: take the full-precision weights (for an adapter of it, FULL+ADAPTER)"
        )
    # transformers_weights names a file, and says nothing about the model.
    return {key: value for key, value in facts.items() if key != "transformers_weights"}


def build_config(facts: Mapping[str, Any], model: str) -> PretrainedConfig:
    """The configuration that transformers builds from `facts`.

    Raises BadInput for an architecture that transformers does not know; CorruptCheckpoint for values that it rejects.
    """
    from transformers import CONFIG_MAPPING

    kind = facts["model_type"]
    if kind not in CONFIG_MAPPING:
        raise BadInput(
            f"'{model}' has the model type '{plain(kind, 60)}', which this version of transformers does not know"
        )
    try:
        config = CONFIG_MAPPING[kind].from_dict(copy.deepcopy(dict(facts)))
        config.to_json_string(use_diff=False)  # what cannot be written is not valid, either
    except Exception as error:
        raise CorruptCheckpoint(f"config.json of '{model}' is not valid: {one_line(error)}") from None
    return config


def vocabulary_rows(facts: Mapping[str, Any], model: str) -> int:
    """The rows of the embedding. Raises as `build_config` does."""
    rows = facts.get("vocab_size")
    if type(rows) is int:
        return rows
    rows = getattr(build_config(facts, model), "vocab_size", None)
    if type(rows) is not int:
        raise CorruptCheckpoint(f"config.json of '{model}' has no vocab_size (the rows of the embedding): add it")
    return rows


def schema_of(facts: Mapping[str, Any], model: str, families: Families | None = None) -> Schema:
    """The tensors of a model: from the facts alone if its family is among `families` and the file is complete.

    Raises as `build_config` does.
    """
    if families is not None and facts["model_type"] in families:
        try:
            return families[facts["model_type"]](SimpleNamespace(**facts)).schema()
        except (AttributeError, TypeError, ValueError, ArithmeticError, UnsupportedFamily):
            pass  # a key is missing or wrong: transformers has a default, or says which
    config = build_config(facts, model)
    with failures_of(model):
        return schema(config, families)


def without_table(facts: Mapping[str, Any], model: str, families: Families | None) -> str | None:
    """Why a model has no symmetry table among `families`, in words; None if it has, or if there are none to look at.

    Raises as `build_config` does.
    """
    if families is None:
        return None
    kind = facts["model_type"]
    if kind not in families:
        return f"'{model}' is of type '{plain(kind, 60)}', whose symmetries are not known"
    try:
        try:
            families[kind](SimpleNamespace(**facts))
        except (AttributeError, TypeError, ValueError, ArithmeticError):
            config = build_config(facts, model)
            with failures_of(model):
                families[kind](config)
    except UnsupportedFamily as error:
        return f"the symmetries of '{model}' are not known: {error}"
    return None


def working_config(facts: Mapping[str, Any], model: str) -> PretrainedConfig:
    """The configuration; an empty language model is built from it once, to see that transformers can.

    Raises as `build_config` does.
    """
    config = build_config(facts, model)
    with failures_of(model):
        empty_model(config)
    return config


def context_length(config: PretrainedConfig) -> int | None:
    """The longest text that a model is made for, in tokens; None where its configuration does not say."""
    for key in CONTEXT_KEYS:
        length = getattr(config, key, None)
        if type(length) is int and length > 0:
            unused = (config.pad_token_id or 0) + 1 if config.model_type in PADDED_POSITIONS else 0
            return max(1, length - unused)
    return None


@contextmanager
def failures_of(model: str) -> Iterator[None]:
    """Turn any failure while something is built from a configuration into an error that names the model."""
    try:
        yield
    except IsthmusError:
        raise
    except BaseException as error:
        if not is_failure(error) or isinstance(error, MemoryError):
            raise
        raise CorruptCheckpoint(
            f"transformers cannot build a language model from config.json of '{model}' ({type(error).__name__}: "
            f"{one_line(error)}): repair the file, or fetch it again"
        ) from None


def run_alike(a: HasFacts, b: HasFacts) -> bool:
    """Whether both configurations agree in `FORWARD_KEYS`, so that a model computes the same under either."""
    if a is b or a.facts == b.facts:
        return True
    classify = any(classifier_task(side.facts["model_type"], side.facts.get("architectures")) for side in (a, b))
    keys = {*FORWARD_KEYS, *(["pad_token_id"] if classify else [])}  # they look at the last token that is not padding
    keys_a, keys_b = ({key: v for key, v in side.facts.items() if key in keys} for side in (a, b))
    return keys_a == keys_b


def untied_facts(facts: Mapping[str, Any]) -> dict[str, Any]:
    """The facts of the same model, its unembedding not tied to its embedding."""
    return {**facts, "tie_word_embeddings": False}
