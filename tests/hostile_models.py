"""Ways to make a saved model hostile: each function changes a model's directory, in place, in well under a second."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import socket
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

MB = 2**20
Change = Callable[[Path], None]


def write(name: str, text: str | bytes) -> Change:
    def change(model: Path) -> None:
        (model / name).write_bytes(text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass"))

    return change


def late(make: Callable[[], Change]) -> Change:
    """A change whose content is made when it is needed: all of them together are half a gigabyte."""
    return lambda model: make()(model)


def config(**facts: object) -> Change:
    def change(model: Path) -> None:
        content = json.loads((model / "config.json").read_text())
        (model / "config.json").write_text(json.dumps({**content, **facts}))

    return change


def tokenizer(**parts: Any) -> Change:
    def change(model: Path) -> None:
        content = json.loads((model / "tokenizer.json").read_text())
        (model / "tokenizer.json").write_text(json.dumps({**content, **parts}))

    return change


def sparse(name: str, size: int) -> Change:
    def change(model: Path) -> None:
        with (model / name).open("ab") as file:
            file.truncate(size)

    return change


def header(entries: bytes) -> Change:
    def change(model: Path) -> None:
        (model / "model.safetensors").write_bytes(struct.pack("<Q", len(entries)) + entries)

    return change


def deflated(name: str, megabytes: int) -> Change:
    """An archive of torch's with a pickle of a few hundred kilobytes that unpacks to megabytes of a text."""

    def change(model: Path) -> None:
        if name == "pytorch_model.bin":
            (model / "model.safetensors").unlink()
        with zipfile.ZipFile(model / name, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
            with archive.open("archive/data.pkl", "w", force_zip64=True) as file:
                file.write(b"\x80\x02X" + struct.pack("<I", megabytes * MB))
                for _ in range(megabytes):
                    file.write(b"a" * MB)
                file.write(b".")
            archive.writestr("archive/version", "3\n")

    return change


class _Filled:
    def __reduce__(self) -> tuple[object, tuple[int]]:
        return bytearray, (8 * 2**30,)


def filler(name: str) -> Change:
    """An archive whose pickle asks for eight gigabytes in thirty bytes."""

    def change(model: Path) -> None:
        if name == "pytorch_model.bin":
            (model / "model.safetensors").unlink()
        with zipfile.ZipFile(model / name, "w") as archive:
            archive.writestr("archive/data.pkl", pickle.dumps({"optim": _Filled()}, protocol=2))
            archive.writestr("archive/version", "3\n")

    return change


def overlapping(model: Path) -> None:
    """An archive whose members all lie on the same bytes."""
    (model / "model.safetensors").unlink()
    with zipfile.ZipFile(model / "pytorch_model.bin", "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({}, protocol=2))
        archive.writestr("archive/data/0", b"\0" * MB)
        archive.filelist += [archive.filelist[-1]] * 2000


def expanded(model: Path) -> None:
    """A pickled state in which four bytes stand for the whole embedding of a large model."""
    import torch
    from safetensors.torch import load_file

    state = load_file(model / "model.safetensors")
    (model / "model.safetensors").unlink()
    state["transformer.wte.weight"] = torch.ones(1, 1).expand(10**6, 10**6)
    torch.save(state, model / "pytorch_model.bin")


def special(make: Callable[[Path], object], name: str) -> Change:
    def change(model: Path) -> None:
        (model / name).unlink(missing_ok=True)
        make(model / name)

    return change


def bind(path: Path) -> None:
    here = Path.cwd()
    os.chdir(path.parent)  # the address of a socket has at most 107 characters
    try:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(path.name)
    finally:
        os.chdir(here)


def many_files(model: Path) -> None:
    for number in range(20_100):
        os.close(os.open(model / f"{number}.txt", os.O_CREAT))


def shards(count: int) -> Change:
    def change(model: Path) -> None:
        content = {"weight_map": {f"w{number}": f"s{number}.safetensors" for number in range(count)}}
        write("model.safetensors.index.json", json.dumps(content))(model)

    return change


def nested(depth: int) -> dict[str, Any]:
    step: dict[str, Any] = {"type": "NFC"}
    for _ in range(depth):
        step = {"type": "Sequence", "normalizers": [step, {"type": "NFC"}]}
    return step


def doubling(steps: int) -> dict[str, Any]:
    double = {"type": "Replace", "pattern": {"String": "e"}, "content": "ee"}
    return {"type": "Sequence", "normalizers": [double] * steps}


def padded(**facts: object) -> dict[str, Any]:
    usual = {"direction": "Right", "pad_id": 0, "pad_type_id": 0, "pad_token": "x", "pad_to_multiple_of": None}
    return {**usual, "strategy": "BatchLongest", **facts}


def template(pieces: int) -> dict[str, Any]:
    piece = {"Sequence": {"id": "A", "type_id": 0}}
    return {"type": "TemplateProcessing", "single": [piece] * pieces, "pair": [piece], "special_tokens": {}}


def aliases(key: str) -> str:
    levels = [f"a{n + 1}: &a{n + 1} [{', '.join([f'*a{n}'] * 10)}]" for n in range(12)]
    return "\n".join(["---", "a0: &a0 [x, x, x]", *levels, f"{key}: *a12", "---", ""])


WORDS = (
    "\x1b]0;owned\x07\x1b[2J\u202edesrever\u200b [red]red[/] | `code` ![i](http://evil.example/i.png) "
    "<script>alert(1)</script>"
)


def entries(count: int, name: str = "") -> Change:
    """A header of empty tensors."""
    entry = '%s:{"dtype":"F32","shape":[0],"data_offsets":[0,0]}'
    return lambda model: header(
        ("{" + ",".join(entry % json.dumps(f"{name}{number}") for number in range(count)) + "}").encode()
    )(model)


def index(weight_map: dict[str, str]) -> Change:
    """An index in place of the one file of weights."""

    def change(model: Path) -> None:
        (model / "model.safetensors").unlink()
        (model / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))

    return change


HOSTILE: dict[str, Change] = {
    # cards
    "a card of newlines": write("README.md", "\n" * (MB - 10)),
    "a card of spaces": write("README.md", " " * (MB - 10)),
    "a card of quotation marks": write("README.md", "> " * (MB // 2 - 10)),
    "a card of optimizers": write("README.md", "optimizer " * (MB // 10 - 10)),
    "a card of one line": late(lambda: write("README.md", "x" * (10 * MB))),
    "a card of aliases": write("README.md", aliases("license")),
    "a licence of aliases": write("README.md", aliases("license_name").replace("---\na0", "---\nlicense: other\na0")),
    "a card of brackets": write("README.md", f"---\nlicense: {'[' * 400_000}\n---\n"),
    "a card of a long sexagesimal": write("README.md", f"---\nlicense: {'1:' * 200_000}1\n---\n"),
    "a card of words": write(
        "README.md", f"---\nlicense: other\nlicense_name: {json.dumps(WORDS)}\n---\noptimizer: {WORDS}"
    ),
    # numbers of config.json
    "twenty million labels": config(num_labels=20_000_000),
    "labels of a part": config(vision_config={"num_labels": 20_000_000}),
    "a milliard layers": config(n_layer=10**9),
    "more layers than tensors": config(n_layer=900),
    "no layers": config(n_layer=0),
    "minus two layers": config(n_layer=-2),
    "two and a half layers": config(n_layer=2.5),
    "a true width": config(n_embd=True),
    "a huge vocabulary": config(vocab_size=2**40),
    "a vocabulary of nines": write("config.json", '{"model_type": "gpt2", "vocab_size": ' + "9" * 4000 + "}"),
    "huge positions": config(n_positions=2**40),
    "stages without end": config(num_stages=10**10),
    "a deep configuration": lambda model: config(extra=json.loads("[" * 200 + "]" * 200))(model),
    "many labels": late(lambda: config(id2label={str(number): "x" for number in range(300_000)})),
    "a huge configuration": sparse("config.json", 2**40),
    # tokenizers
    "nested normalizers": tokenizer(normalizer=nested(40)),
    "normalizers that double": tokenizer(normalizer=doubling(60)),
    "a prefix of megabytes": tokenizer(normalizer={"type": "Prepend", "prepend": "x" * MB}),
    "a template of copies": tokenizer(post_processor=template(100_000)),
    "padding without end": tokenizer(padding=padded(strategy={"Fixed": 2**40})),
    "padding to a multiple": tokenizer(padding=padded(pad_to_multiple_of=2**40)),
    "a tokenizer of a terabyte": sparse("tokenizer.json", 2**40),
    "a tokenizer of lists": late(lambda: write("tokenizer.json", b'{"model": [' + b"[]," * (20 * MB) + b"[]]}")),
    "a tokenizer of objects": late(lambda: write("tokenizer.json", b'{"model": [' + b'{"":0},' * (8 * MB) + b"0]}")),
    "merges of a terabyte": sparse("merges.txt", 2**40),
    "a template of a terabyte": sparse("chat_template.jinja", 2**40),
    # headers and indexes
    "a header of small entries": entries(500_000),
    "a header of a hundred megabytes": late(lambda: header(b"{" + b" " * (100 * MB) + b"}")),
    "a shape of many axes": header(b'{"x":{"dtype":"F32","shape":[' + b"1," * 500_000 + b'1],"data_offsets":[0,4]}}'),
    "an axis of nines": header(b'{"x":{"dtype":"F32","shape":[' + b"9" * 4000 + b'],"data_offsets":[0,4]}}'),
    "many tensors nobody knows": entries(20_000),
    "a million shards": shards(1_000_000),
    "a huge index": sparse("model.safetensors.index.json", 2**40),
    # archives
    "deflated weights": deflated("pytorch_model.bin", 500),
    "deflated arguments": deflated("training_args.bin", 200),
    "a deflated optimizer": deflated("optimizer.pt", 200),
    "weights that fill": filler("pytorch_model.bin"),
    "arguments that fill": filler("training_args.bin"),
    "members on top of each other": overlapping,
    "weights that are mostly strides": expanded,
    # files that are none, or too many
    "a trainer's state of a terabyte": sparse("trainer_state.json", 2**40),
    "a report of a terabyte": sparse("isthmus.json", 2**40),
    "an index that is a pipe": special(os.mkfifo, "model.safetensors.index.json"),
    "a card that is a pipe": special(os.mkfifo, "README.md"),
    "a configuration that is a pipe": special(os.mkfifo, "config.json"),
    "a tokenizer that is a socket": special(bind, "tokenizer.json"),
    "settings that never end": special(lambda path: path.symlink_to("/dev/zero"), "tokenizer_config.json"),
    "many files": many_files,
    # text
    "a report's names": write(
        "isthmus.json", json.dumps({"endpoints": [{"ref": WORDS * 50, "optimizer": WORDS}] * 300})
    ),
    "an optimizer's name": write("trainer_state.json", json.dumps({"optimizer": WORDS * 100})),
    "a tensor's name": entries(3, WORDS * 100),
    "a shard's name": index({"x": WORDS * 100}),
    "a model type": config(model_type=WORDS * 100),
    "an unpaired surrogate": config(task_specific_params={"note": "\ud800"}),
}


def hostile(model: Path, name: str, target: Path) -> Path:
    """A copy of a model, made hostile."""
    shutil.copytree(model, target)
    HOSTILE[name](target)
    return target


__all__ = ["HOSTILE", "hostile"]
