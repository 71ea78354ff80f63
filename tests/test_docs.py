"""What the documentation says of the command line, of the Python API and of other pages is true."""

from __future__ import annotations

import importlib
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest
import typer
from hub_server import TOKEN, HubServer

from isthmus.cli import app

ROOT = Path(__file__).parents[1]
PAGES = (ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md")))
REFERENCE = ROOT / "docs" / "commands.md"
PROGRAM: Any = typer.main.get_command(app)
OPTION = re.compile(r"--[a-z][a-z-]*")


def descend(words: list[str]) -> tuple[Any, list[str]]:
    """The command that a command line names, and the words behind its name."""
    command, rest = PROGRAM, list(words)
    while hasattr(command, "commands") and rest and rest[0] in command.commands:
        command = command.commands[rest.pop(0)]
    return command, rest


def every_command(command: Any = PROGRAM) -> list[Any]:
    if hasattr(command, "commands"):
        return [leaf for inner in command.commands.values() for leaf in every_command(inner)]
    return [command]


def options(command: Any) -> dict[str, Any]:
    """The parameters of a command by their long names; `--help` is not one of them."""
    return {
        name: parameter
        for parameter in command.params
        for name in (*parameter.opts, *parameter.secondary_opts)
        if name.startswith("--") and name != "--help"
    }


def command_lines(text: str) -> list[str]:
    """Everything that a page gives to copy and that runs isthmus: in `sh` as it is, in `console` behind a `$`."""
    lines = []
    for language, block in re.findall(r"^```(sh|console)\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
        for line in block.replace("\\\n", " ").splitlines():
            if language == "sh" or line.startswith("$ "):
                lines.append(line.removeprefix("$ "))
    return [line for line in lines if re.search(r"(^|[\s/])isthmus\s", line.split("#")[0])]


def arguments(line: str) -> list[str]:
    """The words behind `isthmus`, up to the end of that command."""
    words = shlex.split(line, comments=True)
    start = next(place for place, word in enumerate(words) if word.split("/")[-1] == "isthmus") + 1
    end = next((place for place, word in enumerate(words) if place > start and word in ("|", "&&", ">", "2>")), None)
    return words[start:end]


def inline_code(text: str) -> list[str]:
    outside = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    return [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", outside)]


def test_the_pages_hold_commands() -> None:
    assert len([line for page in PAGES for line in command_lines(page.read_text())]) > 30


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_to_copy_are_read_by_the_command_line(page: Path) -> None:
    for line in command_lines(page.read_text()):
        command, rest = descend(arguments(line))
        if "--help" in rest or "--version" in rest:
            continue
        assert not hasattr(command, "commands"), f"no such command: {line}"
        try:
            command.make_context(command.name, rest)
        except Exception as error:
            pytest.fail(f"{line}: {error}")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_options_in_sentences_exist(page: Path) -> None:
    anywhere = {name for command in every_command() for name in options(command)} | {"--help", "--version"}
    for code in inline_code(page.read_text()):
        names = set(OPTION.findall(code))
        if code.startswith("isthmus "):
            command, _ = descend(code.split()[1:])
            assert command is not PROGRAM or names & {"--help", "--version"} or code.split()[1] == "X", code
            if not hasattr(command, "commands"):
                assert names <= {*options(command), "--help"}, code
        elif code.startswith("-"):
            assert names <= anywhere, code


def sections() -> dict[str, str]:
    """The sections of the reference that are about commands: heading -> text."""
    parts = re.split(r"^## (.*)\n", REFERENCE.read_text(), flags=re.MULTILINE)[1:]
    return {heading: text for heading, text in zip(parts[::2], parts[1::2], strict=True) if "isthmus " in heading}


def commands_of(heading: str) -> list[Any]:
    """The commands that a heading is about: `isthmus lab relu | table DIR` is about two."""
    words = heading.replace(",", " ").replace("|", " ").split()
    if words[1] == "lab":
        return [command for name in words[2:] if not isinstance(command := descend(["lab", name])[0], type(PROGRAM))]
    return [descend(words[1:])[0]]


def test_the_reference_has_a_section_for_every_command() -> None:
    described = [command.name for heading in sections() for command in commands_of(heading)]
    assert {command.name for command in every_command()} <= set(described)


def test_the_reference_has_every_option_of_every_command() -> None:
    """In a section of that command; what trains bends is with `path`, how to push with `push`."""
    for command in every_command():
        headings = [heading for heading in sections() if command in commands_of(heading)]
        if command.name == "merge":
            headings += [heading for heading in sections() if heading.startswith(("isthmus path", "isthmus push"))]
        mentioned = {option for heading in headings for option in OPTION.findall(sections()[heading])}
        assert set(options(command)) <= mentioned, command.name


@pytest.mark.parametrize("heading", sections())
def test_tables_of_the_reference_have_the_options_and_defaults_of_the_command(heading: str) -> None:
    allowed: dict[str, Any] = {}
    for command in commands_of(heading):
        allowed |= options(command)
    text = sections()[heading]
    for table in re.findall(r"^\| option \|.*?\n(?:\|.*\n)+", text, re.MULTILINE):
        header, _, *rows = table.splitlines()
        for row in rows:
            cells = [cell.strip() for cell in row.strip("|").split("|")]
            names = OPTION.findall(cells[0])
            assert set(names) <= set(allowed), row
            if header.startswith("| option | default |"):
                given = [value.strip().strip("`") for value in cells[1].split(",")]
                values = [allowed[name].default for name in names]
                if len(given) == len(values) and not any(value is None or isinstance(value, bool) for value in values):
                    assert given == [str(value) for value in values], row


def test_the_two_commands_are_in_the_readme() -> None:
    text = (ROOT / "README.md").read_text()
    assert "make demo" in text
    assert "make test" in text


def anchors(page: Path) -> set[str]:
    """The names of a page's headings, as GitHub writes them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_page_of_timings_is_what_was_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    page = importlib.import_module("page")
    assert (ROOT / "docs" / "performance.md").read_text() == page.page()


def test_links_of_the_documentation_lead_somewhere() -> None:
    for page in PAGES:
        for link in re.findall(r"\]\(([^)\s]+)\)|src=\"([^\"]+)\"", page.read_text()):
            target, _, anchor = "".join(link).partition("#")
            if target.startswith("http"):
                continue
            other = page.parent / target if target else page
            assert other.exists(), f"{page.name}: {target}"
            assert not anchor or anchor in anchors(other), f"{page.name}: {target}#{anchor}"


def test_every_page_can_be_reached_from_the_readme() -> None:
    reached, waiting = set(), [ROOT / "README.md"]
    while waiting:
        page = waiting.pop()
        if page not in reached:
            reached.add(page)
            links = re.findall(r"\]\(([^)#\s]+\.md)", page.read_text())
            waiting += [(page.parent / link).resolve() for link in links if not link.startswith("http")]
    assert {page.resolve() for page in (ROOT / "docs").rglob("*.md")} <= {page.resolve() for page in reached}


def test_the_python_of_the_documentation_runs(hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As it stands there, from top to bottom, with embedded checkpoints, by a user who is logged in."""
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    blocks = re.findall(r"^```python\n(.*?)^```", (ROOT / "docs" / "python.md").read_text(), re.DOTALL | re.MULTILINE)
    assert blocks
    models = {"model-a": "adamw-1", "model-b": "muon-1", "base": "adamw-1", "ft-a": "docs", "ft-b": "code"}
    for name, model in models.items():
        shutil.copytree(ROOT / "lab" / "checkpoints" / model, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    exec(compile("\n".join(blocks), "python.md", "exec"), {})
    weights = (tmp_path / "merged" / "model.safetensors").read_bytes()
    assert hub.repos["user/merged"].files["model.safetensors"] == weights
    assert hub.repos["user/merged"].private
    assert (tmp_path / "sum" / "model.safetensors").exists()
