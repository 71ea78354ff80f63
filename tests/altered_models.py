"""Alterations of a saved model, functions on its directory: damages, models of another kind, valid oddities.

`ALTERED` are those that `check` and `merge` must judge alike. What only reading weights can tell is in `ON_READING`.
The model is one that ``saved("m", tokenizer=True, vocab_size=1024)`` writes.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

WEIGHTS = "model.safetensors"
WPE, LN = "transformer.wpe.weight", "transformer.ln_f.bias"
Altering = Callable[[Path], None]


def config(**changes: object) -> Altering:
    def alter(model: Path) -> None:
        content = json.loads((model / "config.json").read_text())
        (model / "config.json").write_text(json.dumps({**content, **changes}))

    return alter


def without(*keys: str) -> Altering:
    """config.json without some keys."""

    def alter(model: Path) -> None:
        content = json.loads((model / "config.json").read_text())
        left = {key: value for key, value in content.items() if key not in keys}
        (model / "config.json").write_text(json.dumps(left))

    return alter


def tensors(change: Callable[[dict[str, torch.Tensor]], object]) -> Altering:
    def alter(model: Path) -> None:
        content = load_file(model / WEIGHTS)
        change(content)
        save_file({name: value.contiguous() for name, value in content.items()}, model / WEIGHTS, {"format": "pt"})

    return alter


def header(change: Callable[[dict[str, Any]], object]) -> Altering:
    """The header rewritten, its length as it should be, the data left."""

    def alter(model: Path) -> None:
        raw = (model / WEIGHTS).read_bytes()
        length = struct.unpack("<Q", raw[:8])[0]
        content = json.loads(raw[8 : 8 + length])
        change(content)
        new = json.dumps(content).encode()
        (model / WEIGHTS).write_bytes(struct.pack("<Q", len(new)) + new + raw[8 + length :])

    return alter


def file(name: str, content: bytes | None) -> Altering:
    def alter(model: Path) -> None:
        if content is None:
            (model / name).unlink()
        else:
            (model / name).write_bytes(content)

    return alter


def both(*alterings: Altering) -> Altering:
    def alter(model: Path) -> None:
        for one in alterings:
            one(model)

    return alter


def index(weight_map: object) -> Altering:
    def alter(model: Path) -> None:
        (model / WEIGHTS).unlink(missing_ok=True)
        file("model.safetensors.index.json", json.dumps({"weight_map": weight_map}).encode())(model)

    return alter


def resized(**changes: object) -> Altering:
    """Another model altogether, as transformers would save it."""

    def alter(model: Path) -> None:
        from conftest import tiny_model

        other = tiny_model(**{"vocab_size": 1024, **changes})
        own = dict(other.named_parameters()).keys()
        state = {name: value.clone() for name, value in other.state_dict().items() if name in own}
        save_file(state, model / WEIGHTS, {"format": "pt"})
        (model / "config.json").write_text(json.dumps(other.config.to_dict()))

    return alter


def saved_as(name: str, **facts: object) -> Altering:
    """The same configuration as another class of transformers saves it."""

    def alter(model: Path) -> None:
        import transformers
        from conftest import tiny_config

        torch.manual_seed(0)
        getattr(transformers, name)(tiny_config(vocab_size=1024, pad_token_id=0, **facts)).save_pretrained(model)

    return alter


def of_type(name: str, cls: str, **facts: object) -> Altering:
    """A small model of another architecture, by its configuration class and its class, in this model's place."""

    def alter(model: Path) -> None:
        import transformers

        torch.manual_seed(0)
        getattr(transformers, cls)(getattr(transformers, name)(**facts)).save_pretrained(model)

    return alter


def sharded(model: Path) -> None:
    content = load_file(model / WEIGHTS)
    (model / WEIGHTS).unlink()
    files = {name: f"model-{1 + place % 2:05d}-of-00002.safetensors" for place, name in enumerate(content)}
    for shard in set(files.values()):
        save_file({name: content[name] for name in content if files[name] == shard}, model / shard)
    index(files)(model)


def pickled(model: Path) -> None:
    torch.save(load_file(model / WEIGHTS), model / "pytorch_model.bin")
    (model / WEIGHTS).unlink()


def without_prefix(model: Path) -> None:
    content = load_file(model / WEIGHTS)
    save_file({name.removeprefix("transformer."): value for name, value in content.items()}, model / WEIGHTS)


def swapped_tokens(model: Path) -> None:
    content = json.loads((model / "tokenizer.json").read_text())
    vocabulary = content["model"]["vocab"]
    first, second = sorted(vocabulary)[500:502]
    vocabulary[first], vocabulary[second] = vocabulary[second], vocabulary[first]
    (model / "tokenizer.json").write_text(json.dumps(content))


def reversed_merges(model: Path) -> None:
    content = json.loads((model / "tokenizer.json").read_text())
    content["model"]["merges"].reverse()
    (model / "tokenizer.json").write_text(json.dumps(content))


def adapter_only(model: Path) -> None:
    (model / "config.json").rename(model / "adapter_config.json")


ADAPTER = file("adapter_config.json", b'{"base_model_name_or_path": "elsewhere", "peft_type": "LORA"}')
SMALL = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 64}
BERT, T5 = {**SMALL, "vocab_size": 1024}, {"vocab_size": 1024, "d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 1}
BART = {"vocab_size": 1024, "d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "max_position_embeddings": 32}
BART |= {
    f"{side}_{what}": n for side in ("encoder", "decoder") for what, n in (("ffn_dim", 64), ("attention_heads", 4))
}

DAMAGED: dict[str, Altering] = {
    "architecture": config(model_type="gptj"),
    "layers": resized(n_layer=3),
    "width": resized(n_embd=64),
    "heads": config(n_head=2),
    "hidden units": resized(n_inner=96),
    "activation": config(activation_function="relu"),
    "attention": config(scale_attn_by_inverse_layer_idx=True),
    "attention without scale": config(scale_attn_weights=False),
    "cross-attention": config(add_cross_attention=True),
    "tokens": swapped_tokens,
    "tensor missing": tensors(lambda t: t.pop(LN)),
    "tensor extra": tensors(lambda t: t.update(strange=torch.ones(1))),
    "tensor misshapen": tensors(lambda t: t.update({WPE: torch.ones(4, 4)})),
    "integers": tensors(lambda t: t.update({WPE: t[WPE].to(torch.int8)})),
    "doubles": tensors(lambda t: t.update({WPE: t[WPE].double()})),
    "truncated": lambda model: file(WEIGHTS, (model / WEIGHTS).read_bytes()[:-100])(model),
    "not safetensors": file(WEIGHTS, b"<html>not found</html>"),
    "header no JSON": file(WEIGHTS, struct.pack("<Q", 8) + b"not json" + bytes(64)),
    "header lies": header(lambda h: h[WPE].update(shape=[9999, 9999])),
    "header overlaps": header(lambda h: h[WPE].update(data_offsets=[0, 4096])),
    "header huge": file(WEIGHTS, struct.pack("<Q", 2**62) + bytes(64)),
    "shard missing": index({WPE: "model-00001-of-00002.safetensors"}),
    "shard outside": index({WPE: "../../other/model.safetensors"}),
    "index empty": index({}),
    "no weights": file(WEIGHTS, None),
    "no config": file("config.json", None),
    "adapter": adapter_only,
    "config no JSON": file("config.json", b"{"),
    "config a list": file("config.json", b"[]"),
    "config no type": config(model_type=None),
    "unknown type": config(model_type="gpt-9"),
    "code in config": config(auto_map={"AutoModelForCausalLM": "evil.Model"}),
    "code in tokenizer": file("tokenizer_config.json", b'{"auto_map": {"AutoTokenizer": ["evil.Tokenizer", null]}}'),
    "tokenizer damaged": file("tokenizer.json", b'{"model": {"vocab": {"a": "x"}}}'),
    "width that is text": config(n_embd="wide"),
    "heads that do not divide": config(n_head=5),
    "no layers": config(n_layer=0),
    "half a head": config(n_head=4.5),
    "epsilon that is text": config(layer_norm_epsilon="small"),
    "dropout that is text": config(attn_pdrop="some"),
    "NaN in config": config(attn_pdrop=float("nan")),
    "infinity in config": config(initializer_range=float("inf")),
    "a number beyond floats in config": file("config.json", b'{"model_type": "gpt2", "initializer_range": 1e999}'),
    "NaN in generation": file("generation_config.json", b'{"temperature": NaN}'),
    "infinity in the tokenizer": file("tokenizer_config.json", b'{"model_max_length": Infinity}'),
    "generation no JSON": file("generation_config.json", b"{"),
}  # fmt: skip

OTHER_KINDS: dict[str, Altering] = {
    "quantized": config(quantization_config={"bits": 4}),
    "quantized tensors": tensors(
        lambda t: t.update({"transformer.h.0.mlp.c_fc.qweight": torch.ones(2, dtype=torch.int32)})
    ),
    "question answering": saved_as("GPT2ForQuestionAnswering"),
    "double heads": saved_as("GPT2DoubleHeadsModel"),
    "classifier by its tensor": tensors(lambda t: t.update({"score.weight": torch.ones(2, 32)})),
    "value head": tensors(lambda t: t.update({"v_head.summary.weight": torch.ones(1, 32)})),
    "value head by its class": config(architectures=["AutoModelForCausalLMWithValueHead"]),
    "adapter beside weights": ADAPTER,
    "adapter and its weights beside weights": both(ADAPTER, file("adapter_model.safetensors", b"")),
    "no head where it is not tied": saved_as("GPT2Model", tie_word_embeddings=False),
    "encoder-decoder": of_type("T5Config", "T5ForConditionalGeneration", **T5, num_heads=4),
    "encoder-decoder with a decoder's class": of_type("BartConfig", "BartForConditionalGeneration", **BART),
    "encoder": of_type("T5Config", "T5EncoderModel", **T5, num_heads=4),
    "images": of_type("ViTConfig", "ViTForImageClassification", **SMALL, image_size=16, patch_size=8),
    "image features": of_type("ViTConfig", "ViTModel", **SMALL, image_size=16, patch_size=8),
}  # fmt: skip

VALID: dict[str, Altering] = {
    "as it is": lambda model: None,
    "embeddings of a tied model": saved_as("GPT2Model"),
    "no class": without("architectures"),
    "a class of somebody's own": config(architectures=["MyOwnModel"]),
    "bookkeeping": config(unsloth_version="2025.1", _attn_implementation_autoset=True, finetuning_task="sst2"),
    "an unknown key": config(my_experiment={"id": 7}),
    "keys of training": config(attn_pdrop=0.5, summary_type="mean", initializer_range=0.5, use_cache=False),
    "defaults left out": without("activation_function", "layer_norm_epsilon", "scale_attn_weights", "n_ctx"),
    "epsilon": config(layer_norm_epsilon=1e-6),
    "another name of the activation": config(activation_function="gelu_pytorch_tanh"),
    "no quantization": config(quantization_config=None),
    "untied": resized(tie_word_embeddings=False),
    "shards": sharded,
    "pickle": pickled,
    "no prefix": without_prefix,
    "half": tensors(lambda t: t.update({name: value.half() for name, value in t.items()})),
    "mixed dtypes": tensors(lambda t: t.update({WPE: t[WPE].bfloat16()})),
    "masks": tensors(lambda t: t.update({"transformer.h.0.attn.bias": torch.ones(1, 1, 32, 32)})),
    "merge rules": reversed_merges,
    "no tokenizer": file("tokenizer.json", None),
    "a chat template": file("chat_template.jinja", b"{{ messages }}"),
    "a card": file("README.md", b"---\nlicense: cc-by-nc-4.0\n---\n"),
    "an adapter's weights alone": file("adapter_model.safetensors", b""),
    "more rows": resized(vocab_size=1032),
}

ALTERED = {**DAMAGED, **OTHER_KINDS, **VALID}
# NaN among the weights, all-zero matrices: `check` reads no weights.
ON_READING: dict[str, Altering] = {
    "NaN": tensors(lambda t: t[WPE].fill_(float("nan"))),
    "zeros": tensors(lambda t: t[WPE].zero_()),
}
