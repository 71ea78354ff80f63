from __future__ import annotations

from pathlib import Path

import pytest
from hub_server import TOKEN

from isthmus.checkpoint.check import check
from isthmus.checkpoint.checks.repository import base_models, derived_licence, licence_of


def card(directory: Path, *lines: str) -> Path:
    (directory / "README.md").write_text("\n".join(["---", *lines, "---", "# A model"]) + "\n")
    return directory


def of_kind(result, kind: str) -> list[str]:
    return [str(finding) for finding in result.findings if finding.kind == kind]


@pytest.mark.parametrize(
    ("licences", "expected"),
    [
        (("mit", "mit"), ("mit", "All parents are under mit.")),
        (("mit", "apache-2.0"), (None, "The licence is left open: the parents are under apache-2.0 and mit.")),
        (("mit", None), (None, "The licence is left open: one parent is under mit, the other names none.")),
        ((None, None), (None, "The licence is left open: the parents name none.")),
        (
            ("other (llama3)", "other (llama3)"),
            (None, "The licence is left open: the parents have terms of their own, other (llama3)."),
        ),
    ],
)
def test_the_licence_of_a_merge(licences: tuple, expected: tuple) -> None:
    assert derived_licence(licences) == expected


def test_metadata_in_all_its_shapes() -> None:
    assert licence_of({"license": "MIT "}) == "mit"
    assert licence_of({"license": ["mit"]}) == "mit"
    assert licence_of({"license": ["mit", "gpl-3.0"]}) is None
    assert licence_of({"license": "other", "license_name": "llama3"}) == "other (llama3)"
    assert licence_of({"license": 3}) is None
    assert base_models({"base_model": "a/b"}) == ("a/b",)
    assert base_models({"base_model": ["a/b", None, "c"]}) == ("a/b", "c")
    assert base_models({}) == ()


@pytest.mark.parametrize(
    ("a", "b", "kind", "sentence"),
    [
        ("mit", "apache-2.0", "notes", "the card leaves the licence open"),
        ("gpl-3.0", "cc-by-nc-4.0", "degrades", "do not publish the merge without permission"),
        ("cc-by-sa-4.0", "gpl-3.0", "degrades", "do not publish the merge without permission"),
        ("cc-by-nc-nd-4.0", "mit", "degrades", "it allows no derivatives to be shared"),
        ("gpl-3.0", "mit", "notes", "the card leaves the licence open"),
    ],
)
def test_licences_that_differ(saved, a: str, b: str, kind: str, sentence: str) -> None:
    found = check(card(saved("a"), f"license: {a}"), card(saved("b", 1), f"license: {b}"))
    assert any(sentence in finding for finding in of_kind(found, kind))
    assert found.mergeable


def test_one_licence_is_nothing_to_tell(saved) -> None:
    found = check(card(saved("a"), "license: mit"), card(saved("b", 1), "license: mit"))
    assert not any("licence" in str(finding) for finding in found.findings)


def test_a_shared_ancestor_and_a_parent(hub, saved) -> None:
    hub.add("user/base", saved("base"))
    hub.add("user/child-1", card(saved("one", 1), "base_model: user/base"))
    hub.add("user/child-2", card(saved("two", 2), "base_model:", "- user/base", "- user/more"))
    siblings = check("user/child-1", "user/child-2")
    shared = "were both made from 'user/base', according to their cards"
    assert any(shared in note for note in of_kind(siblings, "notes"))
    family = check("user/base", "user/child-1")
    parent = "'user/child-1' was made from 'user/base', according to its card"
    assert any(parent in note for note in of_kind(family, "notes"))


def test_gated_and_private_repositories_are_noted_for_those_who_may_read_them(hub, saved, monkeypatch) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    hub.add("user/closed-a", saved("a"), gated=True)
    hub.add("user/closed-b", saved("b", 1), private=True)
    notes = of_kind(check("user/closed-a", "user/closed-b"), "notes")
    assert any(note.startswith("'user/closed-a' is gated: users of the merge") for note in notes)
    assert any(note.startswith("'user/closed-b' is private: the card of the merge will name it") for note in notes)


@pytest.mark.parametrize("text", ["---\nlicense: [\n---\n", "---\n- a\n---\n", "no metadata", "\xff"])
def test_a_card_that_is_no_card(saved, text: str) -> None:
    directory = saved("a")
    (directory / "README.md").write_text(text, encoding="latin-1")
    assert check(directory, saved("b", 1)).mergeable
