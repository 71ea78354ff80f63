"""Outputs that are inputs, in every way that somebody may come upon: refused in a sentence, and no byte changed."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import EMBEDDED, Outcome, tiny_model
from merging import merge

from isthmus.checkpoint.errors import BadInput
from isthmus.checkpoint.saving import replace_file
from isthmus.merge.plans import EnsemblePlan, PlanePlan

PLAIN = ("--align", "none", "--t", 0.5)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder ``w`` with models, text, a recipe, a path and links to them, in all the ways that there are."""
    root = tmp_path_factory.mktemp("world")
    here = root / "w"
    for seed, name in enumerate(("a", "b", "base", "group/deep")):
        tiny_model(seed, vocab_size=4096).save_pretrained(here / name)
        for file in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(EMBEDDED / "docs" / file, here / name / file)
    (here / "text").mkdir()
    (here / "text" / "one.txt").write_text("One text. " * 2000)
    (here / "rows.jsonl").write_text(json.dumps({"text": "Other text. " * 2000}) + "\n")
    models = "".join(f"  - model: {here / name}\n" for name in ("a", "b"))
    (here / "recipe.yml").write_text(f"merge_method: linear\nmodels:\n{models}parameters: {{weight: 0.5}}\n")
    terms = f"tokenizer_source: {here / 'base'}\n"
    (here / "tokens.yml").write_text(f"merge_method: linear\nmodels:\n{models}{terms}parameters: {{weight: 0.5}}\n")
    (here / "path").mkdir()
    (here / "path" / "path.json").write_text("{}")
    (root / "link").symlink_to(here)
    (here / "to-a").symlink_to(here / "a")
    (here / "linked").mkdir()
    for file in (here / "a").iterdir():
        (here / "linked" / file.name).symlink_to(file)
    os.link(here / "a" / "model.safetensors", here / "hard.json")
    (here / "soft.json").symlink_to(here / "a" / "config.json")
    return here


def digests(root: Path) -> dict[str, str]:
    """What every file holds, and every link says."""
    found = {}
    for folder, folders, files in os.walk(root):
        for name in (*folders, *files):
            path = Path(folder, name)
            if path.is_symlink():
                found[str(path)] = str(path.readlink())
            elif path.is_file():
                found[str(path)] = hashlib.sha256(path.read_bytes()).hexdigest()
            else:
                found[str(path)] = "folder"
    return found


MERGE = ("merge", "a", "b", *PLAIN, "--overwrite")
TEXT = ("--data", "text", "--tokens", 64)
WAYS: dict[str, tuple[object, ...]] = {
    "the first model": (*MERGE, "-o", "a"),
    "the second": (*MERGE, "-o", "b"),
    "with a dot and a slash": (*MERGE, "-o", "./b/"),
    "through the parent": (*MERGE, "-o", "../w/a"),
    "through a link to the parent": (*MERGE, "-o", "../link/a"),
    "through dots in the middle": (*MERGE, "-o", "text/../a"),
    "a link": (*MERGE, "-o", "to-a"),
    "below a model": (*MERGE, "-o", "a/merged"),
    "deep below a model": (*MERGE, "-o", "b/x/y/z"),
    "below a link to a model": (*MERGE, "-o", "to-a/merged"),
    "a folder that contains a model": ("merge", "group/deep", "a", *PLAIN, "--overwrite", "-o", "group"),
    "the folder of both models": (*MERGE, "-o", "."),
    "a model that is a link": ("merge", "to-a", "b", *PLAIN, "--overwrite", "-o", "a"),
    "a model whose files are links": ("merge", "linked", "b", *PLAIN, "--overwrite", "-o", "a"),
    "no overwrite, below": ("merge", "a", "b", *PLAIN, "-o", "a/out"),
    "the base": ("merge", "a", "b", "--method", "ties", "--base", "base", "--overwrite", "-o", "base"),
    "below the base": ("merge", "a", "b", "--method", "ties", "--base", "base", "-o", "base/out"),
    "a third model": ("merge", "a", "b", "base", "--method", "linear", "--overwrite", "-o", "base"),
    "a model of a recipe": ("merge", "recipe.yml", "--overwrite", "-o", "b"),
    "below a model of a recipe": ("merge", "recipe.yml", "-o", "b/out"),
    "the source of the tokens": ("merge", "tokens.yml", "--overwrite", "-o", "base"),
    "the recipe itself": ("merge", "recipe.yml", "--overwrite", "-o", "recipe.yml"),
    "the recipe as JSON": ("merge", "recipe.yml", "-o", "new", "--json", "recipe.yml"),
    "the text": ("merge", "a", "b", *TEXT, "--overwrite", "-o", "text"),
    "below the text": ("merge", "a", "b", *TEXT, "-o", "text/out"),
    "labelled text": ("merge", "a", "b", "--data", "law=text", "--overwrite", "-o", "text"),
    "a text file as JSON": ("merge", "a", "b", "--data", "rows.jsonl", "-o", "new", "--json", "rows.jsonl"),
    "a path": ("merge", "a", "b", "--path", "path", "--overwrite", "-o", "path"),
    "below a path": ("merge", "a", "b", "--path", "path", "-o", "path/out"),
    "align onto B": ("align", "a", "b", "--overwrite", "-o", "b"),
    "align, the reference onto A": ("align", "a", "b", "--overwrite", "-o", "new", "--reference", "a"),
    "align, the reference onto B": ("align", "a", "b", "--overwrite", "-o", "new", "--reference", "./b"),
    "align, both in one": ("align", "a", "b", "-o", "new", "--reference", "new"),
    "align, one in the other": ("align", "a", "b", "-o", "new", "--reference", "new/reference"),
    "a path onto a model": ("path", "a", "b", *TEXT, "--overwrite", "-o", "a"),
    "a plane onto a model": ("plane", "a", "b", "base", *TEXT, "--overwrite", "-o", "base"),
    "an ensemble onto a model": ("ensemble", "a", "b", *TEXT, "--overwrite", "-o", "b"),
    "an ensemble onto its path": ("ensemble", "a", "b", *TEXT, "--path", "path", "--at", 0.5, "-o", "path/x"),
    "JSON onto weights": (*MERGE, "-o", "new", "--json", "a/model.safetensors"),
    "JSON beside weights": (*MERGE, "-o", "new", "--json", "a/new.json"),
    "JSON onto a hard link of weights": (*MERGE, "-o", "new", "--json", "hard.json"),
    "JSON onto a link to a configuration": (*MERGE, "-o", "new", "--json", "soft.json"),
    "JSON into the output": (*MERGE, "-o", "new", "--json", "new/isthmus.json"),
    "JSON as the output": (*MERGE, "-o", "new", "--json", "new"),
    "JSON of a check": ("check", "a", "b", "--json", "b/config.json"),
    "JSON of spectra": ("spectrum", "a", "--json", "a/model.safetensors"),
    "JSON of what is pushed": ("push", "a", "me/model", "--dry-run", "--json", "a/isthmus.json"),
    "JSON onto another model": ("check", "a", "b", "--json", "base/config.json"),
    "JSON onto text that is none of ours": ("check", "a", "b", "--json", "text/one.txt"),
    "a study onto its text": ("lab", "generalization", "text", "--data", "text", "--quick"),
    "a study in a folder with other files": ("lab", "relu", "a", "--quick"),
    "the root": (*MERGE, "-o", "/"),
    "the parent": (*MERGE, "-o", ".."),
    "the empty name": (*MERGE, "-o", ""),
    "somebody's other files": (*MERGE, "-o", "base"),
    "a training that is not finished": (*MERGE, "-o", ".out.isthmus-training"),
    "a demo onto its own models": ("demo", "-o", EMBEDDED / "docs", "--overwrite"),
}


@pytest.mark.parametrize("way", WAYS)
def test_an_output_that_is_an_input_is_refused(
    way: str, world: Path, isthmus: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(world)
    before = digests(world.parent)
    found = isthmus(*WAYS[way])
    assert (found.code, len(found.err.splitlines())) == (2, 1), found.err
    assert "unforeseen" not in found.err
    assert digests(world.parent) == before


def test_from_inside_a_model(world: Path, isthmus: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(world / "a")
    before = digests(world.parent)
    for output in (".", "../a", "out", "../b"):
        found = isthmus("merge", ".", "../b", *PLAIN, "--overwrite", "-o", output)
        assert (found.code, len(found.err.splitlines())) == (2, 1), found.err
    assert digests(world.parent) == before


def test_a_snapshot_of_the_hub_cache(isthmus: Callable[..., Outcome], hub: object, tmp_path: Path) -> None:
    from huggingface_hub import constants

    cache = Path(constants.HF_HUB_CACHE)
    found = isthmus("merge", "org/a", "org/b", *PLAIN, "-o", cache / "models--org--a" / "snapshots" / "new")
    assert found.code == 2
    assert "lies in the Hub's cache" in found.err


def test_python_refuses_as_the_command_line_does(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the output is known only when all is done, it is held against what was read."""
    import isthmus
    from isthmus.merge.aligned_checkpoint import align_and_save
    from isthmus.merge.plane import loss_plane

    monkeypatch.chdir(world.parent)
    merged = merge("w/a", "link/b", align="none", t=0.5)
    before = digests(world.parent)
    for output in (world / "a", world / "b" / "out", Path("link/b")):
        with pytest.raises(BadInput, match="which this command reads"):
            merged.save(output, overwrite=True)
        with pytest.raises(BadInput, match="which this command reads"):
            merged.save_path(output, overwrite=True)
    for output, reference in ((world / "b", None), (Path("new"), world / "a"), (Path("new"), Path("new"))):
        with pytest.raises(BadInput, match="choose another"):
            align_and_save(world / "a", world / "b", output, reference=reference, overwrite=True)
    plane = loss_plane([world / name for name in ("a", "b", "base")], PlanePlan(data=[str(world / "text")], tokens=64))
    members = isthmus.ensemble(
        [world / "a", world / "b"], EnsemblePlan(data=[str(world / "text")], tokens=64, align="none")
    )
    for result in (plane, members):
        for output in (world / "a", world / "text" / "out"):
            with pytest.raises(BadInput, match="which this command reads"):
                result.save(output, overwrite=True)
    assert digests(world.parent) == before


@pytest.fixture
def mounted(world: Path, tmp_path: Path) -> Iterator[Path]:
    """Another name for the model ``a``, which no link leads to."""
    place = tmp_path / "mounted"
    place.mkdir()
    if subprocess.run(["mount", "--bind", world / "a", place], capture_output=True).returncode:
        pytest.skip("nothing can be mounted here")
    yield place
    subprocess.run(["umount", place], check=True)


def test_a_model_that_is_mounted_elsewhere(world: Path, mounted: Path, isthmus: Callable[..., Outcome]) -> None:
    before = digests(world.parent)
    for output in (mounted, mounted / "out"):
        found = isthmus("merge", world / "a", world / "b", *PLAIN, "--overwrite", "-o", output)
        assert (found.code, "the model 'a'" in found.err) == (2, True), found.err
    found = isthmus("merge", mounted, world / "b", *PLAIN, "-o", world / "a" / "out")
    assert (found.code, "the model 'mounted'" in found.err) == (2, True), found.err
    assert digests(world.parent) == before


@pytest.mark.parametrize("change", ["edited", "added", "a folder", "a link", "the report", "none of ours"])
def test_overwrite_replaces_only_what_isthmus_wrote(
    change: str, world: Path, tmp_path: Path, isthmus: Callable[..., Outcome]
) -> None:
    out = tmp_path / "out"
    merge = ("merge", world / "a", world / "b", *PLAIN, "-o", out, "--overwrite")
    assert isthmus(*merge).code == 0
    if change == "edited":
        (out / "README.md").write_text("My own card.")
    elif change == "added":
        (out / "notes.txt").write_text("mine")
    elif change == "a folder":
        (out / "checkpoints").mkdir()
    elif change == "a link":
        (out / "README.md").rename(tmp_path / "card")
        (out / "README.md").symlink_to(tmp_path / "card")
    elif change == "the report":
        report = json.loads((out / "isthmus.json").read_text())
        (out / "isthmus.json").write_text(json.dumps({**report, "license": "mit"}))
    else:
        (out / "isthmus.json").unlink()
    before = digests(tmp_path)
    found = isthmus(*merge)
    assert (found.code, "so --overwrite does not replace it" in found.err) == (2, True), found.err
    assert digests(tmp_path) == before


def test_what_is_missing_from_an_output_is_no_loss(
    world: Path, tmp_path: Path, isthmus: Callable[..., Outcome]
) -> None:
    merge = ("merge", world / "a", world / "b", *PLAIN, "-o", tmp_path / "out", "--overwrite")
    assert isthmus(*merge).code == 0
    (tmp_path / "out" / "report.html").unlink()
    assert isthmus(*merge).code == 0
    assert (tmp_path / "out" / "report.html").exists()


def test_every_output_can_be_overwritten(world: Path, tmp_path: Path, isthmus: Callable[..., Outcome]) -> None:
    """What align, plane and ensemble write is sealed as a merge is; and only a merge can be pushed."""
    a, b, base, text = (world / name for name in ("a", "b", "base", "text"))
    measured = ("--data", text, "--tokens", 64)
    commands = {
        "aligned": ("align", a, b, "--method", "permutation", "--reference", tmp_path / "reference"),
        "plane": ("plane", a, b, base, *measured, "--resolution", 2, "--align", "none"),
        "ensemble": ("ensemble", a, b, *measured, "--align", "none"),
        "path": ("path", a, b, *measured, "--steps", 2, "--batch", 2, "--align", "none"),
    }
    for name, command in commands.items():
        for overwrite in ((), ("--overwrite",)):
            found = isthmus(*command, "-o", tmp_path / name, *overwrite)
            assert found.code == 0, found.err
        again = isthmus(*command, "-o", tmp_path / name)
        assert (again.code, "is not empty" in again.err) == (2, True), again.err
        pushed = isthmus("push", tmp_path / name, "me/model", "--dry-run")
        assert (pushed.code, "is not a merge that isthmus wrote" in pushed.err) == (2, True)
    assert {path.name for path in tmp_path.iterdir()} == {*commands, "reference"}


def test_json_is_replaced_where_it_is_a_result(world: Path, tmp_path: Path, isthmus: Callable[..., Outcome]) -> None:
    target = tmp_path / "result.json"
    target.touch()  # as mktemp makes one
    for _ in range(2):
        assert isthmus("check", world / "a", world / "b", "--json", target).code == 0
        assert json.loads(target.read_text())["command"] == "check"
    target.write_text('{"mine": 1}')
    assert isthmus("check", world / "a", world / "b", "--json", target).code == 2
    assert target.read_text() == '{"mine": 1}'
    for place in (tmp_path / "absent" / "x.json", tmp_path):
        found = isthmus("check", world / "a", world / "b", "--json", place)
        assert (found.code, "JSON file" in found.err) == (2, True)
    assert [path.name for path in tmp_path.iterdir()] == ["result.json"]


def test_json_into_a_pipe_and_through_a_link(world: Path, tmp_path: Path, isthmus: Callable[..., Outcome]) -> None:
    assert isthmus("check", world / "a", world / "b", "--json", "/dev/null").code == 0
    assert not Path("/dev/null").is_file()
    (tmp_path / "real.json").touch()
    (tmp_path / "link.json").symlink_to("real.json")
    assert isthmus("check", world / "a", world / "b", "--json", tmp_path / "link.json").code == 0
    assert (tmp_path / "link.json").is_symlink()
    assert json.loads((tmp_path / "real.json").read_text())["command"] == "check"


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    target = tmp_path / "x.json"
    target.write_text("old")
    target.chmod(0o600)
    with target.open() as reader:
        replace_file(target, "new")
        assert reader.read() == "old", "a reader that has begun reads on what it began"
    assert (target.read_text(), target.stat().st_mode & 0o777) == ("new", 0o600)
    assert [path.name for path in tmp_path.iterdir()] == ["x.json"]


@pytest.fixture
def volume(tmp_path: Path) -> Iterator[Path]:
    """A directory of its own file system."""
    place = tmp_path / "volume"
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "none", place], capture_output=True).returncode:
        pytest.skip("nothing can be mounted here")
    yield place
    subprocess.run(["umount", place], check=True)


def test_an_output_that_is_a_mount_point(world: Path, volume: Path, isthmus: Callable[..., Outcome]) -> None:
    """Said before the work; below it, everything goes."""
    merge = ("merge", world / "a", world / "b", *PLAIN, "--overwrite", "-o")
    found = isthmus(*merge, volume)
    assert (found.code, "is a mount point" in found.err) == (2, True), found.err
    assert f"'{volume.name}/merge'" in found.err
    for _ in range(2):
        assert isthmus(*merge, volume / "merge").code == 0
    assert [path.name for path in volume.iterdir()] == ["merge"]
    subprocess.run(["mount", "-o", "remount,ro", volume], check=True)
    for place in ("merge", "new"):
        found = isthmus(*merge, volume / place)
        assert (found.code, "cannot be" in found.err) == (2, True), found.err


def test_a_bind_mount_of_the_same_file_system(world: Path, tmp_path: Path, isthmus: Callable[..., Outcome]) -> None:
    for name in ("real", "out"):
        (tmp_path / name).mkdir()
    if subprocess.run(["mount", "--bind", tmp_path / "real", tmp_path / "out"], capture_output=True).returncode:
        pytest.skip("nothing can be mounted here")
    try:
        found = isthmus("merge", world / "a", world / "b", *PLAIN, "-o", tmp_path / "out")
        assert (found.code, "is a mount point" in found.err) == (2, True), found.err
    finally:
        subprocess.run(["umount", tmp_path / "out"], check=True)


def test_long_names_and_odd_ones(world: Path, tmp_path: Path, isthmus: Callable[..., Outcome]) -> None:
    merge = ("merge", world / "a", world / "b", *PLAIN, "-o")
    names = ("x" * 255, "ä" * 127, "[ab]*?", " ", "lock", "old", "new", "-o")
    for name in names:
        found = isthmus(*merge, tmp_path / name)
        assert found.code == 0, found.err
    assert {path.name for path in tmp_path.iterdir()} == set(names)
    shutil.rmtree(tmp_path / names[0])
    (tmp_path / "dangling").symlink_to("nowhere")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "file").touch()
    for name in ("x" * 256, "ä" * 128, "dangling", "loop", "loop/x", "file/out", "/".join(["d" * 200] * 30)):
        found = isthmus(*merge, tmp_path / name)
        assert (found.code, len(found.err.splitlines()), "unforeseen" in found.err) == (2, 1, False), found.err
