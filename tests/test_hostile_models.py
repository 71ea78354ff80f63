"""Strangers' models: whatever their files hold, check and merge end soon, in little memory, with one plain sentence."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import EMBEDDED, tiny_model
from hostile_models import HOSTILE

HERE = Path(__file__).parent
SECONDS, BYTES = 20, 2**31
# What a hostile model is told, by a part of its name or of the sentence; the others are merged as if it were not there.
REFUSED = {
    "twenty million labels": "num_labels = 20000000",
    "labels of a part": "num_labels = 20000000",
    "a milliard layers": "n_layer = 1000000000",
    "more layers than tensors": "900 layers, and its files hold 28 tensors",
    "no layers": "expected a whole number from 1",
    "minus two layers": "expected a whole number from 1",
    "two and a half layers": "expected a whole number from 1",
    "a true width": "expected a whole number from 1",
    "a huge vocabulary": "vocab_size = 1099511627776",
    "a vocabulary of nines": "a number of 4000 digits",
    "huge positions": "n_positions = 1099511627776",
    "stages without end": "num_stages = 10000000000",
    "a deep configuration": "nests lists and objects more than",
    "many labels": "more than the 4 MB",
    "a huge configuration": "more than the 4 MB",
    "nested normalizers": "the normalizer of",
    "normalizers that double": "the normalizer of",
    "a prefix of megabytes": "the normalizer of",
    "a template of copies": "the post_processor of",
    "padding without end": "pads every text",
    "padding to a multiple": "pads every text",
    "a tokenizer of a terabyte": "more than the 64 MB",
    "a tokenizer of lists": "values, more than the 6,000,000",
    "a tokenizer of objects": "values, more than the 6,000,000",
    "merges of a terabyte": "more than the 64 MB",
    "a template of a terabyte": "more than the 4 MB",
    "a header of small entries": "entries, more than the 250,000",
    "a header of a hundred megabytes": "more than the 32 MB",
    "a shape of many axes": "a shape that no tensor has",
    "an axis of nines": "a number of 4000 digits",
    "many tensors nobody knows": "does not know",
    "a million shards": "more than the 32 MB",
    "a huge index": "more than the 32 MB",
    "deflated weights": "compressed archive",
    "weights that fill": "holds more than weights",
    "members on top of each other": "more content than it has bytes",
    "weights that are mostly strides": "more than the file holds",
    "an index that is a pipe": "is a named pipe",
    "a card that is a pipe": "is a named pipe",
    "a configuration that is a pipe": "is a named pipe",
    "a tokenizer that is a socket": "is a socket",
    "settings that never end": "is a device",
    "many files": "more than 20,000 files",
    "a tensor's name": "does not know",
    "a shard's name": "names a shard outside the model",
    "a model type": "does not know",
    "an unpaired surrogate": "half of a character",
}
NOTED = {
    "a card of one line": "larger than 8 MB",
    "a card of aliases": "metadata that cannot be read",
    "a licence of aliases": "metadata that cannot be read",
    "a card of brackets": "metadata that cannot be read",
}


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict]:
    """What check and merge said of every member: code, stderr, seconds and the peak of memory meanwhile, in one
    process, which starts anew where one member took it down."""
    place = tmp_path_factory.mktemp("strangers")
    good = place / "good"
    tiny_model(0, vocab_size=1024).save_pretrained(good)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(EMBEDDED / "docs" / file, good / file)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "ISTHMUS_ROOT": str(HERE.parents[1])}
    left, found = list(HOSTILE), {}
    while left:
        run = subprocess.run(
            [sys.executable, str(HERE / "hostile_runs.py"), str(good), str(place), *left],
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
            timeout=600,
            check=False,
        )
        lines = [json.loads(line) for line in run.stdout.splitlines()]
        found |= {f"{line['command']} {line['name']}": line for line in lines}
        done = {line["name"] for line in lines if line["command"] == "merge"}
        left = [name for name in left if name not in done]
        if left and not done:
            break
        left = left[1:] if run.returncode else left
    return found


@pytest.mark.parametrize("command", ["check", "merge"])
@pytest.mark.parametrize("name", HOSTILE)
def test_it_ends_soon_in_one_plain_sentence(outcomes: dict[str, dict], name: str, command: str) -> None:
    found = outcomes.get(f"{command} {name}")
    assert found is not None, "it took the process down"
    assert found["seconds"] < SECONDS
    assert found["bytes"] < BYTES
    assert "unforeseen" not in found["err"]
    assert "Traceback" not in found["err"]
    assert all(char == "\n" or char.isprintable() for char in found["err"])
    assert len(found["err"]) < 20_000
    if name in REFUSED:
        assert found["code"] in (2, 3), found["err"]
        assert REFUSED[name] in found["err"]
        assert command == "check" or found["err"].count("\n") == 1
    else:
        assert found["code"] == 0, found["err"]
    if command == "check" and name in NOTED:
        assert NOTED[name] in found["err"]
