"""Tied in the configuration, in the file, in both, in neither: isthmus reads the model that transformers reads."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import tiny_model
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, BertConfig, BertLMHeadModel, GPTNeoXConfig, GPTNeoXForCausalLM

from isthmus.align.families import FAMILIES
from isthmus.checkpoint.errors import CorruptCheckpoint
from isthmus.checkpoint.loading import Checkpoint, load
from isthmus.checkpoint.model import log_probs, streamed_log_probs

HEAD, EMBEDDING = "lm_head.weight", "transformer.wte.weight"
IDS = torch.arange(24).view(2, 12)
Edit = Callable[[dict[str, Tensor]], None]


def another(tensors: dict[str, Tensor]) -> None:
    tensors[HEAD] = torch.randn(tensors[EMBEDDING].shape, generator=torch.Generator().manual_seed(5))


def almost_equal(tensors: dict[str, Tensor]) -> None:
    tensors[HEAD] = tensors[EMBEDDING].clone()
    tensors[HEAD][-1, -1] += 1


def equal(tensors: dict[str, Tensor]) -> None:
    tensors[HEAD] = tensors[EMBEDDING].clone()


def head_only(tensors: dict[str, Tensor]) -> None:
    tensors[HEAD] = tensors.pop(EMBEDDING)


def old_names(tensors: dict[str, Tensor]) -> None:
    another(tensors)
    for name in list(tensors):
        tensors[name.removeprefix("transformer.")] = tensors.pop(name)


STORED: dict[str, tuple[Edit, bool]] = {  # what is stored, and whether transformers unties the model
    "embedding": (lambda tensors: None, False),
    "both, different": (another, True),
    "both, different in one number": (almost_equal, True),
    "both, equal": (equal, False),
    "head only": (head_only, False),
    "both, without prefix": (old_names, True),
}


def stored_model(directory: Path, edit: Edit, *, pickled: bool = False) -> Path:
    tensors = load_file(directory / "model.safetensors")
    edit(tensors)
    if pickled:
        (directory / "model.safetensors").unlink()
        torch.save(tensors, directory / "pytorch_model.bin")
    else:
        save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    return directory


def by_transformers(directory: Path) -> Tensor:
    model, info = AutoModelForCausalLM.from_pretrained(directory, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    with torch.no_grad():
        return torch.log_softmax(model.eval()(IDS).logits, -1)


def function(model: Checkpoint) -> Tensor:
    return log_probs(dict(model.state), model.config, IDS)


@pytest.mark.parametrize("pickled", [False, True], ids=["safetensors", "pickle"])
@pytest.mark.parametrize("kind", STORED)
def test_the_model_that_transformers_reads(saved, kind: str, pickled: bool) -> None:
    edit, untied = STORED[kind]
    directory = stored_model(saved("m"), edit, pickled=pickled)
    model = load(directory, families=FAMILIES)
    assert (not model.schema.tied, not model.config.tie_word_embeddings) == (untied, untied)
    assert model.state.keys() == model.schema.shapes.keys()
    assert torch.allclose(function(model), by_transformers(directory), atol=1e-5)
    assert torch.allclose(streamed_log_probs(model.state, model.config, IDS), by_transformers(directory), atol=1e-5)


def test_one_storage_under_both_names_in_a_pickle(saved) -> None:
    directory = saved("m")
    (directory / "model.safetensors").unlink()
    torch.save(tiny_model().state_dict(), directory / "pytorch_model.bin")
    assert load(directory, families=FAMILIES).schema.tied


def test_untied_without_a_head(saved) -> None:
    directory = stored_model(saved("m", tie_word_embeddings=False), lambda tensors: tensors.pop(HEAD))
    with pytest.raises(CorruptCheckpoint, match=r"'m' lacks the tensor 'lm_head\.weight'"):
        load(directory, families=FAMILIES)


@pytest.mark.parametrize("kind", STORED)
@pytest.mark.parametrize(
    "command",
    [
        ["merge", "--align", "none", "--t", "0"],
        ["merge", "--align", "orthogonal", "--t", "0"],
        ["merge", "--align", "permutation", "--t", "0"],
        ["merge", "--method", "linear", "--weight", "1", "--weight", "0"],
    ],
    ids=lambda command: " ".join(command),
)
def test_a_merge_that_is_its_first_model(saved, isthmus, tmp_path, kind: str, command: list[str]) -> None:
    directory, other = stored_model(saved("m"), STORED[kind][0]), saved("other", seed=1)
    verb, *options = command
    done = isthmus(verb, directory, other, "-o", tmp_path / "out", *options)
    assert done.code == 0, done.err
    assert torch.allclose(by_transformers(tmp_path / "out"), by_transformers(directory), atol=1e-3)
    facts = json.loads((tmp_path / "out" / "config.json").read_text())
    assert facts["tie_word_embeddings"] is (HEAD not in load_file(tmp_path / "out" / "model.safetensors"))


@pytest.mark.parametrize("order", [1, -1], ids=["first", "second"])
def test_the_average_with_an_untied_model_is_untied(saved, isthmus, tmp_path, order: int) -> None:
    models = [stored_model(saved("head"), another), saved("tied", seed=1)][::order]
    assert isthmus("merge", *models, "-o", tmp_path / "out", "--align", "none", "--t", "0.5").code == 0
    read = [load(model, families=FAMILIES).untied().state for model in models]
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "out").state_dict()
    for name in (HEAD, EMBEDDING):
        assert torch.allclose(merged[name], (read[0][name] + read[1][name]) / 2, atol=1e-6)


@pytest.mark.parametrize("options", [[], ["--stream"]], ids=["in memory", "streamed"])
def test_align_moves_the_head_that_is_stored(saved, isthmus, tmp_path, options: list[str]) -> None:
    reference, moved = saved("a"), stored_model(saved("b", seed=1), another)
    done = isthmus("align", reference, moved, "-o", tmp_path / "out", *options)
    assert done.code == 0, done.err
    assert torch.allclose(by_transformers(tmp_path / "out"), by_transformers(moved), atol=1e-3)


def test_check_says_it(saved, isthmus) -> None:
    untied = isthmus("check", stored_model(saved("head"), another), saved("tied", seed=1))
    assert untied.code == 0
    assert "'head' stores 'lm_head.weight' beside the tensor that its config.json ties it to" in untied.err
    assert "the merge will be untied" in untied.err
    same = isthmus("check", stored_model(saved("copy"), equal), saved("tied", seed=1))
    assert "untied" not in same.err


BERT = {"vocab_size": 60, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24}
NEOX = {**BERT, "tie_word_embeddings": True}
DECODER, BIAS = "cls.predictions.decoder.weight", "cls.predictions.decoder.bias"
WORDS = "bert.embeddings.word_embeddings.weight"


def bert(directory: Path) -> Path:
    torch.manual_seed(0)
    BertLMHeadModel(BertConfig(**BERT, is_decoder=True)).save_pretrained(directory)
    return directory


OTHERS: dict[str, Edit] = {
    "as saved": lambda tensors: None,
    "a decoder of its own": lambda tensors: tensors.update({DECODER: torch.randn(60, 16)}),
    "a bias of its own": lambda tensors: tensors.update({BIAS: torch.randn(60)}),
    "both of its own": lambda tensors: tensors.update({DECODER: torch.randn(60, 16), BIAS: torch.randn(60)}),
    "copies": lambda tensors: tensors.update({DECODER: tensors[WORDS].clone()}),
    "only the copy": lambda tensors: tensors.update({DECODER: tensors.pop(WORDS)}),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_two_tied_tensors(tmp_path: Path, kind: str) -> None:
    directory = stored_model(bert(tmp_path / "m"), OTHERS[kind])
    assert torch.allclose(function(load(directory)), by_transformers(directory), atol=1e-5)


@pytest.mark.parametrize("kind", OTHERS)
def test_two_tied_tensors_merged(tmp_path: Path, isthmus, kind: str) -> None:
    directory = stored_model(bert(tmp_path / "m"), OTHERS[kind])
    done = isthmus("merge", directory, bert(tmp_path / "n"), "-o", tmp_path / "out", "--align", "none", "--t", 0)
    assert done.code == 0, done.err
    assert torch.allclose(by_transformers(tmp_path / "out"), by_transformers(directory), atol=1e-5)


@pytest.mark.parametrize("stored", ["embed_out.weight", "lm_head.weight"])
def test_a_tied_tensor_that_is_renamed(tmp_path: Path, stored: str) -> None:
    torch.manual_seed(0)
    GPTNeoXForCausalLM(GPTNeoXConfig(**NEOX)).save_pretrained(tmp_path / "m")
    directory = stored_model(tmp_path / "m", lambda tensors: tensors.update({stored: torch.randn(60, 16)}))
    assert torch.allclose(function(load(directory)), by_transformers(directory), atol=1e-5)
