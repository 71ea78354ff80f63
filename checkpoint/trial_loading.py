"""Opened once by transformers before anybody else does: a model that it cannot open is not written.

Weights stay on the meta device, so that of the largest model, too, only headers are read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from logging import CRITICAL
from pathlib import Path
from typing import Any

from .checks.finding import Finding
from .config import build_config
from .errors import BadInput, CorruptCheckpoint
from .model import empty_model
from .rust_panics import is_failure, quiet_panics
from .small_files import GENERATION, VOCABULARIES
from .source import Source

LONGEST = 300  # characters of what transformers says


def require_opens(directory: Path, model: str) -> None:
    """Open a model that was written, with its generation settings and its tokenizer, as its users will.

    Raises CorruptCheckpoint, in transformers' own words, where it cannot be opened, or where it finds other tensors in
    the files than it expects.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

    report: dict[str, Any] = {}
    options: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    opening = "the model"
    try:
        with quiet(), quiet_panics():
            opened: Any = AutoModelForCausalLM.from_pretrained(
                directory, device_map="meta", output_loading_info=True, **options
            )
            report = opened[1]
            if (directory / GENERATION).exists():  # which the model does without where it is no JSON
                opening = "the generation settings"
                GenerationConfig.from_pretrained(directory, local_files_only=True)
            if any((directory / name).exists() for name in VOCABULARIES):
                opening = "the tokenizer"
                AutoTokenizer.from_pretrained(directory, **options)
    except BaseException as error:
        if not is_failure(error):
            raise
        words = _words(error).replace(str(directory), model)
        raise CorruptCheckpoint(
            f"transformers cannot open {opening} of '{model}' as it would be written ({words}), so nothing is written: "
            "repair the config.json or the tokenizer that it comes from"
        ) from None
    for key, sentence in (("missing_keys", "lacks"), ("unexpected_keys", "has too"), ("mismatched_keys", "misshapes")):
        if report.get(key):
            first = sorted(map(str, report[key]))[0]
            raise CorruptCheckpoint(
                f"'{model}' as it would be written {sentence} the tensor '{first}' by what transformers expects of its "
                "config.json, so nothing is written: repair the config.json that it comes from"
            )


def opening_finding(source: Source, facts: Mapping[str, Any], *, generation: bool) -> Finding | None:
    """What blocks where transformers cannot build a model from config.json alone.

    With `generation`, its generation settings are read, too.
    """
    file = "config.json"
    try:
        with quiet():
            empty_model(build_config(facts, source.name))
            if generation and GENERATION in source.files:
                from transformers import GenerationConfig

                file = GENERATION
                GenerationConfig.from_pretrained(source.path(file).parent, local_files_only=True)
    except BadInput as error:
        return Finding("blocks", str(error), "repair this checkpoint", file)
    except Exception as error:
        what = f"transformers cannot open '{source.name}' with its {file} ({_words(error)})"
        return Finding("blocks", what, "repair this file", file)
    return None


@contextmanager
def preloaded_transformers(facts: Mapping[str, Any]) -> Iterator[None]:
    """Import what will open a model of these facts by another thread, while its weights are written."""

    def fetch() -> None:
        import accelerate  # noqa: F401
        from transformers import CONFIG_MAPPING, AutoModelForCausalLM, AutoTokenizer, GenerationConfig  # noqa: F401

        kind = CONFIG_MAPPING[facts["model_type"]]
        AutoModelForCausalLM._model_mapping[kind]  # imports the module of the architecture

    pool = ThreadPoolExecutor(1)
    future: Future[None] = pool.submit(fetch)
    try:
        yield
    finally:
        future.exception()  # what is missing is said by what opens the model
        pool.shutdown()


@contextmanager
def quiet() -> Iterator[None]:
    """Without the bars and warnings of transformers: what matters is raised."""
    from huggingface_hub.utils import are_progress_bars_disabled
    from transformers.utils import logging

    before, bars = logging.get_verbosity(), not are_progress_bars_disabled()
    logging.set_verbosity(CRITICAL)
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(before)
        if bars:
            logging.enable_progress_bar()


def _words(error: BaseException) -> str:
    """What an exception says, on one line, not too long; a KeyError says nothing but a name."""
    text = " ".join(str(error).split())
    text = f"{type(error).__name__}: {text}" if text else type(error).__name__
    return text if len(text) <= LONGEST else f"{text[:LONGEST]} ..."
