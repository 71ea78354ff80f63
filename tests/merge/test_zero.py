"""Zero matrices, as the new blocks of a deepened model have them, are matrices: nothing is refused, nothing is NaN."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from isthmus.eval.fingerprint import fingerprint, judge
from isthmus.eval.spectrum import along_path, among, mean_distance, singular_values, stable_rank

Edit = Callable[[dict[str, Tensor]], None]


def zero(*parts: str) -> Edit:
    def edit(tensors: dict[str, Tensor]) -> None:
        for name, tensor in tensors.items():
            if any(part in name for part in parts):
                tensor.zero_()

    return edit


CASES: dict[str, Edit] = {
    "outputs of a block": zero("h.1.attn.c_proj.weight", "h.1.mlp.c_proj.weight"),
    "a whole layer": zero(".h.1."),
    "queries, keys and values": zero("h.0.attn.c_attn.weight"),
    "positions": zero("wpe.weight"),
    "every hidden matrix": zero("c_attn.weight", "c_proj.weight", "c_fc.weight"),
    "an embedding row": lambda tensors: tensors["transformer.wte.weight"][5].zero_(),
    "columns of queries": lambda tensors: tensors["transformer.h.0.attn.c_attn.weight"][:, :32].zero_(),
}


@pytest.fixture
def model(saved) -> Callable[..., Path]:
    def make(name: str, seed: int, edit: Edit) -> Path:
        directory: Path = saved(name, seed, tokenizer=True, vocab_size=1024)
        tensors = load_file(directory / "model.safetensors")
        edit(tensors)
        save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
        return directory

    return make


def is_finite(value: object) -> bool:
    if isinstance(value, dict):
        return all(map(is_finite, value.values()))
    if isinstance(value, list):
        return all(map(is_finite, value))
    return not isinstance(value, float) or math.isfinite(value)


@pytest.mark.parametrize("align", ["none", "permutation", "orthogonal"])
@pytest.mark.parametrize("both", [True, False], ids=["both", "one"])
@pytest.mark.parametrize("case", CASES)
def test_merged_as_checked(model, isthmus, tmp_path: Path, case: str, both: bool, align: str) -> None:
    a, b = model("a", 1, CASES[case]), model("b", 2, CASES[case] if both else zero())
    checked = isthmus("check", a, b)
    done = isthmus("merge", a, b, "-o", tmp_path / "out", "--align", align, "--t", 0.5, "--spectrum")
    assert (checked.code, done.code) == (0, 0), checked.err + done.err
    report = json.loads((tmp_path / "out" / "isthmus.json").read_text())
    assert is_finite(report)
    if case == "a whole layer":
        assert len(report["spectrum"]["zero"]) >= 6
        assert "left out of the spectrum's verdict" in (tmp_path / "out" / "README.md").read_text()
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "out").state_dict()
    assert all(torch.isfinite(tensor).all() for tensor in merged.values())
    if align == "none":
        ends = [load_file(side / "model.safetensors") for side in (a, b)]
        assert all(torch.allclose(merged[n], (ends[0][n] + ends[1][n]) / 2, atol=1e-6) for n in ends[0])


@pytest.mark.parametrize("options", [["--align", "combined"], ["--align", "learned", "--align-steps", 2]], ids=str)
@pytest.mark.parametrize("case", ["outputs of a block", "a whole layer"])
def test_with_text(model, isthmus, tmp_path: Path, case: str, options: list[object]) -> None:
    a, b = model("a", 1, CASES[case]), model("b", 2, CASES[case])
    data = ("--data", "stdlib:docs", "--tokens", 64, "--t", 0.5)
    done = isthmus("merge", a, b, "-o", tmp_path / "out", *data, *options)
    assert done.code == 0, done.err
    assert is_finite(json.loads((tmp_path / "out" / "isthmus.json").read_text()))


def test_the_spectrum_command(model, isthmus) -> None:
    done = isthmus("spectrum", model("a", 1, CASES["every hidden matrix"]), model("b", 2, zero()), "--json", "-")
    assert done.code == 0, done.err
    report = json.loads(done.out)
    assert is_finite(report)
    assert report["models"][0]["optimizer"]["optimizer"] is None


def test_a_zero_matrix_has_no_part_in_a_verdict() -> None:
    values = {"x": torch.tensor([3.0, 1.0], dtype=torch.float64), "z": torch.zeros(0, dtype=torch.float64)}
    whole = values | {"z": torch.ones(2, dtype=torch.float64)}
    alone = {"x": values["x"]}
    found, expected = among((values, whole), values), among((alone, alone), alone)
    assert (found.verdict, found.excess, found.zero) == (expected.verdict, expected.excess, ("z",))
    assert mean_distance(values, whole) == 0
    assert along_path({0.0: values, 1.0: whole}).verdict == "preserved"
    assert stable_rank(singular_values(torch.zeros(3, 4))) == 0


def test_the_fingerprint_of_zeros_is_unknown() -> None:
    empty = singular_values(torch.zeros(4, 4))
    found = fingerprint({"h.0.q": empty, "h.0.k": empty, "h.0.o": empty}, [torch.zeros(4, 4)], empty)
    assert judge(found).optimizer is None
    assert all(math.isfinite(value) for value in (found.peakedness, found.attention, found.kurtosis, found.share))
