"""Which files go along with a merge: on disk, on the Hub, in a push."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import altered_tokenizers as altered
import pytest
from conftest import EMBEDDED
from hub_server import TOKEN, HubServer
from merging import merge
from transformers import AutoTokenizer

from isthmus.checkpoint.check import check
from isthmus.checkpoint.errors import CorruptCheckpoint
from isthmus.checkpoint.loading import load
from isthmus.checkpoint.small_files import is_small_file, left_out

FOLDER = "additional_chat_templates"


def model(tmp_path: Path, name: str, *changes, of: str = "docs") -> Path:
    directory = tmp_path / name
    shutil.copytree(EMBEDDED / of, directory)
    for change in changes:
        change(directory)
    return directory


def names(directory: Path) -> set[str]:
    return {path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file()}


ALL = (altered.templates_in_a_folder, altered.other_files, altered.sentence_pieces, altered.template_of_a_processor)
CARRIED = {
    f"{FOLDER}/tool_use.jinja", "chat_template.jinja", "chat_template.json", "preprocessor_config.json",
    "processor_config.json", "video_preprocessor_config.json", "vocab.txt", "spiece.model", "tokenizer.model",
    "tokenizer.json", "tokenizer_config.json",
}  # fmt: skip


def test_all_that_makes_a_model_usable(tmp_path: Path) -> None:
    owner = model(tmp_path, "owner", *ALL, altered.files_left_out)
    merge(owner, EMBEDDED / "code", align="none", t=0.5).save(tmp_path / "out")
    assert names(tmp_path / "out") >= CARRIED
    assert not names(tmp_path / "out") & {"modules.json", "training_args.bin", "trainer_state.json"}
    assert set(AutoTokenizer.from_pretrained(tmp_path / "out").chat_template) == {"default", "tool_use"}
    for name in CARRIED - {"tokenizer_config.json"}:
        assert (tmp_path / "out" / name).read_bytes() == (owner / name).read_bytes()


@pytest.mark.parametrize("subfolder", ["", "v2"])
def test_from_the_hub(hub: HubServer, tmp_path: Path, subfolder: str) -> None:
    repo = f"user/usable{subfolder}"
    hub.add(repo, model(tmp_path, "owner", *ALL), subfolder)
    hub.repos[repo].files |= {"other/additional_chat_templates/x.jinja": b"no", "notes/a.txt": b"no"}
    found = load(f"{repo}:{subfolder}" if subfolder else repo)
    assert found.files.keys() >= CARRIED
    assert not [name for name in found.files if "x.jinja" in name or "notes" in name]
    merge(found, EMBEDDED / "code", align="none", t=0.5).save(tmp_path / "out")
    assert names(tmp_path / "out") >= CARRIED


def test_templates_on_the_hub_are_compared(hub: HubServer, tmp_path: Path) -> None:
    hub.add("user/with-tools", model(tmp_path, "owner", altered.templates_in_a_folder))
    found = [str(finding) for finding in check("user/with-tools", EMBEDDED / "code").findings]
    assert any("only 'user/with-tools' has a chat template \"tool_use\"" in line for line in found)


def test_a_push_carries_subfolders(hub: HubServer, tmp_path: Path, isthmus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    owner = model(tmp_path, "owner", altered.templates_in_a_folder)
    merge(owner, EMBEDDED / "code", align="none", t=0.5).save(tmp_path / "out")
    report = json.loads((tmp_path / "out" / "isthmus.json").read_text())
    assert f"{FOLDER}/tool_use.jinja" in report["files"]
    done = isthmus("push", tmp_path / "out", "user/carried")
    assert done.code == 0, done.err
    there = hub.repos["user/carried"].files
    assert there[f"{FOLDER}/tool_use.jinja"] == (owner / FOLDER / "tool_use.jinja").read_bytes()
    (tmp_path / "out" / FOLDER / "tool_use.jinja").write_text("changed")
    refused = isthmus("push", tmp_path / "out", "user/carried-2")
    assert refused.code == 2
    assert f"'{FOLDER}/tool_use.jinja' was changed in 'out'" in refused.err
    (tmp_path / "out" / FOLDER / "more.jinja").write_text("more")
    assert f"'{FOLDER}/more.jinja' was added to 'out'" in isthmus("push", tmp_path / "out", "user/carried-2").err


def test_templates_of_the_model_that_is_replaced_are_removed(
    hub: HubServer, tmp_path: Path, isthmus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    merge(EMBEDDED / "docs", EMBEDDED / "code", align="none", t=0.5).save(tmp_path / "out")
    hub.add("user/old", model(tmp_path, "old", altered.templates_in_a_folder, altered.other_files))
    assert isthmus("push", tmp_path / "out", "user/old", "--overwrite").code == 0
    left = set(hub.repos["user/old"].files)
    assert not left & {f"{FOLDER}/tool_use.jinja", "spiece.model", "preprocessor_config.json", "chat_template.jinja"}


def test_a_template_folder_that_leads_elsewhere(tmp_path: Path) -> None:
    owner = model(tmp_path, "owner")
    (tmp_path / "private").mkdir()
    (tmp_path / "private" / "x.jinja").write_text("secret")
    (owner / FOLDER).symlink_to(tmp_path / "private")
    with pytest.raises(CorruptCheckpoint, match="a link that leads out of the model's folder"):
        load(owner)


def test_names() -> None:
    assert is_small_file("additional_chat_templates/a.jinja")
    for name in (
        "a/b.jinja",
        f"{FOLDER}/a/b.jinja",
        f"{FOLDER}/../a.jinja",
        f"../{FOLDER}/a.jinja",
        f"{FOLDER}/.a.jinja",
    ):
        assert not is_small_file(name)
    assert is_small_file("tokenizer.4.40.0.json")
    assert not is_small_file("x/tokenizer.json")
    assert left_out(["modeling_x.py", "config.json", "model.gguf", "README.md", "qwen.tiktoken"]) == [
        "modeling_x.py", "qwen.tiktoken",
    ]  # fmt: skip
