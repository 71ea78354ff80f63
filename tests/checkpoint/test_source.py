"""The real huggingface_hub client against a Hub on loopback."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from conftest import state_of, tiny_model
from hub_server import TOKEN

from isthmus.checkpoint.check import check
from isthmus.checkpoint.errors import CorruptCheckpoint, ModelNotFound
from isthmus.checkpoint.loading import load


def fresh(request: pytest.FixtureRequest) -> str:
    """A repository name that no other test has put into the cache."""
    return f"user/{request.node.name.replace('[', '-').replace(']', '')}"


@pytest.fixture
def repo(request: pytest.FixtureRequest) -> str:
    return fresh(request)


def test_check_takes_headers_by_range_and_no_weights(hub, saved, repo: str) -> None:
    directory = saved("m", n_embd=128, n_inner=512, vocab_size=2048)
    for name in (repo, f"{repo}-2"):
        hub.add(name, directory)
    assert check(repo, f"{repo}-2").mergeable
    assert 0 < hub.bytes_sent("model.safetensors") < (directory / "model.safetensors").stat().st_size / 4


def test_load_fetches_only_what_is_needed_and_once(hub, saved, repo: str) -> None:
    content = hub.add(repo, saved("m"))
    content.files |= {"pytorch_model.bin": b"old", "training_args.bin": b"?", "optimizer.pt": b"?" * 1000}
    checkpoint = load(repo)
    assert torch.equal(checkpoint.state["transformer.wpe.weight"], state_of(tiny_model())["transformer.wpe.weight"])
    assert checkpoint.revision == content.sha
    fetched = {path for method, path, _ in hub.sent if method == "GET"}
    assert fetched == {"config.json", "generation_config.json", "model.safetensors"}
    hub.sent.clear()
    load(repo)
    assert hub.bytes_sent("model.safetensors") == 0


def test_revision_and_subfolder(hub, saved, repo: str) -> None:
    hub.add(repo, saved("m"), "deep/er", revisions=("main", "v1"))
    checkpoint = load(f"{repo}@v1:deep/er")
    assert len(checkpoint.state) == len(state_of(tiny_model()))
    with pytest.raises(ModelNotFound, match="has no such revision: check what follows the @"):
        load(f"{repo}@v2:deep/er")
    with pytest.raises(ModelNotFound, match=r"holds no config\.json"):
        load(f"{repo}@v1:shallow")


def test_a_repository_that_does_not_exist(hub, repo: str) -> None:
    with pytest.raises(ModelNotFound, match=f"there is no model '{repo}' on the Hub, or it is private"):
        check(repo, repo)


def test_gated(hub, saved, repo: str, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add(repo, saved("m"), gated=True)
    with pytest.raises(ModelNotFound, match=f"'{repo}' is gated: accept its terms"):
        load(repo)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    load(repo)


def test_private(hub, saved, repo: str, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add(repo, saved("m"), private=True)
    with pytest.raises(ModelNotFound, match="log in with 'hf auth login'"):
        load(repo)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    load(repo)


def test_offline_uses_the_cache_and_nothing_else(hub, saved, repo: str, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add(repo, saved("m"))
    first = load(repo)
    hub.sent.clear()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    again = load(repo)
    assert again.revision == first.revision
    assert hub.sent == []
    with pytest.raises(
        ModelNotFound, match=r"offline mode is on \(HF_HUB_OFFLINE\) and 'user/never' is not in the cache"
    ):
        load("user/never")


def test_no_network(hub, saved, repo: str, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add(repo, saved("m"))
    load(repo)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    load(repo)
    with pytest.raises(ModelNotFound, match="the Hub cannot be reached and 'user/never' is not in the cache"):
        load("user/never")


def test_a_failing_hub(hub, repo: str) -> None:
    hub.failing = True
    with pytest.raises(ModelNotFound, match=f"the Hub answered 503 for '{repo}': try again later"):
        load(repo)


def test_a_truncated_upload(hub, saved, repo: str) -> None:
    content = hub.add(repo, saved("m"))
    content.files["model.safetensors"] = content.files["model.safetensors"][:-50]
    with pytest.raises(CorruptCheckpoint, match="is truncated"):
        load(repo)


def test_pickled_weights_are_noted_and_not_fetched(hub, saved, repo: str, tmp_path: Path) -> None:
    directory = saved("m")
    (directory / "model.safetensors").unlink()
    torch.save(state_of(tiny_model()), directory / "pytorch_model.bin")
    hub.add(repo, directory)
    found = check(repo, repo)
    assert any("has only pickled weights" in str(finding) for finding in found.findings)
    assert hub.bytes_sent("pytorch_model.bin") == 0
