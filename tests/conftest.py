"""Small real models, the real command line, and a Hub on loopback that the real client talks to."""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from hub_server import HubServer

HUB = HubServer()
HF_HOME = tempfile.mkdtemp(prefix="isthmus-tests-")
# huggingface_hub reads these once, when it is imported; nothing imports it before this.
os.environ |= {
    "HF_ENDPOINT": HUB.url,
    "HF_HOME": HF_HOME,
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_XET": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "NO_COLOR": "1",
}
if "PYTEST_XDIST_WORKER" in os.environ:  # another worker has the other core
    os.environ.setdefault("OMP_NUM_THREADS", "1")
for name in ("HF_TOKEN", "HF_HUB_OFFLINE", "HUGGING_FACE_HUB_TOKEN"):
    os.environ.pop(name, None)

import files_loss
import torch
import written_once
from shortened import shorten
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel

import isthmus.eval.text

# Before any other module takes these by name: no merge that a test writes goes unmeasured.
isthmus.eval.text.Text.blocks = files_loss.recorded(isthmus.eval.text.Text.blocks)  # type: ignore[method-assign]

import isthmus.eval.labelled_text

LABELLED = isthmus.eval.labelled_text.LabelledText
LABELLED.blocks = files_loss.recorded(LABELLED.blocks)  # type: ignore[method-assign]

import isthmus.eval.samples

isthmus.eval.samples.written_blocks = written_once.remembered(isthmus.eval.samples.written_blocks)
isthmus.eval.samples.Writer.blocks = files_loss.recorded(isthmus.eval.samples.Writer.blocks)  # type: ignore[method-assign]

shorten()

import isthmus.merge.result

isthmus.merge.result.Merge.save = files_loss.watched(isthmus.merge.result.Merge.save)  # type: ignore[method-assign]

EMBEDDED = Path(__file__).parents[1] / "lab" / "checkpoints"


LONGEST = (
    "test_fuzz.py",
    "test_demo.py",
    "test_cli.py",
    "test_pipeline.py",
    "test_classifiers.py",
    "test_learn.py",
    "test_probe.py",
    "test_studies.py",
    "test_hostile_models.py",
    "test_many.py",
    "test_resuming.py",
    "test_vocabulary.py",
    "test_streams.py",
    "test_training.py",
    "test_agreement.py",
    "test_zero.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first, so that none of them is left for the end, when one worker has nothing more to do."""
    items.sort(key=lambda item: LONGEST.index(item.path.name) if item.path.name in LONGEST else len(LONGEST))


def pytest_unconfigure() -> None:
    HUB.close()
    shutil.rmtree(HF_HOME, ignore_errors=True)


@pytest.fixture
def afresh() -> Iterator[None]:
    """Models write all anew in this test, also what they wrote before."""
    with written_once.writing_afresh():
        yield


@pytest.fixture
def hub() -> Iterator[HubServer]:
    HUB.reset()
    yield HUB
    HUB.reset()


def tiny_config(**changes: object) -> GPT2Config:
    """2 layers, width 32, 4 heads, 64 hidden units, context 32, 128 tokens."""
    facts = {"vocab_size": 128, "n_positions": 32, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_inner": 64}
    quiet = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0, "bos_token_id": 0, "eos_token_id": 0}
    return GPT2Config(**{**facts, **quiet, **changes})


def tiny_model(seed: int = 0, **changes: object) -> GPT2LMHeadModel:
    """A random GPT-2 in which no parameter is at a value that hides a mistake: norms and biases are random, too."""
    torch.manual_seed(seed)
    model = GPT2LMHeadModel(tiny_config(**changes)).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1:
                centre = 1.0 if "ln_" in name and name.endswith("weight") else 0.0
                parameter.copy_(centre + 0.3 * torch.randn_like(parameter))
            else:
                parameter.copy_(0.25 * torch.randn_like(parameter))
    return model


def state_of(model: GPT2LMHeadModel) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in model.named_parameters()}


@pytest.fixture
def tiny() -> Callable[..., GPT2LMHeadModel]:
    return tiny_model


@pytest.fixture
def saved(tmp_path: Path) -> Callable[..., Path]:
    """Save a tiny model under a name and return its directory."""

    def save(
        name: str, seed: int = 0, *, tokenizer: bool = False, dtype: torch.dtype = torch.float32, **changes: object
    ) -> Path:
        directory = tmp_path / name
        tiny_model(seed, **changes).to(dtype).save_pretrained(directory)
        if tokenizer:
            for file in ("tokenizer.json", "tokenizer_config.json"):
                shutil.copy(EMBEDDED / "docs" / file, directory / file)
        return directory

    return save


@dataclass
class Outcome:
    code: int
    out: str
    err: str

    @property
    def error(self) -> str:
        """What stands on stderr beside the findings on the models, which come first."""
        return without_findings(self.err)


def without_findings(text: str) -> str:
    """What is on stderr beside the lines of `check`."""
    lines = text.splitlines(keepends=True)
    return "".join(line for line in lines if not line.startswith(("blocks  ", "degrades  ", "notes  ", "findings  ")))


def _require_table(directory: Path, err: str) -> None:
    """The terminal shows the loss of what was written."""
    if directory.is_dir():  # not in a test of --help
        report = json.loads((directory / "isthmus.json").read_text())
        if report["data"]:
            assert directory in files_loss.CHECKED
            losses = list(report["merge_point"]["losses"].values())
            files_loss.require_row(losses + ([report["merge_point"]["loss"]] if len(losses) > 1 else []), err)


@pytest.fixture(name="isthmus")
def command_line(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Outcome]:
    """Run the command line in this process: arguments in, exit code and both streams out."""
    import signal

    from isthmus.cli import main

    def run(*arguments: object) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["isthmus", *map(str, arguments)])
        before = signal.getsignal(signal.SIGTERM)
        capfd.readouterr()
        try:
            main()
            code = 0
        except SystemExit as ending:
            code = ending.code if isinstance(ending.code, int) else 1
        finally:
            signal.signal(signal.SIGTERM, before)
        outcome = Outcome(code, *capfd.readouterr())
        if code == 0 and arguments[0] == "merge" and "--quiet" not in arguments and "-o" in arguments:
            _require_table(Path(str(arguments[arguments.index("-o") + 1])), outcome.err)
        return outcome

    return run
