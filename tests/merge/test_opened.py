"""What is written can be opened: transformers does so before anybody else, and `check` says it beforehand."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from merging import merge

from isthmus.checkpoint.errors import CorruptCheckpoint, IsthmusError
from isthmus.checkpoint.trial_loading import require_opens
from isthmus.eval.loss import Losses
from isthmus.merge import result
from isthmus.merge.verify import Shown, require_shown

IMPOSSIBLE: dict[str, tuple[dict[str, object], str]] = {
    "no such activation": ({"activation_function": "gelu_newer"}, "gelu_newer"),
    "a share above 1": ({"resid_pdrop": 5}, "dropout probability"),
    "text for a number": ({"layer_norm_epsilon": "small"}, "layer_norm_epsilon"),
    "a share below 0": ({"attn_pdrop": -1.0}, "dropout probability"),
    "an attention that is not there": ({"attn_implementation": "spiral"}, "spiral"),
}


def with_facts(directory: Path, **facts: object) -> Path:
    file = directory / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **facts}))
    return directory


COMMANDS = {
    "merge": ("merge", "--align", "none", "--t", 0.5),
    "by linear": ("merge", "--method", "linear"),
    "aligned": ("merge", "--align", "permutation", "--t", 0.5),
    "align": ("align",),
}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("case", IMPOSSIBLE)
def test_a_configuration_that_transformers_refuses(saved, tmp_path: Path, isthmus, case: str, command: str) -> None:
    facts, word = IMPOSSIBLE[case]
    a, b = (with_facts(saved(name, seed), **facts) for seed, name in enumerate("ab"))
    name, *options = COMMANDS[command]
    found = isthmus(name, a, b, "-o", tmp_path / "out", *options)
    assert found.code == 2, found.err
    assert word in found.err
    assert "unforeseen" not in found.err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("case", IMPOSSIBLE)
def test_check_says_so_beforehand(saved, isthmus, case: str) -> None:
    facts, word = IMPOSSIBLE[case]
    a, b = (with_facts(saved(name, seed), **facts) for seed, name in enumerate("ab"))
    found = isthmus("check", a, b)
    assert found.code in (2, 3), found.err
    assert word in "".join(found.err.split("\n"))


@pytest.mark.parametrize("content", ["null", "[]", '{"max_new_tokens": -5}', '{"temperature": ', '"text"'])
def test_generation_settings_that_transformers_refuses(saved, tmp_path: Path, isthmus, content: str) -> None:
    a, b = saved("a"), saved("b", 1)
    (a / "generation_config.json").write_text(content)
    for options in (("--align", "none", "--t", 0.5), ("--method", "linear"), ("--align", "permutation", "--t", 0.5)):
        found = isthmus("merge", a, b, "-o", tmp_path / "out", *options)
        assert found.code == 2, found.err
        assert "unforeseen" not in found.err
        assert not (tmp_path / "out").exists()
    assert isthmus("check", a, b).code in (2, 3)


def test_a_tokenizer_that_transformers_refuses(saved, tmp_path: Path, isthmus) -> None:
    a, b = saved("a", tokenizer=True), saved("b", 1, tokenizer=True)
    for model in (a, b):
        facts = json.loads((model / "tokenizer.json").read_text())
        facts["model"]["type"] = "Unheard"
        (model / "tokenizer.json").write_text(json.dumps(facts))
    found = isthmus("merge", a, b, "-o", tmp_path / "out", "--align", "none", "--t", 0.5)
    assert found.code in (2, 3), found.err
    assert not (tmp_path / "out").exists()


def test_files_that_are_not_those_of_the_configuration(saved) -> None:
    with pytest.raises(CorruptCheckpoint, match=r"'out' as it would be written has an unexpected tensor '.*h\.1\."):
        require_opens(with_facts(saved("fewer"), n_layer=1), "out")
    with pytest.raises(CorruptCheckpoint, match=r"lacks the tensor '.*h\.2\."):
        require_opens(with_facts(saved("more"), n_layer=3), "out")
    require_opens(saved("right"), "out")


def test_a_loss_that_is_not_that_of_the_files(saved) -> None:
    model, ids = saved("a"), torch.arange(64).view(2, 32) % 128
    shown = Losses({"x": torch.tensor([1.0, 1.0], dtype=torch.float64)})
    with pytest.raises(IsthmusError, match="as it would be written"):
        require_shown(model, Shown({"x": ids}, shown), "out")


def test_nothing_is_published_where_the_loss_is_another(saved, tmp_path: Path) -> None:
    a, b = saved("a", tokenizer=True, vocab_size=1024), saved("b", 1, tokenizer=True, vocab_size=1024)
    merged = merge(a, b, data=["stdlib:docs:heldout"], tokens=64, align="none", t=0.5)
    other = replace(merged, state={name: 1.5 * merged.state[name] for name in merged.state})
    with pytest.raises(IsthmusError, match="as it was measured"):
        other.save(tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_without_text_the_files_compute_what_was_merged(saved, tmp_path: Path, monkeypatch, dtype: str) -> None:
    merged = merge(saved("a"), saved("b", 1), align="orthogonal", t=0.5, dtype=dtype)
    merged.save(tmp_path / "out")
    write = result.save_weights

    def altered(directory: Path, shapes: dict, state: dict, *arguments: object, **options: object) -> dict[str, str]:
        wrong = {name: 1.1 * state[name] if "c_proj" in name else state[name] for name in state}
        return write(directory, shapes, wrong, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(result, "save_weights", altered)
    with pytest.raises(IsthmusError, match=r"the log-probabilities of 'no' as it would be written differ by"):
        merged.save(tmp_path / "no")
    assert not (tmp_path / "no").exists()
