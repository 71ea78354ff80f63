"""Trial loading by transformers: a model that it cannot open is not written.

Weights stay on the meta device, so that only headers are read even for the largest model.
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

LONGEST = 300  # characters of an error of transformers


def require_opens(directory: Path, model: str) -> None:
    """Open a written model with its generation settings and its tokenizer, as its users will.

    Raises CorruptCheckpoint with the error of transformers if it cannot open them, or if the files have other tensors
    than it expects.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

    report: dict[str, Any] = {}
    options: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    part = "the model"
    try:
        with quiet(), quiet_panics():
            model_and_report: Any = AutoModelForCausalLM.from_pretrained(
                directory, device_map="meta", output_loading_info=True, **options
            )
            report = model_and_report[1]
            if (directory / GENERATION).exists():  # with the model, a file that is not JSON would only be ignored
                part = "the generation settings"
                GenerationConfig.from_pretrained(directory, local_files_only=True)
            if any((directory / name).exists() for name in VOCABULARIES):
                part = "the tokenizer"
                AutoTokenizer.from_pretrained(directory, **options)
    except BaseException as error:
        if not is_failure(error):
            raise
        words = _words(error).replace(str(directory), model)
        raise CorruptCheckpoint(
            f"transformers cannot open {part} of '{model}' as it would be written ({words}), so nothing is written: "
            "repair the config.json or the tokenizer that it comes from"
        ) from None
    problems = {
        "missing_keys": "lacks the tensor",
        "unexpected_keys": "has an unexpected tensor",
        "mismatched_keys": "has another shape for the tensor",
    }
    for key, problem in problems.items():
        if report.get(key):
            first = sorted(map(str, report[key]))[0]
            raise CorruptCheckpoint(
                f"'{model}' as it would be written {problem} '{first}', by what transformers expects from its "
                "config.json, so nothing is written: repair the config.json that it comes from"
            )


def opening_finding(source: Source, facts: Mapping[str, Any], *, generation: bool) -> Finding | None:
    """A finding that blocks if transformers cannot build a model from config.json; None if it can.

    With `generation`, the generation settings are read as well.
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
    """Import in a second thread what `require_opens` needs for a model with these facts, while weights are written."""

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
        future.exception()  # a failed import is reported when the model is opened
        pool.shutdown()


@contextmanager
def quiet() -> Iterator[None]:
    """Silence the progress bars and warnings of transformers; errors are raised as ever."""
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
    """The class and message of an exception on one line: the message of a KeyError alone is only a name."""
    text = " ".join(str(error).split())
    text = f"{type(error).__name__}: {text}" if text else type(error).__name__
    return text if len(text) <= LONGEST else f"{text[:LONGEST]} ..."
