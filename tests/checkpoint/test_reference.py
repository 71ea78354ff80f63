from __future__ import annotations

from pathlib import Path

import pytest

from isthmus.checkpoint.errors import BadInput
from isthmus.checkpoint.reference import Reference, parse_reference


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("gpt2", Reference(repo_id="gpt2")),
        ("user/model", Reference(repo_id="user/model")),
        ("user/model@v1.0", Reference(repo_id="user/model", revision="v1.0")),
        ("user/model@refs/pr/3", Reference(repo_id="user/model", revision="refs/pr/3")),
        ("user/model:sub/folder", Reference(repo_id="user/model", subfolder="sub/folder")),
        ("user/model@main:sub", Reference(repo_id="user/model", revision="main", subfolder="sub")),
        ("./user", Reference(directory=Path("user"))),
        ("/somewhere/else", Reference(directory=Path("/somewhere/else"))),
        ("~/models", Reference(directory=Path("~/models").expanduser())),
    ],
)
def test_reads_what_users_write(written: str, expected: Reference) -> None:
    assert parse_reference(written) == expected


def test_what_exists_on_disk_is_a_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "user" / "model").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert parse_reference("user/model").directory == Path("user/model")
    assert parse_reference("user/other").repo_id == "user/other"


def test_name_of_a_directory_shows_no_path(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    assert parse_reference(f"{tmp_path}/model/").name == "model"


@pytest.mark.parametrize("name", ["user/model@v1", "user/model:sub", "user/model@v1:sub/folder"])
def test_name_of_a_hub_id_is_as_written(name: str) -> None:
    assert parse_reference(name).name == name


@pytest.mark.parametrize("written", ["", "a b", "user/model@", "a/b/c", "user/..", "user/model:../up"])
def test_refuses_what_is_neither(written: str) -> None:
    with pytest.raises(BadInput, match="neither a directory nor a Hub id"):
        parse_reference(written)


def test_refuses_a_file(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    file.touch()
    with pytest.raises(BadInput, match=r"'model\.safetensors' is a file: give the directory"):
        parse_reference(file)
