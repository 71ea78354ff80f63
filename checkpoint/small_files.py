"""The files of a model beside its weights: those that a merge takes along, and those that it leaves out.

transformers looks for them by name: configuration, generation settings, tokenizers, chat templates, processors.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fnmatch import fnmatch
from pathlib import PurePosixPath

CONFIGURATION = "config.json"
ADAPTER = "adapter_config.json"
GENERATION = "generation_config.json"
TOKENIZER, TOKENIZER_SETTINGS, SPECIAL_TOKENS = "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"
ADDED_TOKENS = "added_tokens.json"
TEMPLATE, TEMPLATE_FOLDER, PROCESSOR_TEMPLATE = "chat_template.jinja", "additional_chat_templates", "chat_template.json"
TEMPLATES = f"{TEMPLATE_FOLDER}/*.jinja"
SENTENCE_PIECES = (
    "tokenizer.model", "spiece.model", "spm.model", "sentencepiece.model", "sentencepiece.bpe.model", "spm_char.model",
)  # fmt: skip
# Any one of these is enough for a tokenizer, sometimes together with some of HELPERS.
VOCABULARIES = (
    TOKENIZER, "vocab.json", "vocab.txt", *SENTENCE_PIECES, "tekken.json", "tiktoken.model", "source.spm",
    "byte_maps.json",
)  # fmt: skip
HELPERS = (
    "merges.txt", "bpe.codes", "dict.txt", "target.spm", "target_vocab.json", "vocab-src.json", "vocab-tgt.json",
    "normalizer.json", "emoji.json", "entity_vocab.json", "word_shape.json", "word_pronunciation.json",
    "tokenizer.*.json",  # the versions that tokenizer_config.json lists under fast_tokenizer_files
)  # fmt: skip
CONTENT_FILES = (*VOCABULARIES, *HELPERS, ADDED_TOKENS)
SETTING_FILES = (TOKENIZER_SETTINGS, SPECIAL_TOKENS, TEMPLATE, TEMPLATES)
PROCESSORS = (
    PROCESSOR_TEMPLATE, "preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json",
    "audio_tokenizer_config.json",
)  # fmt: skip
SMALL_FILES = (CONFIGURATION, GENERATION, *SETTING_FILES, *CONTENT_FILES, *PROCESSORS)

# Left out without a note: hidden files, cards and licences; weights and their indexes; other formats; the state and
# the logs of a training; pictures; settings that no merge has, and the reports of isthmus.
_SILENTLY_LEFT_OUT = (
    ".*", "README*", "LICENSE*", "LICENCE*", "NOTICE*", "USE_POLICY*", "*.md",
    "*.safetensors", "*.bin", "*.index.json", "*.pt", "*.pth", "*.pkl", "*.ckpt",
    "*.msgpack", "*.h5", "*.ot", "*.onnx", "*.onnx_data", "*.gguf", "*.mlmodel", "*.tflite",
    "trainer_state.json", "trainer_log.jsonl", "*_results.json", "events.out.*", "*.log", "*.csv",
    "*.png", "*.jpg", "*.jpeg", "*.gif", "*.svg", "*.pdf",
    ADAPTER, "modelcard.json", "recipe.json", "isthmus.json", "report.html",
)  # fmt: skip


def is_small_file(name: str) -> bool:
    """Whether a merge takes along a file, by its name within the model's folder."""
    return _is_one_of(name, SMALL_FILES)


def is_tokenizer_file(name: str) -> bool:
    """Whether transformers may read a file to build a tokenizer."""
    return _is_one_of(name, (*SETTING_FILES, *CONTENT_FILES))


def is_content_file(name: str) -> bool:
    """Whether a file has the vocabulary or the rules of a tokenizer, not only settings."""
    return _is_one_of(name, CONTENT_FILES)


def is_template(name: str) -> bool:
    """Whether a file is an additional chat template."""
    return _is_one_of(name, (TEMPLATES,))


def small_files(names: Iterable[str]) -> list[str]:
    """The names of the files that a merge takes along, the configuration first."""
    order = {name: index for index, name in enumerate(SMALL_FILES)}
    return sorted(filter(is_small_file, names), key=lambda name: (order.get(name, len(order)), name))


def left_out(names: Iterable[str]) -> list[str]:
    """The files that a merge leaves out and that a user may need, such as code."""
    return sorted(name for name in names if not is_small_file(name) and not _is_one_of(name, _SILENTLY_LEFT_OUT))


def tokenizer_owner(models: Sequence[Iterable[str]]) -> int:
    """The index of the model whose tokenizer a merge takes; each model is given by the names of its files.

    It is the first that has a tokenizer; one that needs the sentencepiece library is taken only if there is no other.
    """
    for names in (set(VOCABULARIES) - set(SENTENCE_PIECES), set(VOCABULARIES)):
        for index, files in enumerate(models):
            if not names.isdisjoint(files):
                return index
    return 0


def _is_one_of(name: str, patterns: Iterable[str]) -> bool:
    path = PurePosixPath(name)
    if len(path.parts) > 1 and (len(path.parts) != 2 or path.parts[0] != TEMPLATE_FOLDER or path.name.startswith(".")):
        return False
    return any(name.count("/") == pattern.count("/") and fnmatch(name, pattern) for pattern in patterns)
