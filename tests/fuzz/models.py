"""What the fuzzer damages: small models in every form that isthmus reads, and small outputs of isthmus itself.

Everything lies in one folder, and refers to its neighbours by relative names, so that a copy of the folder works.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

CONTEXT, WIDTH = 16, 16
WORDS = [
    "the",
    "sea",
    "was",
    "calm",
    "and",
    "the",
    "boat",
    "went",
    "on",
    "past",
    "the",
    "old",
    "stone",
    "light",
    "where",
    "nobody",
    "lived",
    "any",
    "more",
]
CARD = """---
license: apache-2.0
base_model: user/base
tags:
- text
---
# A model

optimizer: adamw
"""
RECIPE = """merge_method: ties
base_model: ./a
models:
  - model: ./a
  - model: ./b
    parameters:
      weight: [0.5, 1.0]
      density: 0.5
  - model: ./c
    parameters:
      weight: 0.3
      density: 1
parameters:
  lambda: 1.0
dtype: float32
"""
SLICES = """merge_method: slerp
slices:
  - sources:
      - model: ./a
        layer_range: [0, 2]
      - model: ./b
        layer_range: [0, 2]
base_model: ./a
parameters:
  t:
    - filter: mlp
      value: 0.3
    - value: 0.5
"""
FORMS = ("plain", "sharded", "pickled", "slow", "llama")


def words(count: int, seed: int = 0) -> str:
    generator = torch.Generator().manual_seed(seed)
    return " ".join(WORDS[i] for i in torch.randint(len(WORDS), (count,), generator=generator).tolist())


def build(folder: Path) -> None:
    """Write everything into `folder`, which is there."""
    tokenizer = _tokenizer()
    for seed, name in enumerate("abc"):
        _model(folder / name, seed, tokenizer)
        _documents(folder / name)
    for form in FORMS[1:]:
        for seed, name in enumerate("ab"):
            target = folder / f"{form}-{name}"
            if form == "llama":
                _llama(target, seed, tokenizer)
                continue
            shutil.copytree(folder / name, target)
            _reform(target, form)
    _texts(folder)
    (folder / "ties.yml").write_text(RECIPE)
    (folder / "slices.yml").write_text(SLICES)
    _outputs(folder)


def _tokenizer() -> PreTrainedTokenizerFast:
    raw = Tokenizer(BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = BpeTrainer(
        vocab_size=280, special_tokens=["<|end|>"], initial_alphabet=sorted(alphabet), show_progress=False
    )
    raw.train_from_iterator([words(500)], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=raw,
        bos_token="<|end|>",
        eos_token="<|end|>",
        chat_template="{% for m in messages %}{{ m['content'] }}{% endfor %}",
    )


def _model(target: Path, seed: int, tokenizer: PreTrainedTokenizerFast) -> None:
    torch.manual_seed(seed)
    sizes = {"n_positions": CONTEXT, "n_embd": WIDTH, "n_layer": 2, "n_head": 2, "n_inner": 24}
    config = GPT2Config(vocab_size=len(tokenizer), bos_token_id=0, eos_token_id=0, **sizes)
    GPT2LMHeadModel(config).save_pretrained(target)
    tokenizer.save_pretrained(target)
    (target / "special_tokens_map.json").write_text(json.dumps({"bos_token": "<|end|>", "eos_token": "<|end|>"}))


def _llama(target: Path, seed: int, tokenizer: PreTrainedTokenizerFast) -> None:
    torch.manual_seed(seed)
    sizes = {"hidden_size": WIDTH, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = LlamaConfig(
        vocab_size=len(tokenizer), num_key_value_heads=1, max_position_embeddings=CONTEXT, bos_token_id=0,
        eos_token_id=0,
        **sizes,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(target)
    tokenizer.save_pretrained(target)


def _documents(target: Path) -> None:
    """What a trainer leaves beside a model, and what a parent's report says."""
    (target / "README.md").write_text(CARD)
    recipe = {"optimizer": "adamw", "adamw_lr": 1e-3, "muon_lr": 0.02, "steps": 10}
    (target / "recipe.json").write_text(json.dumps(recipe))
    (target / "trainer_state.json").write_text(json.dumps({"optim": "adamw_torch", "log_history": [{"loss": 1.0}]}))
    report = {"schema": 1, "endpoints": [{"ref": "x", "optimizer": "adamw"}, {"ref": "y", "optimizer": "adamw"}]}
    (target / "isthmus.json").write_text(json.dumps(report))
    torch.save({"optim": "adamw_torch", "learning_rate": 1e-3}, target / "training_args.bin")
    moments = {0: {"step": 1, "exp_avg": torch.zeros(2), "exp_avg_sq": torch.zeros(2)}}
    torch.save({"state": moments, "param_groups": [{"lr": 0.1}]}, target / "optimizer.pt")


def _reform(target: Path, form: str) -> None:
    if form == "slow":
        content = json.loads((target / "tokenizer.json").read_text())
        vocabulary = content["model"]["vocab"]
        merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in content["model"]["merges"]]
        (target / "vocab.json").write_text(json.dumps(vocabulary))
        (target / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n")
        (target / "added_tokens.json").write_text(json.dumps({"<|end|>": vocabulary["<|end|>"]}))
        settings = {"tokenizer_class": "GPT2Tokenizer", "eos_token": "<|end|>", "bos_token": "<|end|>"}
        (target / "tokenizer_config.json").write_text(json.dumps({**settings, "unk_token": "<|end|>"}))
        (target / "tokenizer.json").unlink()
        return
    model = GPT2LMHeadModel.from_pretrained(target)
    (target / "model.safetensors").unlink()
    if form == "sharded":
        model.save_pretrained(target, max_shard_size="12KB")
    else:
        torch.save(dict(model.state_dict()), target / "pytorch_model.bin")


def _texts(folder: Path) -> None:
    (folder / "text.txt").write_text(words(700))
    lines = [json.dumps({"text": words(100, seed)}) for seed in range(12)]
    (folder / "text.jsonl").write_text("\n".join(lines) + "\n")
    (folder / "texts").mkdir()
    for seed in range(3):
        (folder / "texts" / f"{seed}.txt").write_text(words(300, seed))


def _outputs(folder: Path) -> None:
    """A merge, a path, an ensemble and an interrupted training, as the command line writes them."""
    from isthmus.cli import main
    from isthmus.merge.training.training_state import TrainingState

    before, removed = Path.cwd(), TrainingState.remove
    os.chdir(folder)
    try:
        TrainingState.remove = lambda self: None  # type: ignore[method-assign]
        for command in (
            "merge a b -o merged --align none --data text.txt --tokens 64 -q",
            "path a b -o path --align none --data text.txt --tokens 32 --steps 1 --batch 1 -q",
            "ensemble a b -o together --align none --data text.txt --tokens 32 -q",
        ):
            sys.argv = ["isthmus", *command.split()]
            try:
                main()
            except SystemExit as ending:
                if ending.code:
                    raise
    finally:
        TrainingState.remove = removed  # type: ignore[method-assign]
        os.chdir(before)
