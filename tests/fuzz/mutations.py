"""One file damaged, by its kind. Every function changes the file in place and says what it did."""

from __future__ import annotations

import json
import os
import struct
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import torch
from fuzz.values import Raw, dump, mutate_bytes, mutate_tree, odd_value, shown

CONFIG_KEYS = (
    "n_layer", "n_head", "n_embd", "n_inner", "n_positions", "vocab_size", "hidden_size", "num_hidden_layers", "dtype",
    "torch_dtype", "attn_implementation", "_attn_implementation", "rope_scaling", "rope_parameters", "id2label",
    "label2id",
    "num_labels", "architectures", "pad_token_id", "bos_token_id", "eos_token_id", "quantization_config", "is_decoder",
    "is_encoder_decoder", "pruned_heads", "problem_type", "layer_types", "text_config", "vision_config",
    "attribute_map",
    "model_type", "activation_function", "tie_word_embeddings", "scale_attn_weights", "add_cross_attention",
    "torchscript",
    "_name_or_path", "name_or_path", "transformers_version", "max_position_embeddings", "layer_norm_epsilon",
    "initializer_range", "resid_pdrop", "attn_pdrop", "scale_attn_by_inverse_layer_idx", "reorder_and_upcast_attn",
    "chunk_size_feed_forward", "use_cache", "output_attentions", "output_hidden_states", "return_dict", "_commit_hash",
    "self", "__class__", "to_dict", "from_dict", "base_model_tp_plan", "keys_to_ignore_at_inference", "new_key",
    "temperature", "max_length", "sliding_window", "head_dim", "num_key_value_heads", "rms_norm_eps", "hidden_act",
)  # fmt: skip
TOKENIZER_KEYS = (
    "auto_map", "chat_template", "bos_token", "eos_token", "pad_token", "unk_token", "tokenizer_class",
    "extra_special_tokens",
    "additional_special_tokens", "added_tokens_decoder", "model_max_length", "clean_up_tokenization_spaces",
    "padding_side",
    "backend", "name_or_path", "tokenizer_file", "vocab_file", "version", "truncation", "padding", "added_tokens",
    "model",
    "normalizer", "pre_tokenizer", "post_processor", "decoder", "add_bos_token", "legacy", "from_slow", "__type",
)  # fmt: skip
DTYPES = (
    "F64", "F32", "F16", "BF16", "I64", "I32", "I16", "I8", "U8", "U16", "U32", "U64", "BOOL", "F8_E4M3", "F8_E5M2",
    "F4",
    "F6_E2M3", "C64", "f32", "", "F32 ", "X",
)  # fmt: skip


def change_json(file: Path, random: Random) -> str:
    """A JSON file with another value, another tree or other bytes."""
    raw = file.read_bytes()
    if random.random() < 0.2:
        changed, what = mutate_bytes(raw, random)
        file.write_bytes(changed)
        return what
    keys: tuple[str, ...] = ()
    if file.name in ("config.json", "generation_config.json"):
        keys = CONFIG_KEYS
    elif "token" in file.name:
        keys = TOKENIZER_KEYS
    tree, said = json.loads(raw), []
    for _ in range(random.choice([1, 1, 1, 2, 5])):
        try:
            tree, what = mutate_tree(tree, random, keys)
        except (TypeError, KeyError, OverflowError):  # the place holds what was put there before
            break
        said.append(what)
        if isinstance(tree, Raw):
            break
    file.write_text(dump(tree), encoding="utf-8", errors="surrogatepass")
    return ", ".join(said)


def change_text(file: Path, random: Random) -> str:
    """Any other file, by its bytes."""
    changed, what = mutate_bytes(file.read_bytes(), random)
    file.write_bytes(changed)
    return what


def change_lines(file: Path, random: Random) -> str:
    """A text or a .jsonl file with an odd line."""
    line = random.choice(
        [
            b"\xff\xfe", b"\x00" * 50, b'{"text": "\\ud800 lone"}', b'{"text": null}', b'{"text": NaN}',
            b'{"text": 1}', b"[]",
            b"{}", b'{"text": "' + b"x" * 200000 + b'"}', b"x" * 300000, b'{"text": "a", "text": 5}', b"null",
            b"1" * 5000,
            b'{"text": ' + b"[" * 100000, b"[" * 100000, b'{"text": "<|end|>"}', "é\u2028x".encode(), b"\r",
            b"\xed\xa0\x80",
            b'{"text": "\\u0000"}', b'{"n": ' + b"9" * 5000 + b', "text": "a"}', b'"text"', b"\xf4\x90\x80\x80",
        ]
    )  # fmt: skip
    lines = file.read_bytes().splitlines(keepends=True)
    kind = random.random()
    if kind < 0.3:
        lines = [line + b"\n"]
    else:
        lines.insert(random.randrange(len(lines) + 1), line + b"\n")
    file.write_bytes(b"".join(lines))
    return f"a line {line[:30]!r}"


def change_file(file: Path, random: Random) -> str:
    """What a file is: a folder, a link, nothing."""
    kind = random.choice(["a directory", "missing", "a link to itself", "a dangling link", "a pipe", "empty"])
    content = file.read_bytes()
    file.unlink()
    if kind == "a directory":
        file.mkdir()
        (file / "x").write_bytes(content)
    elif kind == "a link to itself":
        file.symlink_to(file.name)
    elif kind == "a dangling link":
        file.symlink_to("nowhere")
    elif kind == "a pipe":
        os.mkfifo(file)
    elif kind == "empty":
        file.write_bytes(b"")
    return kind


def change_safetensors(file: Path, random: Random) -> str:
    """A safetensors file: its header's JSON, its length, its numbers, or any of its bytes."""
    raw = file.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    header, data = json.loads(raw[8 : 8 + length]), bytearray(raw[8 + length :])
    names = [name for name in header if name != "__metadata__"]
    name = random.choice(names)
    entry = header[name]
    kind = random.choice(
        ["bytes", "length", "tree", "tree", "dtype", "shape", "offsets", "name", "numbers", "metadata", "whole", "text"]
    )
    if kind == "bytes":
        return change_text(file, random)
    text, what = None, ""
    if kind == "length":
        length = random.choice(
            [0, 1, length - 1, length + 1, length + 8, len(raw), len(raw) - 8, 2**31, 2**63, 2**64 - 1]
        )
        file.write_bytes(struct.pack("<Q", length) + raw[8:])
        return f"a length of {length}"
    if kind == "tree":
        tree, what = mutate_tree(header, random, ("__metadata__", "x", name))
        text = dump(tree)
    elif kind == "dtype":
        entry["dtype"] = random.choice(DTYPES)
        what = f"{name} of dtype {entry['dtype']!r}"
    elif kind == "shape":
        count = 1
        for axis in entry["shape"]:
            count *= axis
        entry["shape"] = random.choice(
            [
                [count], [], [0], [count, 1], [1] * 70 + [count], [-1, -count], [True, count], [float(count)],
                [str(count)],
                entry["shape"][::-1], [count * 2], [2**62, 4, count], [2**33, 2**33, 0], [None], [count // 2, 2], "x",
                {},
            ]
        )  # fmt: skip
        what = f"{name} of shape {shown(entry['shape'])}"
    elif kind == "offsets":
        begin, end = entry["data_offsets"]
        entry["data_offsets"] = random.choice(
            [
                [end, begin], [begin, end, 0], [begin], [begin + 4, end + 4], [-4, end], [float(begin), float(end)],
                [0, end],
                [str(begin), str(end)], [2**64, 2**64 + end], [True, end], [begin, None], [begin + 0.5, end], {}, "ab",
            ]
        )  # fmt: skip
        what = f"{name} at {shown(entry['data_offsets'])}"
    elif kind == "name":
        other = random.choice(
            ["", "x", "\x00", "é", "x" * 300, name + " ", name.upper(), "transformer." + name, "\n", "../x"]
        )
        header[other] = header.pop(name)
        what = f"{name} called {shown(other)}"
    elif kind == "numbers":
        begin, end = entry["data_offsets"]
        number = random.choice([float("nan"), float("inf"), -float("inf"), 3e38, 1e-45, 0.0])
        width = random.choice([4, end - begin])
        place = begin if width > 4 else random.randrange(begin, end, 4)
        data[place : place + width] = struct.pack("<f", number) * (width // 4)
        what = f"{number} in {name}"
    elif kind == "metadata":
        header["__metadata__"] = odd_value(random)
        what = f"metadata {shown(header['__metadata__'])}"
    elif kind == "whole":
        header = random.choice([{}, {"__metadata__": {}}, [], None, 1, "x", {name: entry}, {name: None}])
        data = random.choice([data, bytearray()])
        what = f"the header {shown(header)}"
    else:
        text = json.dumps(header)
        text = random.choice(
            [" " + text, text + " " * 9, text[:-1], text + "}", text.replace(":", ": ", 1), "\ufeff" + text]
        )
        what = "the header's text"
    content = (dump(header) if text is None else text).encode("utf-8", "surrogatepass")
    file.write_bytes(struct.pack("<Q", len(content)) + content + bytes(data))
    return what


class Sub(torch.Tensor):
    """A tensor of a class of its own."""


def change_pickle(file: Path, random: Random) -> str:
    """A pickle of torch: odd tensors, odd values, odd keys, an odd whole, or any of its bytes."""
    if random.random() < 0.12:
        return change_text(file, random)
    state = torch.load(file, weights_only=True)
    name = random.choice(list(state))
    tensor = state[name]
    if not isinstance(tensor, torch.Tensor):
        tensor = torch.ones(2, 2)
    flat = tensor.float()
    kinds: dict[str, Callable[[], Any]] = {
        "meta": lambda: tensor.to("meta"),
        "sparse": lambda: flat.to_sparse(),
        "csr": lambda: (flat if flat.ndim == 2 else flat.reshape(1, -1)).to_sparse_csr(),
        "nested": lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]),
        "jagged": lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)], layout=torch.jagged),
        "quantised": lambda: torch.quantize_per_tensor(flat, 0.1, 0, torch.qint8),
        "complex": lambda: flat.to(torch.complex64),
        "conjugate": lambda: flat.to(torch.complex64).conj(),
        "bool": lambda: flat > 0,
        "int64": lambda: flat.to(torch.int64),
        "uint8": lambda: flat.to(torch.uint8),
        "float64": lambda: flat.double(),
        "float8": lambda: flat.to(torch.float8_e4m3fn),
        "uint16": lambda: flat.to(torch.int32).to(torch.uint16),
        "expanded": lambda: flat.flatten()[:1].expand(tensor.numel()).reshape(tensor.shape),
        "transposed": lambda: flat.t().contiguous().t() if flat.ndim == 2 else flat,
        "of a wide stride": lambda: torch.zeros(1).expand(10**6, 10**6),
        "shared": lambda: state[random.choice(list(state))],
        "a parameter": lambda: torch.nn.Parameter(flat),
        "a buffer": lambda: torch.nn.Buffer(flat),
        "of a subclass": lambda: flat.as_subclass(Sub),
        "of no axis": lambda: torch.tensor(1.0),
        "empty": lambda: flat[:0],
        "of another shape": lambda: flat.flatten(),
        "NaN": lambda: flat * float("nan"),
        "Inf": lambda: flat + float("inf"),
        "zero": lambda: flat * 0,
        "None": lambda: None,
        "a number": lambda: 3,
        "a text": lambda: "x",
        "a list": lambda: flat.tolist(),
        "a dict": lambda: {"x": flat},
        "a storage": lambda: flat.untyped_storage(),
        "a dtype": lambda: torch.float32,
        "a size": lambda: torch.Size([2]),
        "a device": lambda: torch.device("cuda:7"),
    }  # fmt: skip
    wholes: dict[str, Callable[[], Any]] = {
        "a list": lambda: list(state.values()),
        "a tensor": lambda: flat,
        "None": lambda: None,
        "a number": lambda: 5,
        "a text": lambda: "x",
        "empty": dict,
        "state_dict inside": lambda: {"state_dict": state},
        "ordered": lambda: OrderedDict(state),
        "a set": lambda: set(state),
        "a key that is a number": lambda: {**state, 5: flat},
        "a key that is None": lambda: {**state, None: flat},
        "a key that is a tuple": lambda: {**state, ("a", 1): flat},
        "a key of bytes": lambda: {**state, b"x": flat},
        "only keys that are numbers": lambda: dict(enumerate(state.values())),
        "a key of a surrogate": lambda: {**state, "\ud800": flat},
        "a long key": lambda: {**state, "x" * 5000: flat},
        "an empty key": lambda: {**state, "": flat},
        "an optimizer": lambda: {"state": {0: {"exp_avg": flat}}, "param_groups": []},
        "a key with a line break": lambda: {**state, "a\nb": flat},
        "a key twice by prefix": lambda: {**state, "transformer." + str(name): flat,
        str(name).removeprefix("transformer."): flat},
    }  # fmt: skip
    if random.random() < 0.6:
        kind = random.choice(list(kinds))
        content, what = {**state, name: kinds[kind]()}, f"{name} is {kind}"
    else:
        kind = random.choice(list(wholes))
        content, what = wholes[kind](), f"the whole: {kind}"
    zipped = random.random() > 0.1
    if zipped and random.random() < 0.1:
        content, what = _deep(content), what + ", deep inside"
    try:
        torch.save(content, file, _use_new_zipfile_serialization=zipped)
    except Exception:  # torch cannot write every one of them
        torch.save({name: 1}, file)
        return f"{name} is 1"
    return what + ("" if zipped else ", in the old format")


def _deep(content: Any) -> Any:
    for _ in range(200):
        content = {"x": content}
    return content


def change_yaml(file: Path, random: Random) -> str:
    """A recipe, or the metadata of a card: odd scalars, tags, anchors, or any of its bytes."""
    raw = file.read_bytes()
    if random.random() < 0.25:
        return change_text(file, random)
    odd = random.choice(
        [
            "!!python/name:os.system x", "!!python/object/apply:os.system ['true']", "!!int x", "!!float x",
            "!!binary ===",
            "!!timestamp x", "2020-13-45", "2020-01-01", "!!set {a, b}", "!!omap [a: 1]", "!!x y", "&a *a", "*a",
            "&a [*a]", ".nan",
            ".inf", "-.inf", "1" * 5000, "0x" + "f" * 5000, "1e999", "0b12", "1:60", "1_0", "~", "[]", "{}",
            "'\\ud800'",
            '"\\ud800"', '"\\uD800"', '"\\0"', "|", ">", "? x", "[" * 500, "[" * 100 + "]" * 100, "{a: b, a: c}",
            "<<: {a: b}",
            "!!null x", "!!bool x", "!!str 5", "!!map x", "!!seq x", "- x", "x: y", "%YAML 1.3", "---\n---", "...",
            "@", "`", "\t",
            "'" + "x" * 300 + "'", "./" + "x" * 300, "./" + "x/" * 3000, '"a\\0b"', '"./a\\0b"', "yes", "1.5", "-1",
            "0", "!!merge <<",
            "? [a, b]\n: c", "!!python/tuple [1]", '"\\U0001F600"', '"./\\x1b[31m"', "!<tag:yaml.org,2002:int> 08",
            "08", "1__", "+.inf",
            "!!int ''", "!!int '-'", "!!float '.'", "0o8", "!!int 0x", "!!int 0b", "!!int ':'",
            "!!timestamp '2001-1-1 99:99:99'",
        ]
    )  # fmt: skip
    lines = raw.decode().splitlines()
    place = random.randrange(len(lines))
    kind = random.random()
    if kind < 0.7 and ":" in lines[place]:
        lines[place] = lines[place].partition(":")[0] + ": " + odd
    elif kind < 0.8:
        lines[place] = " " * random.randrange(6) + odd
    elif kind < 0.9:
        lines[place] = odd + ": 1"
    else:
        lines.insert(place, odd)
    file.write_bytes("\n".join(lines).encode("utf-8", "surrogatepass"))
    return f"line {place + 1}: {lines[place][:50]!r}"


def change(file: Path, random: Random) -> str:
    """Damage a file by what its name says that it is; one that is damaged already, by its bytes."""
    if random.random() < 0.03:
        return change_file(file, random)
    content = file.read_bytes()
    try:
        return _change(file, random)
    except Exception:
        file.write_bytes(content)
        return change_text(file, random)


def _change(file: Path, random: Random) -> str:
    if file.suffix == ".json":
        return change_json(file, random)
    if file.suffix == ".safetensors":
        return change_safetensors(file, random)
    if file.suffix in (".bin", ".pt"):
        return change_pickle(file, random)
    if file.suffix == ".yml" or file.name == "README.md":
        return change_yaml(file, random)
    if file.suffix in (".txt", ".jsonl") and file.name != "merges.txt" and random.random() < 0.7:
        return change_lines(file, random)
    return change_text(file, random)
