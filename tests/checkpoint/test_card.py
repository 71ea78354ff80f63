"""The model card: what the Hub understands of it, what people read, and what must not be in it."""

from __future__ import annotations

import getpass
import math
import os
import re
import shlex
import socket
import tempfile
from pathlib import Path

import pytest
import yaml
from conftest import EMBEDDED
from hub_server import TOKEN, HubServer
from huggingface_hub import ModelCard
from merging import merge

import isthmus
from isthmus.merge.plans import CurvePlan

DATA = ("stdlib:docs:heldout", "stdlib:code:heldout")


@pytest.fixture(scope="module")
def merged(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    """A merge of local models with the text in a local file, under names that only this machine has."""
    home = tmp_path_factory.mktemp("someones-home")
    text = home / "my-notes.txt"
    text.write_text("The quick brown fox jumps over the lazy dog, and then it sits down to read. " * 400)
    data = [f"notes={text}", DATA[0]]
    found = merge(EMBEDDED / "docs", EMBEDDED / "code", data=data, tokens=256)
    return home / "merged", found.save(home / "merged")


def test_the_hub_validates_it(hub: HubServer, merged) -> None:
    card = ModelCard.load(merged[0] / "README.md")
    card.validate()
    data = card.data.to_dict()
    assert data["library_name"] == "transformers"
    assert data["pipeline_tag"] == "text-generation"
    assert data["tags"] == ["merge", "isthmus"]
    assert "base_model" not in data  # nothing on the Hub
    assert "license" not in data
    losses = merged[1]["merge_point"]["losses"]
    found = {(r.dataset_name, r.metric_type): r.metric_value for r in card.data.eval_results}
    assert found == pytest.approx(
        {(label, "loss"): loss for label, loss in losses.items()}
        | {(label, "perplexity"): math.exp(loss) for label, loss in losses.items()},
        abs=1e-3,
    )


def test_the_validation_of_the_tests_finds_faults(hub: HubServer, merged) -> None:
    card = ModelCard.load(merged[0] / "README.md")
    card.data.pipeline_tag = ["x"]
    with pytest.raises(ValueError, match="pipeline_tag"):
        card.validate()


def test_nothing_of_this_machine_is_in_what_is_written(merged) -> None:
    directory, _ = merged
    private = {
        str(Path.home()),
        str(directory.parent),
        directory.parent.name,
        str(EMBEDDED),
        str(Path.cwd()),
        tempfile.gettempdir(),
        f"{getpass.getuser()}@",
        TOKEN,
        *(value for name, value in os.environ.items() if "TOKEN" in name and value),
    }
    words = rf"(?<!\w)({re.escape(socket.gethostname())}|/{re.escape(getpass.getuser())})(?!\w)"
    for path in directory.iterdir():
        content = path.read_bytes()
        for string in private:
            assert string.encode() not in content, f"{string} in {path.name}"
        if path.suffix in (".md", ".json", ".html"):
            assert re.search(words, content.decode()) is None, path.name


def test_where_a_tokenizer_was_loaded_from_is_left_out(saved, tmp_path: Path) -> None:
    import json

    ends = [saved(name, seed, tokenizer=True, vocab_size=1024) for seed, name in enumerate("ab")]
    settings = json.loads((ends[0] / "tokenizer_config.json").read_text())
    places = {"name_or_path": "/home/somebody/model", "special_tokens_map_file": "/home/somebody/x.json"}
    for end in ends:
        (end / "tokenizer_config.json").write_text(json.dumps({**settings, **places}))
    merge(*ends, align="none", t=0.5).save(tmp_path / "out")
    assert json.loads((tmp_path / "out" / "tokenizer_config.json").read_text()) == settings


def test_it_has_a_figure_and_a_table(merged) -> None:
    text = (merged[0] / "README.md").read_text()
    assert "![Loss along the path from A to B](path.png)" in text
    assert (merged[0] / "path.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    rows = re.findall(r"^\| (?:\*\*)?(A: docs|B: code|naive average|merge at t|ensemble of A and B)", text, re.M)
    assert rows == ["A: docs", "B: code", "naive average", "merge at t", "ensemble of A and B"]
    assert "| optimizer | adamw (recipe.json says adamw) | adamw (recipe.json says adamw) |" in text
    assert "- spectrum preserved:" in text
    assert "`./docs` and `./code` are on the disk of whoever made the merge." in text


def test_a_merge_without_text_has_no_figure(tmp_path: Path) -> None:
    merge(EMBEDDED / "docs", EMBEDDED / "code", align="none", t=0.5).save(tmp_path / "out")
    text = (tmp_path / "out" / "README.md").read_text()
    assert "path.png" not in text
    assert not (tmp_path / "out" / "path.png").exists()
    assert "model-index" not in text


@pytest.mark.parametrize(
    ("licences", "expected"), [(("mit", "mit"), "mit"), (("mit", "gpl-3.0"), None), (("mit", None), None)]
)
def test_the_licence_is_the_parents_or_left_open_with_the_reason(
    saved, tmp_path: Path, licences: tuple, expected: str | None
) -> None:
    ends = [saved(name, seed) for seed, name in enumerate("ab")]
    for end, licence in zip(ends, licences, strict=True):
        if licence:
            (end / "README.md").write_text(f"---\nlicense: {licence}\n---\n")
    report = merge(*ends, align="none", t=0.5).save(tmp_path / "out")
    text = (tmp_path / "out" / "README.md").read_text()
    assert ModelCard(text).data.license == expected
    assert text.rstrip().endswith(report["license_reason"])


@pytest.mark.parametrize("name", ["a: b", "# x", 'it\'s "quoted"', "[list]", "{{ braces }}", "null"])
def test_names_that_are_no_plain_words(hub: HubServer, saved, tmp_path: Path, name: str) -> None:
    """They are the user's to choose, and must break neither the metadata nor the command."""
    a, b = saved(name), saved("b", 1)
    merge(a, b, align="none", t=0.5).save(tmp_path / "out")
    text = (tmp_path / "out" / "README.md").read_text()
    ModelCard(text).validate()
    command = re.search(r"```sh\n(.*)\n```", text)
    assert command is not None
    assert shlex.split(command[1])[2:4] == [f"./{name}", "./b"]
    assert isinstance(yaml.safe_load(text.split("---")[1]), dict)


def test_the_command_repeats_what_was_asked(hub: HubServer, tmp_path: Path) -> None:
    hub.add("user/repeat", EMBEDDED / "docs", "deep")
    plan = CurvePlan("bezier", 2, "lion", training=isthmus.PathTraining(steps=4, batch=4, lr=3e-4))
    found = merge(
        "user/repeat:deep",
        EMBEDDED / "code",
        data=[f"words={DATA[0]}"],
        path=plan,
        align="permutation",
        fit_on=["words"],
        t=0.25,
        tokens=256,
        seed=3,
        objective="worst",
        optimizers=("adamw", None),
        restore=True,
        measure_spectrum=False,
    )
    assert found.spectra == {}
    assert found.report["reproduce"] == (
        f"isthmus merge user/repeat@{'a' * 40}:deep ./code -o merged --data words={DATA[0]} --path bezier --bends 2 "
        "--bend-optimizer lion --steps 4 --batch 4 --bend-lr 0.0003 --align permutation --t 0.25 "
        "--fit-on words --no-spectrum --restore-spectrum --tokens 256 --seed 3 --optimizer-a adamw"
    )


def test_the_command_is_understood_and_gives_the_same_weights(merged, tmp_path: Path, isthmus, monkeypatch) -> None:
    """In a folder with the models and the text under their last names."""
    directory, report = merged
    for name in ("docs", "code"):
        (tmp_path / name).symlink_to(EMBEDDED / name)
    (tmp_path / "my-notes.txt").write_text((directory.parent / "my-notes.txt").read_text())
    monkeypatch.chdir(tmp_path)
    words = shlex.split(report["reproduce"])
    assert words[0] == "isthmus"
    assert isthmus(*words[1:]).code == 0
    again, first = (place / "model.safetensors" for place in (tmp_path / "merged", directory))
    assert again.read_bytes() == first.read_bytes()
