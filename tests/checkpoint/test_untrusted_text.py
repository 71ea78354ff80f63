"""Strangers' text in a terminal and in a card: one line, visible, short, and no markup."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from isthmus.checkpoint.card import metadata
from isthmus.checkpoint.checks.repository import derived_licence, licence_of
from isthmus.checkpoint.front_matter import front_matter
from isthmus.checkpoint.untrusted_text import code, fence, json_text, markdown, plain, shortened

MEMBERS = {
    "escape": "\x1b[31mred",
    "nul": "a\x00b",
    "C1": "a\x9b2Jb",
    "bidi": "a\u202eb\u2066c",
    "zero width": "a\u200b\ufeffb",
    "line separators": "a\u2028b\u2029c\x85d",
    "newline": "a\r\n# b",
    "tag characters": "a\U000e0041b",
    "a filler": "a\u3164b",
    "a surrogate": "a\udc80b",
    "marks": "a" + "\u0301" * 50,
}


@pytest.mark.parametrize("name", MEMBERS)
def test_a_terminal_gets_one_line_of_visible_characters(name: str) -> None:
    shown = plain(MEMBERS[name])
    assert shown.isprintable()
    assert shown != MEMBERS[name]
    assert "\u3164" not in shown
    assert shown.count("\u0301") <= 3


@given(st.text(max_size=300))
def test_any_text_is_one_printable_line(text: str) -> None:
    assert plain(text).isprintable()
    assert json.loads(json_text({"text": text})) == {"text": text}


def test_words_of_other_scripts_stay() -> None:
    for word in ("模型", "модель", "हिन्दी", "ไทย", "Ünïcödé"):
        assert plain(word) == word


def test_long_text_is_cut() -> None:
    assert plain("x" * 10**6) == "x" * 200 + "…"
    assert shortened({"k" * 9: ["x" * 9]}, 3) == {"kkk…": ["xxx…"]}


@pytest.mark.parametrize(
    "text",
    [
        *("![i](http://evil.example/i.png)", "[t](javascript:x)", "<script>", "a | b", "`x`", "**b**", "_i_", "~~s~~"),
        *("&lt;", "http://evil.example", "www.evil.example", "a@evil.example", "$x$", "{{ x }}", "\\[x]"),
    ],
)
def test_markdown_is_escaped(text: str) -> None:
    shown = markdown(text)
    bare = re.sub(r"\\.", "", shown)
    assert not re.search(r"[\[\]<>|`*~$&{}]|(?<!\w)_|_(?!\w)|://|www\.\w|@\w", bare)


def test_blocks_of_markdown_are_escaped() -> None:
    for text in ("# h", "- item", "1. item", "---", "===", "> quote"):
        assert re.match(r"\\|\d+\\", markdown(text))


def test_ordinary_names_stay() -> None:
    for name in ("gpt2", "user/some_model-1.5B@main", "adamw (training_args.bin says adamw_torch)"):
        assert markdown(name) == name


def test_code_cannot_be_closed() -> None:
    assert code("a`b|c") == "`a'b¦c`"
    assert fence("isthmus merge '```'") == "````"
    assert fence("isthmus") == "```"


@pytest.mark.parametrize("licence", ["evil", "mit\n# x", "<b>", "MIT OR evil", "x" * 10**5])
def test_a_licence_is_one_of_the_hubs_or_other(licence: str) -> None:
    shown = licence_of({"license": licence})
    assert shown is not None
    assert shown.startswith("other (")
    assert len(shown) < 100
    assert shown.isprintable()
    assert derived_licence([shown, shown])[0] is None


def test_only_ids_of_repositories_are_parents() -> None:
    ends = [{"ref": name, "on_hub": True} for name in ("user/model@main", "user/模型", "a/b/c", "x" * 200)]
    report = {
        "merge_point": {"losses": {"a\nb: c": 1.0}},
        "endpoints": ends,
        "license": "evil",
        "task": "text-generation",
    }
    content = yaml.safe_load(metadata(report, "name\n---\nx: y").to_yaml())
    assert content["base_model"] == ["user/model"]
    assert "license" not in content
    assert "x" not in content


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("---\nlicense: mit\nbase_model:\n- a/b\n---\n", {"license": "mit", "base_model": ["a/b"]}),
        ("---\nlicense: mit\nmodel-index: [{a: {b: c}}]\n---\n", {"license": "mit"}),
        ("no metadata", {}),
        ("---\na: &a [x]\nlicense: *a\n---\n", None),
        ("---\nlicense: [\n---\n", None),
        ("---\nlicense: mit\n", None),
        ("---\n" + "a: b\n" * 200_000 + "---\n", None),
    ],
)
def test_front_matter(text: str, expected: dict | None) -> None:
    assert front_matter(text) == expected


def test_a_directory_with_a_hostile_name(saved, tmp_path: Path, isthmus) -> None:
    a = saved("\x1b[31m[red]|`x`\n# h\u202e", 0, vocab_size=1024)
    found = isthmus("merge", a, saved("b", 1, vocab_size=1024), "-o", tmp_path / "out", "--align", "none", "--t", "0.5")
    assert found.code == 0, found.err
    assert all(char == "\n" or char.isprintable() for char in found.err)
    card = (tmp_path / "out" / "README.md").read_text()
    assert all(char == "\n" or char.isprintable() for char in card)
    assert not re.search(r"^# h", card, re.MULTILINE)
    assert json.loads((tmp_path / "out" / "isthmus.json").read_text())["endpoints"][0]["ref"].isprintable()


def test_aliases_of_a_recipe_are_counted(tmp_path: Path, isthmus) -> None:
    levels = "\n".join(f"a{n + 1}: &a{n + 1} [{', '.join([f'*a{n}'] * 10)}]" for n in range(12))
    recipe = tmp_path / "recipe.yml"
    for text, part in (
        (f"a0: &a0 [x]\n{levels}\nmodels: *a12\n", "entries once its aliases"),
        ("models: &m [*m]\n", "a part of"),
        ("models: " + "x" * 2000, "1,000 characters"),
        ("#" * 2**20, "more than the"),
    ):
        recipe.write_text(text)
        found = isthmus("merge", recipe, "-o", tmp_path / "out")
        assert found.code == 2
        assert part in found.err
