"""Trial loading by transformers: a model that it cannot open is not written.

Weights stay on the meta device, so that only headers are read even for the largest model.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from logging import CRITICAL
from pathlib import Path
from typing import Any

from .checks.finding import Finding
from .config import build_config, read_facts, schema_of
from .errors import BadInput, CorruptCheckpoint, IsthmusError
from .model import Families, empty_model
from .reference import Reference
from .rust_panics import is_failure, quiet_panics
from .small_files import CONFIGURATION, GENERATION, VOCABULARIES
from .source import Source
from .task import auto_class
from .tensor_inventory import inventory_of, stored_tensors

LONGEST = 300  # characters of an error of transformers


# What generation settings usually say; of anything else transformers is asked.
_ID, _FLAG = (int, type(None)), (bool,)
GENERATION_FIELDS: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"), _ID),
    **dict.fromkeys(("_from_model_config", "use_cache", "output_attentions", "output_hidden_states"), _FLAG),
    "transformers_version": (str,),
}


def require_opens(directory: Path, model: str, families: Families | None = None) -> None:
    """Open a written model with its generation settings and its tokenizer, as its users will.

    What surely opens, by the table of its family among `families` and its tensors, is not tried.

    Raises CorruptCheckpoint with the error of transformers if it cannot open them, or if the files have other tensors
    than it expects.
    """
    source = Source(Reference(directory=directory))
    part = "the model"
    try:
        with quiet_panics():
            if not _surely_opens(source, families):
                _require_model_opens(directory, model)
            if GENERATION in source.files and not _is_plain(source):
                part = "the generation settings"
                _read_generation(directory)
            if any(name in source.files for name in VOCABULARIES):
                part = "the tokenizer"
                from transformers import AutoTokenizer

                with quiet():
                    AutoTokenizer.from_pretrained(directory, local_files_only=True, trust_remote_code=False)
    except BaseException as error:
        if not is_failure(error) or isinstance(error, IsthmusError):
            raise
        words = _words(error).replace(str(directory), model)
        raise CorruptCheckpoint(
            f"transformers cannot open {part} of '{model}' as it would be written ({words}), so nothing is written: "
            "repair the config.json or the tokenizer that it comes from"
        ) from None


def _require_model_opens(directory: Path, model: str) -> None:
    """Load a model on the meta device; raises CorruptCheckpoint for missing, unexpected or misshapen tensors."""
    from transformers import AutoConfig

    with quiet():
        config = AutoConfig.from_pretrained(directory, local_files_only=True, trust_remote_code=False)
        opened: Any = auto_class(config).from_pretrained(
            directory, device_map="meta", output_loading_info=True, local_files_only=True, trust_remote_code=False
        )
    problems = {
        "missing_keys": "lacks the tensor",
        "unexpected_keys": "has an unexpected tensor",
        "mismatched_keys": "has another shape for the tensor",
    }
    for key, problem in problems.items():
        if names := opened[1].get(key):
            raise CorruptCheckpoint(
                f"'{model}' as it would be written {problem} '{min(map(str, names))}', by what transformers expects "
                "from its config.json, so nothing is written: repair the config.json that it comes from"
            )


def opening_finding(
    source: Source, facts: Mapping[str, Any], families: Families | None, *, generation: bool
) -> Finding | None:
    """A finding that blocks if transformers cannot build a model from config.json; None if it can.

    With `generation`, the generation settings are read as well. What surely can be built is not tried.
    """
    file = CONFIGURATION
    try:
        if not _is_sound(facts, source.name, families):
            with quiet():
                empty_model(build_config(facts, source.name))
        if generation and GENERATION in source.files and not _is_plain(source):
            file = GENERATION
            _read_generation(source.path(file).parent)
    except BadInput as error:
        return Finding("blocks", str(error), "repair this checkpoint", file)
    except Exception as error:
        what = f"transformers cannot open '{source.name}' with its {file} ({_words(error)})"
        return Finding("blocks", what, "repair this file", file)
    return None


def _is_sound(facts: Mapping[str, Any], model: str, families: Families | None) -> bool:
    """Whether transformers surely builds the model of a config.json, by what its family says."""
    return facts.get("model_type") in (families or ()) and schema_of(facts, model, families).sound


def _surely_opens(source: Source, families: Families | None) -> bool:
    """Whether transformers surely opens a model: it builds it, and the files have its tensors."""
    facts = read_facts(source)
    if not _is_sound(facts, source.name, families):
        return False
    stored = stored_tensors(source)
    return stored is not None and not inventory_of(source, stored, facts, families).problems


def _is_plain(source: Source) -> bool:
    """Whether generation settings say only what all have, so that transformers surely reads them."""
    return all(type(value) in GENERATION_FIELDS.get(key, ()) for key, value in source.json(GENERATION).items())


def _read_generation(directory: Path) -> None:
    from transformers import GenerationConfig

    with quiet():
        GenerationConfig.from_pretrained(directory, local_files_only=True)


@contextmanager
def preloaded_transformers(
    facts: Mapping[str, Any], families: Families | None = None, *, files: Iterable[str] = ()
) -> Iterator[None]:
    """Import in a second thread what `require_opens` needs for a model with these facts, while weights are written.

    `files` are the small files that go with the weights.
    """
    sound = _is_sound(facts, "the model", families)
    if sound and not any(name in VOCABULARIES for name in files):
        yield
        return

    def fetch() -> None:
        if sound:
            from transformers import CONFIG_MAPPING, AutoTokenizer

            CONFIG_MAPPING[facts["model_type"]]  # which a tokenizer looks up
            return
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
