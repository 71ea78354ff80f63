"""Changes to the small files of a saved model that has a tokenizer.json: what is found in the wild, one by one.

The model has the tokenizer of the embedded checkpoints (1024 tokens) and any number of rows.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

END, CHAT = "<|end|>", "{% for m in messages %}{{ m.content }}{% endfor %}"


def write(directory: Path, file: str, **changes: Any) -> None:
    """Put keys into a JSON file, which is made if need be; None takes a key out."""
    path = directory / file
    content = json.loads(path.read_text()) if path.exists() else {}
    content |= changes
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


def edit(directory: Path, file: str, change: Callable[[dict[str, Any]], object]) -> None:
    path = directory / file
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def end_in_special_tokens_map(directory: Path) -> None:
    write(directory, "special_tokens_map.json", eos_token=END)


def end_with_flags_in_special_tokens_map(directory: Path) -> None:
    flags = {"lstrip": False, "rstrip": False, "normalized": False, "single_word": False}
    write(directory, "special_tokens_map.json", eos_token={"content": END, **flags})


def end_in_added_tokens_decoder(directory: Path) -> None:
    token = {"content": END, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    write(directory, "tokenizer_config.json", added_tokens_decoder={"1024": token}, eos_token=END)


def end_in_added_tokens_file(directory: Path) -> None:
    write(directory, "added_tokens.json", **{END: 1024})


def end_as_an_extra_token(directory: Path) -> None:
    write(directory, "tokenizer_config.json", extra_special_tokens=[END])


def end_as_an_additional_token(directory: Path) -> None:
    write(directory, "tokenizer_config.json", additional_special_tokens=[END])


def token_of_the_model_kind(directory: Path) -> None:
    """A role that only this kind of model has."""
    write(directory, "tokenizer_config.json", image_token=END)


def end_in_tokenizer_file(directory: Path) -> None:
    token = {"id": 1024, "content": END, "single_word": False, "lstrip": False, "rstrip": False}
    flags = {"normalized": False, "special": True}
    edit(directory, "tokenizer.json", lambda c: c["added_tokens"].append({**token, **flags}))


def defaults_left_out(directory: Path) -> None:
    """As an older version of the tokenizers library writes it."""

    def change(content: dict[str, Any]) -> None:
        for part in ("pre_tokenizer", "decoder"):
            content[part].pop("use_regex")
        for key in ("fuse_unk", "byte_fallback", "ignore_merges", "dropout", "unk_token"):
            content["model"].pop(key, None)
        content["model"]["merges"] = [m if isinstance(m, str) else " ".join(m) for m in content["model"]["merges"]]

    edit(directory, "tokenizer.json", change)


def trimming_left_out(directory: Path) -> None:
    """Which this version of the tokenizers library refuses."""
    edit(directory, "tokenizer.json", lambda c: c["pre_tokenizer"].pop("trim_offsets"))


def offsets_not_trimmed(directory: Path) -> None:
    edit(directory, "tokenizer.json", lambda c: c["pre_tokenizer"].update(trim_offsets=False))


def pre_tokenizer_in_a_sequence(directory: Path) -> None:
    def change(content: dict[str, Any]) -> None:
        content["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [content["pre_tokenizer"]]}

    edit(directory, "tokenizer.json", change)


def without_regular_expression(directory: Path) -> None:
    edit(directory, "tokenizer.json", lambda c: c["pre_tokenizer"].update(use_regex=False))


def lower_case(directory: Path) -> None:
    edit(directory, "tokenizer.json", lambda c: c.update(normalizer={"type": "Lowercase"}))


def merges_ignored(directory: Path) -> None:
    """Words that are tokens are taken whole, also those that merges do not lead to."""

    def change(content: dict[str, Any]) -> None:
        content["model"]["ignore_merges"] = True
        content["model"]["merges"] = content["model"]["merges"][:-200]

    edit(directory, "tokenizer.json", change)


def last_merges_left_out(directory: Path) -> None:
    edit(directory, "tokenizer.json", lambda c: c["model"].update(merges=c["model"]["merges"][:-3]))


def begins_with_a_token(directory: Path) -> None:
    """A post-processor that puts a token before the text."""

    def change(content: dict[str, Any]) -> None:
        end, text = {"SpecialToken": {"id": "<|endoftext|>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}
        other = {"Sequence": {"id": "B", "type_id": 1}}
        special = {"<|endoftext|>": {"id": "<|endoftext|>", "ids": [0], "tokens": ["<|endoftext|>"]}}
        content["post_processor"] = {
            "type": "TemplateProcessing", "single": [end, text], "pair": [end, text, other], "special_tokens": special,
        }  # fmt: skip

    edit(directory, "tokenizer.json", change)


def strips_before_a_token(directory: Path) -> None:
    edit(directory, "tokenizer.json", lambda c: c["added_tokens"][0].update(lstrip=True))


def decoder_without_bytes(directory: Path) -> None:
    edit(directory, "tokenizer.json", lambda c: c.update(decoder={"type": "Fuse"}))


def of_its_own_class(directory: Path) -> None:
    write(directory, "tokenizer_config.json", tokenizer_class="GPT2Tokenizer")


def of_its_own_class_with_a_space(directory: Path) -> None:
    write(directory, "tokenizer_config.json", tokenizer_class="GPT2Tokenizer", add_prefix_space=True)


def in_two_files(directory: Path) -> None:
    """vocab.json and merges.txt in place of tokenizer.json."""
    tokens_beside(directory)
    (directory / "tokenizer.json").unlink()
    write(directory, "tokenizer_config.json", tokenizer_class="GPT2Tokenizer")


def tokens_beside(directory: Path) -> None:
    """vocab.json and merges.txt beside tokenizer.json."""
    model = json.loads((directory / "tokenizer.json").read_text())["model"]
    (directory / "vocab.json").write_text(json.dumps(model["vocab"]))
    merges = [m if isinstance(m, str) else " ".join(m) for m in model["merges"]]
    (directory / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n")


def other_tokens_beside(directory: Path) -> None:
    tokens_beside(directory)
    edit(directory, "vocab.json", lambda c: c.update({"another": c.pop("the")}))


def two_ends(directory: Path) -> None:
    """special_tokens_map.json is read after tokenizer_config.json, which has no added_tokens_decoder."""
    write(directory, "tokenizer_config.json", eos_token="<|endoftext|>")
    write(directory, "special_tokens_map.json", eos_token="the")


def templates_in_a_folder(directory: Path) -> None:
    (directory / "additional_chat_templates").mkdir()
    (directory / "additional_chat_templates" / "tool_use.jinja").write_text(CHAT + "tools")
    (directory / "chat_template.jinja").write_text(CHAT)


def template_twice(directory: Path) -> None:
    (directory / "chat_template.jinja").write_text(CHAT)
    write(directory, "tokenizer_config.json", chat_template="{{ old }}")


def templates_in_a_list(directory: Path) -> None:
    named = [{"name": "default", "template": CHAT}, {"name": "rag", "template": CHAT + "documents"}]
    write(directory, "tokenizer_config.json", chat_template=named)


def template_of_a_processor(directory: Path) -> None:
    write(directory, "chat_template.json", chat_template=CHAT)


def sentence_pieces(directory: Path) -> None:
    (directory / "tokenizer.model").write_bytes(sentencepiece_model(["<unk>", "<s>", "\u2581the"]))


def other_files(directory: Path) -> None:
    for name in ("preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json"):
        (directory / name).write_text("{}")
    (directory / "vocab.txt").write_text("a\nb\n")
    (directory / "spiece.model").write_bytes(sentencepiece_model(["<unk>"]))


def files_left_out(directory: Path) -> None:
    (directory / "modules.json").write_text("{}")
    (directory / "training_args.bin").write_bytes(b"?")
    (directory / "trainer_state.json").write_text("{}")


def ends_in_generation_config(directory: Path) -> None:
    write(directory, "generation_config.json", eos_token_id=[7, 9], pad_token_id=9, temperature=0.5, do_sample=True)


def all_ids(directory: Path) -> None:
    ids = {
        "eos_token_id": [5, 6], "bos_token_id": 4, "pad_token_id": 6, "decoder_start_token_id": 4,
        "forced_eos_token_id": 5, "suppress_tokens": [8], "begin_suppress_tokens": [9], "bad_words_ids": [[10, 11]],
        "sequence_bias": [[[12], 1.0]], "stop_strings": ["stop"],
    }  # fmt: skip
    write(directory, "generation_config.json", **ids)
    write(directory, "config.json", eos_token_id=5, bos_token_id=4, sep_token_id=3, tokenizer_class="GPT2Tokenizer")
    write(directory, "config.json", task_specific_params={"text-generation": {"eos_token_id": 5, "max_length": 9}})


def no_ids(directory: Path) -> None:
    write(directory, "config.json", eos_token_id=None, bos_token_id=None, pad_token_id=None)
    (directory / "generation_config.json").unlink(missing_ok=True)


def ends_in_config(directory: Path) -> None:
    """Several, as some models have; no generation_config.json."""
    write(directory, "config.json", eos_token_id=[3, 4])
    (directory / "generation_config.json").unlink(missing_ok=True)


def ids_without_rows(directory: Path) -> None:
    write(directory, "config.json", eos_token_id=50256, pad_token_id=50257)
    write(directory, "generation_config.json", eos_token_id=50256)


def sentencepiece_model(pieces: list[str]) -> bytes:
    """A model file of SentencePiece with these pieces and nothing else."""

    def field(number: int, content: bytes) -> bytes:
        return bytes([number << 3 | 2, len(content)]) + content

    return b"".join(field(1, field(1, piece.encode()) + b"\x15\0\0\x80\xbf") for piece in pieces)


ALTERED: dict[str, Callable[[Path], None]] = {
    change.__name__: change
    for change in (
        end_in_special_tokens_map,
        end_with_flags_in_special_tokens_map,
        end_in_added_tokens_decoder,
        end_in_added_tokens_file,
        end_as_an_extra_token,
        end_as_an_additional_token,
        token_of_the_model_kind,
        end_in_tokenizer_file,
        defaults_left_out,
        trimming_left_out,
        offsets_not_trimmed,
        pre_tokenizer_in_a_sequence,
        without_regular_expression,
        lower_case,
        merges_ignored,
        last_merges_left_out,
        begins_with_a_token,
        strips_before_a_token,
        decoder_without_bytes,
        of_its_own_class,
        of_its_own_class_with_a_space,
        in_two_files,
        tokens_beside,
        other_tokens_beside,
        two_ends,
        templates_in_a_folder,
        template_twice,
        templates_in_a_list,
        template_of_a_processor,
        sentence_pieces,
        other_files,
        files_left_out,
        ends_in_generation_config,
        all_ids,
        no_ids,
        ends_in_config,
        ids_without_rows,
    )
}
