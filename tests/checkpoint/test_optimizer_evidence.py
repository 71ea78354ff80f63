"""What files say of the optimizer; real optimizer states, trainer arguments, and files that try to run code."""

from __future__ import annotations

import io
import json
import os
import pickle
import zipfile
from pathlib import Path

import pytest
import torch
from conftest import EMBEDDED
from lion_pytorch import Lion

from isthmus.checkpoint.check import check
from isthmus.checkpoint.errors import CorruptCheckpoint
from isthmus.checkpoint.optimizer_evidence import (
    Evidence,
    canonical_name,
    conclude,
    file_evidence,
    optimizer_by_keys,
    read_training_arguments,
    relation,
)
from isthmus.checkpoint.reference import parse_reference
from isthmus.checkpoint.source import Source

OPTIMIZERS = {
    "adamw": lambda p: torch.optim.AdamW(p, lr=1e-3),
    "adamw ": lambda p: torch.optim.Adam(p, lr=1e-3, amsgrad=True),
    "muon": lambda p: torch.optim.Muon(p, lr=1e-3),
    "lion": lambda p: Lion(p, lr=1e-4),
    "sgd": lambda p: torch.optim.SGD(p, lr=1e-3, momentum=0.9),
    "adafactor": lambda p: torch.optim.Adafactor(p, lr=1e-3),
    None: lambda p: torch.optim.Adamax(p, lr=1e-3),
}


def said(directory: Path) -> Evidence:
    return conclude(file_evidence(Source(parse_reference(directory))))


def arguments(path: Path, **changes: object) -> None:
    from transformers import TrainingArguments

    torch.save(TrainingArguments(output_dir=str(path.parent), report_to=[], use_cpu=True, **changes), path)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_state_of_a_real_optimizer(saved, name: str | None) -> None:
    directory = saved("m")
    weight = torch.nn.Parameter(torch.randn(8, 8))
    optimizer = OPTIMIZERS[name]([weight])
    weight.square().sum().backward()
    optimizer.step()
    torch.save(optimizer.state_dict(), directory / "optimizer.pt")
    found = said(directory)
    assert found.optimizer == (name.strip() if name else None)
    if name:
        assert found.confidence == "stated"
        assert found.why.startswith("optimizer.pt holds")


@pytest.mark.parametrize("kind", ["text", "empty archive", "damaged", "no pickle"])
def test_a_state_that_cannot_be_read_says_nothing(saved, kind: str) -> None:
    directory = saved("m")
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        if kind != "empty archive":
            archive.writestr("x/data.pkl", b"exp_avg" * 500)
    raw = bytearray(b"exp_avg" if kind == "text" else packed.getvalue())
    if kind == "damaged":
        raw[45:50] = b"\xff" * 5
    (directory / "optimizer.pt").write_bytes(raw)
    assert said(directory).optimizer is None


def test_a_momentum_alone_says_nothing() -> None:
    assert optimizer_by_keys({"momentum_buffer", "lr"}) is None


def test_the_state_is_read_in_parts_from_the_hub(hub, saved) -> None:
    directory = saved("m")
    weight = torch.nn.Parameter(torch.randn(2048, 512))
    optimizer = torch.optim.AdamW([weight])
    weight.sum().backward()
    optimizer.step()
    torch.save(optimizer.state_dict(), directory / "optimizer.pt")
    hub.add("user/with-state", directory)
    assert conclude(file_evidence(Source(parse_reference("user/with-state")))).optimizer == "adamw"
    assert 0 < hub.bytes_sent("optimizer.pt") < 3e5 < (directory / "optimizer.pt").stat().st_size / 20


@pytest.mark.parametrize(
    ("written", "expected"),
    [("adamw_torch", "adamw"), ("adamw_torch_fused", "adamw"), ("sgd", "sgd"), ("adafactor", "adafactor")],
)
def test_the_arguments_of_a_real_trainer(saved, written: str, expected: str) -> None:
    directory = saved("m")
    arguments(directory / "training_args.bin", optim=written)
    assert said(directory) == Evidence(expected, "stated", f"training_args.bin says {written}")


class Evil:
    """Runs code when it is loaded."""

    def __init__(self, target: Path):
        self.target = target

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.target}",)


def test_arguments_that_run_code_are_refused(saved, tmp_path: Path, isthmus) -> None:
    directory, target = saved("m"), tmp_path / "ran"
    torch.save({"optim": "adamw_torch", "x": Evil(target)}, directory / "training_args.bin")
    with pytest.raises(CorruptCheckpoint, match=r"would run (posix|os)\.system when it is loaded, and was not"):
        file_evidence(Source(parse_reference(directory)))
    assert isthmus("check", directory, saved("b")).code == 2
    assert not target.exists()
    torch.load(directory / "training_args.bin", weights_only=False)
    assert target.exists()  # it would have


def test_a_builtin_in_a_trainers_clothes_is_refused(tmp_path: Path) -> None:
    raw = b"\x80\x02cbuiltins\neval\nX\x05\x00\x00\x001 + 1\x85R."
    path = tmp_path / "training_args.bin"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x/data.pkl", raw)
        archive.writestr("x/version", "3\n")
        archive.writestr("x/byteorder", "little")
    with pytest.raises(CorruptCheckpoint, match=r"would run builtins\.eval"):
        read_training_arguments(path, "m")


@pytest.mark.parametrize("kind", ["empty", "text", "old pickle", "bomb", "truncated"])
def test_arguments_that_cannot_be_read_say_nothing(saved, kind: str) -> None:
    directory = saved("m")
    path = directory / "training_args.bin"
    arguments(path)
    if kind == "bomb":
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("x/data.pkl", bytes(64 * 2**20))
        path.write_bytes(packed.getvalue())
    else:
        raw = {"empty": b"", "text": b"adamw", "old pickle": pickle.dumps({"optim": "sgd"})}
        path.write_bytes(raw.get(kind, path.read_bytes()[:-900]))
    assert said(directory).optimizer is None


def test_what_isthmus_itself_wrote(saved, tmp_path: Path) -> None:
    assert said(EMBEDDED / "muon-1") == Evidence("muon", "stated", "recipe.json says muon")
    directory = saved("m")
    ends = [{"ref": "a", "optimizer": "adamw"}, {"ref": "b", "optimizer": "muon"}]
    (directory / "isthmus.json").write_text(json.dumps({"endpoints": ends}))
    assert said(directory) == Evidence(None, "unknown", "isthmus.json says that it was made from a and b")
    ends[1]["optimizer"] = "adamw"
    (directory / "isthmus.json").write_text(json.dumps({"endpoints": ends}))
    assert said(directory).optimizer == "adamw"
    (directory / "isthmus.json").write_text('{"endpoints": 3}')
    assert said(directory).optimizer is None


@pytest.mark.parametrize(
    ("card", "expected"),
    [
        ("- optimizer: Use adamw_torch_fused with betas=(0.9,0.999) and epsilon=1e-08", "adamw"),
        ("- optimizer: Use OptimizerNames.ADAMW_TORCH with betas=(0.9,0.999)", "adamw"),
        ("- optimizer: Adam with betas=(0.9,0.999) and epsilon=1e-08", "adamw"),
        ("* **Optimizer:** Muon", "muon"),
        ("| Optimizer | Lion |", "lion"),
        ("The model was trained with the Muon optimizer on 10B tokens.", "muon"),
        ("- optimizer: Muon for matrices, AdamW for embeddings", None),
        ("It was trained with AdamW. Another was trained with Muon.", None),
        ("We compare AdamW and Muon.", None),
        ("It was trained with love.", None),
        ("", None),
    ],
)
def test_the_model_card(saved, card: str, expected: str | None) -> None:
    directory = saved("m")
    (directory / "README.md").write_text(f"# A model\n\n{card}\n")
    assert said(directory).optimizer == expected


def test_files_that_are_no_part_of_the_model_may_be_damaged(saved) -> None:
    directory = saved("m")
    for name in ("recipe.json", "isthmus.json", "trainer_state.json"):
        (directory / name).write_text("{")
    assert said(directory).optimizer is None


def test_the_trainers_state(saved) -> None:
    directory = saved("m")
    (directory / "trainer_state.json").write_text(json.dumps({"log_history": [], "optimizer": "SGD"}))
    assert said(directory) == Evidence("sgd", "stated", "trainer_state.json says SGD")


def test_names() -> None:
    assert canonical_name("paged_adamw_8bit") == "adamw"
    assert canonical_name("Muon (momentum 0.95)") == "muon"
    assert canonical_name("none of them") is None


def test_files_that_contradict_each_other_or_the_weights() -> None:
    adamw, muon = Evidence("adamw", "stated", "x says adamw"), Evidence("muon", "likely", "flat")
    silent = Evidence(None, "unknown", "like none")
    assert conclude([adamw], muon) == Evidence(None, "unknown", "x says adamw, but flat")
    assert conclude([adamw, Evidence("lion", "stated", "y says lion")]).optimizer is None
    assert conclude([adamw], silent) == adamw
    assert conclude([], muon) == muon
    assert conclude([], None).optimizer is None


def test_relations() -> None:
    assert relation(["adamw", "adamw"]) == "same-optimizer"
    assert relation(["adamw", "muon"]) == "cross-optimizer"
    assert relation(["adamw", None]) == "unknown"


def test_check_tells_of_different_optimizers() -> None:
    found = check(EMBEDDED / "adamw-1", EMBEDDED / "muon-1")
    notes = [str(finding) for finding in found.findings]
    assert any("trained by different optimizers: 'adamw-1' by adamw (recipe.json says adamw)" in note for note in notes)
    assert [end["optimizer"] for end in found.to_dict()["optimizers"]] == ["adamw", "muon"]
