"""Checking models on a Hub before anything large is downloaded: what it costs, what it says, offline."""

from __future__ import annotations

import json
import struct
import zlib
from itertools import pairwise
from pathlib import Path

import pytest
from conftest import EMBEDDED
from hub_server import HubServer

from isthmus.align.families import FAMILIES, family
from isthmus.checkpoint.check import check

WEIGHTS = "model.safetensors"


class Sparse(bytes):
    """The bytes of a large file of which only the beginning is held: the rest are zeros."""

    whole: int

    def __len__(self) -> int:
        return self.whole


def gpt2_small() -> tuple[dict[str, object], bytes]:
    """The configuration of GPT-2 small, and a safetensors file as it would be: a header, and then nothing."""
    from transformers import GPT2Config

    config = GPT2Config()
    spans, offset = {}, 0
    for name, shape in family(config).schema().shapes.items():
        size = 4 * shape[0] * (shape[1] if len(shape) > 1 else 1)
        spans[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [offset, offset + size]}
        offset += size
    raw = json.dumps(spans).encode()
    content = Sparse(struct.pack("<Q", len(raw)) + raw)
    content.whole = 8 + len(raw) + offset
    return json.loads(config.to_json_string(use_diff=False)), content


def large_tokenizer() -> bytes:
    """As large as GPT-2's."""
    tokens = [f"token-{index}" for index in range(50257)]
    merges = [f"{a} {b}" for a, b in pairwise(tokens)]
    model = {"type": "BPE", "vocab": {token: index for index, token in enumerate(tokens)}, "merges": merges}
    return json.dumps({"model": model, "added_tokens": []}).encode()


def test_two_remote_models_of_124m(hub: HubServer, tmp_path: Path) -> None:
    """Under 1 MB, and of the weights nothing but their headers."""
    config, weights = gpt2_small()
    assert len(weights) > 497e6
    tokenizer = large_tokenizer()
    assert len(tokenizer) > 1e6
    (tmp_path / "config.json").write_text(json.dumps(config))
    for name in ("user/small-a", "user/small-b"):
        hub.add(name, tmp_path).files |= {"tokenizer.json": tokenizer, WEIGHTS: weights}
    result = check("user/small-a", "user/small-b", families=FAMILIES)
    assert result.mergeable
    assert result.cost is not None
    assert result.cost.download == 2 * (len(weights) + len(tokenizer))
    assert 4.5e9 < result.cost.memory < 5.2e9  # 4.84 GB were measured
    assert hub.traffic < 1e6
    assert hub.bytes_sent(WEIGHTS) == 2 * (len(bytes(weights[:])))


@pytest.fixture
def pair(hub: HubServer, request: pytest.FixtureRequest) -> tuple[str, str]:
    """Under names of their own for every test, as all share one cache."""
    names = tuple(f"user/{side}-{zlib.crc32(request.node.name.encode())}" for side in ("docs", "code"))
    for name, directory in zip(names, ("docs", "code"), strict=True):
        hub.add(name, EMBEDDED / directory)
    return names


def test_what_is_said(pair: tuple[str, str], isthmus) -> None:
    found = isthmus("check", *pair, "--json", "-")
    assert found.code == 0
    assert "4 MB to download, 0 s at 100 Mbit/s; an aligned merge takes about" in found.err
    result = json.loads(found.out)
    assert result["revisions"] == ["a" * 40] * 2
    assert result["cost"]["download"] > 3.5e6
    assert [end["optimizer"] for end in result["optimizers"]] == ["adamw", "adamw"]


def test_several_models_at_once(hub: HubServer, pair: tuple[str, str], isthmus) -> None:
    hub.add("user/several-muon", EMBEDDED / "muon-1")
    found = isthmus("check", *pair, "user/several-muon")
    assert found.code == 0
    assert f"they were trained by different optimizers: '{pair[0]}' by adamw" in found.err
    assert hub.bytes_sent(WEIGHTS) < 3 * 8000


def test_offline_with_a_warm_cache_and_with_a_cold_one(
    hub: HubServer, pair: tuple[str, str], isthmus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    merging = ("merge", *pair, "--align", "none", "--t", 0.5)
    assert isthmus("check", *pair).code == 0  # headers and small files only
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    cold = isthmus(*merging, "-o", tmp_path / "cold")
    assert cold.code == 2
    assert "offline mode is on (HF_HUB_OFFLINE) and" in cold.err
    assert f"the file with the weights of '{pair[0]}' is not in the cache: connect, and try again" in cold.err
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    online = isthmus(*merging, "-o", tmp_path / "online")
    assert online.code == 0
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    hub.requests.clear()
    warm = isthmus(*merging, "-o", tmp_path / "warm")
    assert warm.code == 0
    assert hub.requests == []
    assert (tmp_path / "warm" / WEIGHTS).read_bytes() == (tmp_path / "online" / WEIGHTS).read_bytes()
    never = isthmus("check", pair[0], "user/never-seen")
    assert never.code == 2
    assert "'user/never-seen' is not in the cache" in never.err


def test_faults_that_pass_while_reading(hub: HubServer, isthmus, monkeypatch: pytest.MonkeyPatch) -> None:
    from hub_server import Fault

    monkeypatch.setattr("isthmus.checkpoint.hub.PAUSE", 0.01)
    for name in ("user/flaky-a", "user/flaky-b"):
        hub.add(name, EMBEDDED / "docs")
    hub.faults += [
        Fault("GET", "/api/models/", 429, times=2, headers={"Retry-After": "0"}),
        Fault("GET", "/api/models/", times=1),
        Fault("HEAD", "config.json", 503),
        Fault("GET", "/large/", 500, times=2),
        Fault("GET", "/large/", times=1),
    ]
    found = isthmus("check", "user/flaky-a", "user/flaky-b")
    assert found.code == 0, found.err
    assert all(fault.times == 0 for fault in hub.faults)


def test_a_hub_that_cannot_read_in_parts(hub: HubServer, pair: tuple[str, str], isthmus, monkeypatch) -> None:
    """It sends whole files whatever is asked for: they are not read to the end."""
    monkeypatch.setattr(HubServer, "ranges", False)
    found = isthmus("check", *pair)
    assert found.code == 2
    assert "cannot be read in part" in found.err
