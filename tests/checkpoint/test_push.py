"""Pushing merges with the real huggingface_hub client to a Hub on loopback."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import EMBEDDED
from hub_server import TOKEN, Fault, HubServer
from huggingface_hub import ModelCard
from merging import merge
from safetensors.torch import load_file

from isthmus.checkpoint import hub as asking
from isthmus.checkpoint.errors import BadInput, IsthmusError
from isthmus.checkpoint.manifest import sealed
from isthmus.checkpoint.push import plan_push
from isthmus.checkpoint.push_target import PushTarget
from isthmus.checkpoint.saving import write_json
from isthmus.checkpoint.serialization import save_weights
from isthmus.checkpoint.upload_check import read_output

A, B = EMBEDDED / "docs", EMBEDDED / "code"
REPO = "user/merged"


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A merge with everything that a push can hold."""
    directory = tmp_path_factory.mktemp("push") / "merged"
    merge(A, B, data=["stdlib:docs:heldout"], align="none", tokens=256).save(directory)
    return directory


@pytest.fixture
def merged(output: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(output, tmp_path / "merged"))


@pytest.fixture
def logged_in(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> HubServer:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr(asking, "PAUSE", 0.01)
    return hub


def content(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def test_one_commit_holds_the_whole_directory(logged_in: HubServer, merged: Path, isthmus) -> None:
    found = isthmus("push", merged, REPO, "--commit-message", "A merge", "--json", "-")
    assert found.code == 0
    repo = logged_in.repos[REPO]
    assert {**content(merged), ".gitattributes": repo.files[".gitattributes"]} == repo.files
    assert [commit["summary"] for commit in repo.commits] == ["A merge"]
    assert not repo.private
    result = json.loads(found.out)
    assert (result["repo"], result["commit"], result["dry_run"]) == (REPO, repo.sha, False)
    assert f"pushed: {logged_in.url}/{REPO}" in found.err
    assert TOKEN not in found.err + found.out


def test_round_trip_is_equal_bit_for_bit(logged_in: HubServer, merged: Path, tmp_path: Path, isthmus) -> None:
    """Push both parents and their merge; merging from the Hub gives the same bits, and the card tells how."""
    for name, directory in (("user/docs", A), ("user/code", B)):
        logged_in.add(name, directory)
    options = ("--data", "stdlib:docs:heldout", "--align", "none", "--tokens", 256)
    found = isthmus("merge", "user/docs", "user/code", "-o", tmp_path / "hub", *options, "--push", REPO, "--private")
    assert found.code == 0
    here, there = (load_file(place / "model.safetensors") for place in (merged, tmp_path / "hub"))
    assert all(torch.equal(here[name], there[name]) for name in here)
    repo = logged_in.repos[REPO]
    assert repo.private
    assert repo.files["model.safetensors"] == (merged / "model.safetensors").read_bytes()
    card = ModelCard(repo.files["README.md"].decode())
    card.validate()
    assert card.data.base_model == ["user/docs", "user/code"]
    assert card.data.to_dict()["base_model_relation"] == "merge"
    assert f'model="{REPO}"' in card.content
    command = f"isthmus merge user/docs@{'a' * 40} user/code@{'a' * 40} -o merged {' '.join(map(str, options[:2]))}"
    assert command in card.content
    again = isthmus("merge", REPO, "user/docs", "-o", tmp_path / "again", "--align", "none", "--t", 0, "--no-spectrum")
    assert again.code == 0
    back = load_file(tmp_path / "again" / "model.safetensors")
    assert all(torch.equal(back[name], here[name]) for name in here)


def test_the_same_push_again_changes_nothing(logged_in: HubServer, merged: Path, isthmus) -> None:
    assert isthmus("push", merged, REPO).code == 0
    logged_in.requests.clear()
    again = isthmus("push", merged, REPO)
    assert again.code == 0
    assert "nothing to push, it is all there: " in again.err
    assert logged_in.writes() == []


def test_a_dry_run_sends_nothing(hub: HubServer, merged: Path, isthmus) -> None:
    """Not even a login is needed."""
    found = isthmus("push", merged, REPO, "--dry-run", "--private", "--json", "-")
    assert found.code == 0
    assert hub.writes() == []
    plan = json.loads(found.out)
    assert {file["name"] for file in plan["files"]} == set(content(merged))
    assert all(file["changed"] for file in plan["files"])
    assert plan["creates_repository"]
    assert "nothing was sent; a push would create the private repository user/merged" in found.err


def test_into_a_branch(logged_in: HubServer, merged: Path, isthmus) -> None:
    """A new one begins with what main holds, and overwrites nobody's; once it is there, it is somebody's."""
    repo = logged_in.add(REPO, A)
    repo.files["pytorch_model.bin"] = b"old"
    assert isthmus("push", merged, REPO, "--revision", "merge").code == 0
    assert repo.branches["merge"]["model.safetensors"] == (merged / "model.safetensors").read_bytes()
    assert "pytorch_model.bin" not in repo.branches["merge"]
    assert repo.files["model.safetensors"] == (A / "model.safetensors").read_bytes()
    repo.branches["merge"]["config.json"] = b"{}"
    assert isthmus("push", merged, REPO, "--revision", "merge").code == 2
    assert isthmus("push", merged, REPO, "--revision", "merge", "--overwrite").code == 0


def test_a_branch_of_a_new_repository(logged_in: HubServer, merged: Path, isthmus) -> None:
    found = isthmus("push", merged, REPO, "--revision", "first", "--dry-run")
    assert "would create the public repository user/merged, create the branch first, send 8 files" in found.err
    assert isthmus("push", merged, REPO, "--revision", "first").code == 0
    repo = logged_in.repos[REPO]
    assert set(repo.files) == {".gitattributes"}
    assert repo.branches["first"]["README.md"] == (merged / "README.md").read_bytes()


def test_as_a_pull_request(logged_in: HubServer, merged: Path, isthmus) -> None:
    logged_in.add(REPO, A)
    found = isthmus("push", merged, REPO, "--create-pr")
    assert found.code == 0
    assert f"proposed: {logged_in.url}/{REPO}/discussions/1" in found.err
    repo = logged_in.repos[REPO]
    assert repo.branches["refs/pr/1"]["README.md"] == (merged / "README.md").read_bytes()
    assert repo.files["model.safetensors"] == (A / "model.safetensors").read_bytes()


def test_anothers_work_is_not_overwritten(logged_in: HubServer, merged: Path, tmp_path: Path, isthmus) -> None:
    other = logged_in.add(REPO, A)
    other.files |= {"pytorch_model.bin": b"old", "notes.txt": b"mine", "LICENSE": b"MIT"}
    before = dict(other.files)
    found = isthmus("push", merged, REPO)
    assert (found.code, other.files) == (2, before)
    assert "holds config.json and" in found.err
    options = ("-o", tmp_path / "out", "--align", "none", "--t", 0.5, "--push", REPO)
    assert isthmus("merge", A, B, *options).code == 2
    assert not (tmp_path / "out").exists()  # found out before the merge was made
    assert isthmus("push", merged, REPO, "--overwrite").code == 0
    assert {"notes.txt", "LICENSE", "isthmus.json"} <= other.files.keys()
    assert not {"pytorch_model.bin"} & other.files.keys()
    assert len(other.commits) == 1


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda d: (d / "model.safetensors").write_bytes(b"x"), "'model.safetensors' was changed in 'merged'"),
        (lambda d: (d / "config.json").unlink(), "'config.json' is missing from"),
        (lambda d: (d / "secrets.txt").write_text("x"), "'secrets.txt' was added to"),
        (lambda d: (d / "README.md").write_text("# Mine"), "'README.md' was changed in"),
        (lambda d: (d / "isthmus.json").write_text("{}"), "is not a merge that isthmus wrote"),
        (lambda d: (d / "isthmus.json").unlink(), "is not a merge that isthmus wrote"),
        (
            lambda d: (d / "isthmus.json").write_text((d / "isthmus.json").read_text().replace("docs", "dogs")),
            "'isthmus.json' in 'merged' was changed",
        ),
        (
            lambda d: [(d / "config.json").unlink(), (d / "config.json").symlink_to(A / "config.json")],
            "is no longer a regular file",
        ),
        (lambda d: (d / "sub").mkdir(), "'sub' was added to"),
        (shutil.rmtree, "there is no directory 'merged'"),
    ],
)
def test_what_isthmus_did_not_write_is_refused(logged_in: HubServer, merged: Path, isthmus, change, sentence) -> None:
    change(merged)
    found = isthmus("push", merged, REPO)
    assert found.code == 2
    assert sentence in found.err
    assert logged_in.writes() == []


def test_a_card_may_be_edited_on_purpose(logged_in: HubServer, merged: Path, isthmus) -> None:
    card = merged / "README.md"
    card.write_text(card.read_text() + "\nWritten by hand.\n")
    assert isthmus("push", merged, REPO, "--edited-card").code == 0
    assert logged_in.repos[REPO].files["README.md"].endswith(b"Written by hand.\n")


@pytest.mark.parametrize(
    ("secret", "sentence"),
    [
        (f"see {Path.home()}/models", "holds the path of your home directory"),
        ("export HF_TOKEN=hf_" + "a" * 34, "holds an access token"),
    ],
)
def test_a_card_with_something_private_is_refused(
    logged_in: HubServer, merged: Path, isthmus, secret: str, sentence: str
) -> None:
    (merged / "README.md").write_text((merged / "README.md").read_text() + secret)
    found = isthmus("push", merged, REPO, "--edited-card")
    assert found.code == 2
    assert sentence in found.err
    assert "hf_aaa" not in found.err


def test_a_card_that_the_hub_refuses(logged_in: HubServer, merged: Path, isthmus) -> None:
    card = (merged / "README.md").read_text()
    (merged / "README.md").write_text(card.replace("library_name: transformers", "library_name: [1]"))
    found = isthmus("push", merged, REPO, "--edited-card")
    assert found.code == 2
    assert "the Hub refuses the card of 'user/merged'" in found.err
    assert logged_in.repos[REPO].commits == []


def test_without_a_login(hub: HubServer, merged: Path, isthmus) -> None:
    found = isthmus("push", merged, REPO)
    assert found.code == 2
    assert "log in with 'hf auth login'" in found.err


def test_a_token_that_may_not_write(hub: HubServer, merged: Path, isthmus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_some_other_token")
    found = isthmus("push", merged, REPO)
    assert found.code == 2
    assert "the Hub refused access to 'user/merged' (401)" in found.err
    assert "hf_some_other_token" not in found.err


@pytest.mark.parametrize("repo", ["not a name", "a/b/c", "../x", "user/", "someone-else/model"])
def test_names_that_cannot_be(logged_in: HubServer, merged: Path, isthmus, repo: str) -> None:
    found = isthmus("push", merged, repo)
    assert found.code == 2
    assert found.err.count("\n") == 1
    assert not any(path.endswith("commit/main") for _, path in logged_in.requests)


def test_a_name_without_a_namespace_is_the_users_own(logged_in: HubServer, merged: Path, isthmus) -> None:
    assert isthmus("push", merged, "merged").code == 0
    assert REPO in logged_in.repos


def test_private_cannot_be_kept_in_a_public_repository(logged_in: HubServer, merged: Path, isthmus) -> None:
    logged_in.repos[REPO] = logged_in.add("user/x", A)
    found = isthmus("push", merged, REPO, "--private", "--overwrite")
    assert found.code == 2
    assert "is public" in found.err


FAULTS = {
    "info overloaded": Fault("GET", "/api/models/", 503, times=2),
    "info dropped": Fault("GET", "/api/models/", times=2),
    "create overloaded": Fault("POST", "/api/repos/create", 502),
    "created, answer lost": Fault("POST", "/api/repos/create", late=True),
    "preupload limited": Fault("POST", "/preupload/", 429, headers={"Retry-After": "0"}),
    "batch dropped": Fault("POST", "/objects/batch"),
    "upload dropped": Fault("PUT", "/large/"),
    "upload refused once": Fault("PUT", "/large/", 500),
    "commit limited": Fault("POST", "/commit/", 429, headers={"Retry-After": "1"}),
    "commit dropped": Fault("POST", "/commit/"),
    "committed, answer lost": Fault("POST", "/commit/", late=True),
}


@pytest.mark.parametrize("kind", FAULTS)
def test_faults_that_pass(logged_in: HubServer, merged: Path, isthmus, kind: str) -> None:
    fault = FAULTS[kind]
    logged_in.faults.append(Fault(**vars(fault)))
    found = isthmus("push", merged, REPO)
    assert found.code == 0, found.err
    repo = logged_in.repos[REPO]
    assert content(merged).items() <= repo.files.items()
    assert len(repo.commits) == 1
    assert len(logged_in.arrivals) == len(set(logged_in.arrivals)) == 2
    assert logged_in.faults[0].times == 0


def test_a_hub_that_stays_down(logged_in: HubServer, merged: Path, isthmus) -> None:
    logged_in.faults.append(Fault("POST", "/commit/", 503, times=99))
    found = isthmus("push", merged, REPO)
    assert found.code == 2
    assert "the Hub answered 503 for 'user/merged'" in found.err
    assert logged_in.repos[REPO].commits == []


@pytest.mark.parametrize(("asked", "waited", "code"), [(7, [7.0], 0), (3600, [], 2)])
def test_a_limit_is_waited_for_as_long_as_the_hub_asks_if_that_is_not_too_long(
    logged_in: HubServer, merged: Path, isthmus, monkeypatch, asked: int, waited: list[float], code: int
) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(asking, "time", SimpleNamespace(sleep=pauses.append))
    logged_in.faults.append(Fault("GET", "/api/models/", 429, headers={"Retry-After": str(asked)}))
    found = isthmus("push", merged, REPO)
    assert (found.code, pauses) == (code, waited)
    assert code == 0 or "the Hub answered 429" in found.err


def test_somebody_else_pushed_meanwhile(logged_in: HubServer, merged: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    logged_in.add(REPO, A)
    plan = plan_push(read_output(merged), PushTarget.find(REPO), overwrite=True)
    logged_in.repos[REPO].sha = "b" * 40
    with pytest.raises(IsthmusError, match="was changed by somebody else in the meantime"):
        plan.carry_out()
    assert logged_in.repos[REPO].commits == []


def test_a_pull_request_that_was_refused_for_a_moment_is_opened(logged_in: HubServer, merged: Path, isthmus) -> None:
    logged_in.add(REPO, A)
    logged_in.faults.append(Fault("POST", "/commit/", 429, headers={"Retry-After": "0"}))
    assert isthmus("push", merged, REPO, "--create-pr", "--revision", "main").code == 0
    assert len(logged_in.repos[REPO].commits) == 1


def test_a_pull_request_needs_a_repository(logged_in: HubServer, merged: Path, isthmus) -> None:
    found = isthmus("push", merged, REPO, "--create-pr")
    assert found.code == 2
    assert "there is no repository 'user/merged' to open a pull request in" in found.err
    assert isthmus("push", merged, REPO, "--create-pr", "--revision", "x").code == 2
    assert logged_in.writes() == []


def test_a_pull_request_whose_answer_was_lost_is_not_opened_twice(logged_in: HubServer, merged: Path, isthmus) -> None:
    logged_in.add(REPO, A)
    logged_in.faults.append(Fault("POST", "/commit/", late=True))
    found = isthmus("push", merged, REPO, "--create-pr")
    assert found.code == 1
    assert "look whether it is there" in found.err
    assert len(logged_in.repos[REPO].commits) == 1


def test_interrupted_in_the_middle_and_repeated(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed when the first shards have arrived; the same command again sends the others, and makes one commit."""
    merge(A, B, align="none", t=0.5).save(tmp_path / "merged")
    state = load_file(tmp_path / "merged" / "model.safetensors")
    (tmp_path / "merged" / "model.safetensors").unlink()
    shapes = {name: tuple(value.shape) for name, value in state.items()}
    monkeypatch.setattr("isthmus.checkpoint.serialization.SHARD_BYTES", 2**19)
    save_weights(tmp_path / "merged", shapes, state, torch.float32)
    write_json(
        tmp_path / "merged" / "isthmus.json",
        sealed(json.loads((tmp_path / "merged" / "isthmus.json").read_text()), tmp_path / "merged"),
    )
    shards = sorted((tmp_path / "merged").glob("*.safetensors"))
    digests = {hashlib.sha256(shard.read_bytes()).hexdigest() for shard in shards}
    assert len(digests) >= 6

    hub.faults.append(Fault("PUT", "/large/", 503, times=10**6, after=3))
    command = [sys.executable, "-m", "isthmus", "push", str(tmp_path / "merged"), REPO, "--quiet"]
    environment = {**os.environ, "HF_TOKEN": TOKEN, "HF_ENDPOINT": hub.url}
    process = subprocess.Popen(command, env=environment)
    deadline = time.monotonic() + 120
    while len(hub.arrivals) < 3 and time.monotonic() < deadline:
        time.sleep(0.02)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert len(hub.arrivals) == 3
    assert hub.repos[REPO].commits == []

    hub.faults.clear()
    assert subprocess.run(command, env=environment, check=False).returncode == 0
    assert sorted(hub.arrivals) == sorted(digests)
    assert len(hub.repos[REPO].commits) == 1
    assert content(tmp_path / "merged").items() <= hub.repos[REPO].files.items()


def test_a_full_namespace_is_needed_to_look_without_a_login(hub: HubServer, merged: Path) -> None:
    with pytest.raises(BadInput, match="a push needs an account"):
        PushTarget.find("merged", writing=False)
