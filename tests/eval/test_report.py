"""The page, as a browser sees it where there is one, and as text."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest
from conftest import EMBEDDED
from merging import merge

from isthmus.merge.plans import CurvePlan, PathTraining

DATA = ("stdlib:docs:heldout", "stdlib:code:heldout")
BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
PLAN = CurvePlan(training=PathTraining(steps=4, batch=4))


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of a merge on a curve."""
    out = tmp_path_factory.mktemp("report") / "out"
    ends = EMBEDDED / "adamw-1", EMBEDDED / "muon-1"
    merge(*ends, data=DATA, tokens=512, align="orthogonal", path=PLAN, restore=True).save(out)
    return out / "report.html"


class Tags(HTMLParser):
    def __init__(self, text: str):
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.tags.append((tag, dict(attrs)))


def test_it_is_one_small_file_that_needs_no_other(page: Path) -> None:
    text = page.read_text()
    assert len(text.encode()) < 2_000_000
    for tag, attributes in Tags(text).tags:
        assert tag not in ("link", "img", "iframe")
        assert not {"src", "href"} & attributes.keys()
    assert "http" not in re.sub(r"http://www\.w3\.org/2000/svg", "", text)


def test_every_control_has_a_label_and_every_chart_words(page: Path) -> None:
    text = page.read_text()
    for control in re.findall(r"<(?:select|input)[^>]*>", text):
        before = text[: text.index(control)]
        assert before.rfind("<label>") > before.rfind("</label>")
    charts = [attributes for _, attributes in Tags(text).tags if attributes.get("class") == "chart"]
    assert len(charts) == 4
    assert all(len(chart["data-label"]) > 20 for chart in charts)
    assert 'lang="en"' in text
    assert 'name="viewport"' in text


def test_its_data_are_those_of_the_report(page: Path) -> None:
    report = json.loads((page.parent / "isthmus.json").read_text())
    script = re.search(r'<script type="application/json" id="data">(.*?)</script>', page.read_text(), re.DOTALL)
    assert script
    data = json.loads(script.group(1))
    assert [profile["name"] for profile in data["profiles"]] == [
        "without alignment",
        "straight line, aligned",
        "polychain",
    ]
    assert data["profiles"][2]["points"] == report["profile"]
    assert data["plane"] == report["plane"]
    assert data["spectra"]["t"] == [point["t"] for point in report["path_spectrum"]["points"]]
    assert len(data["spectra"]["matrices"]) == 24
    for matrix in data["spectra"]["matrices"].values():
        assert len(matrix["shares"]) == len(matrix["stable_rank"]) == len(data["spectra"]["t"])
        assert all(len(shares) == len(matrix["edges"]) - 1 for shares in matrix["shares"])


@pytest.mark.skipif(BROWSER is None, reason="no browser here")
def test_a_browser_draws_every_chart(page: Path, tmp_path: Path) -> None:
    assert BROWSER
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=5000", "--enable-logging=stderr"]
    command = [BROWSER, *options, f"--user-data-dir={tmp_path}", "--dump-dom", page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    drawn = re.findall(
        r'<div class="chart" id="([\w-]+)"[^>]*><svg role="img" aria-label="[^"]+".*?</svg>', done.stdout
    )
    assert drawn == ["loss-chart", "plane-chart", "spectrum-chart", "rank-chart"]
    for shape in ("curve naive", "curve line", "curve bent", "band bent", "route", "curve end-a", "merge"):
        assert f'class="{shape}"' in done.stdout
    assert re.search(r'id="loss-read"[^>]*>t = \d', done.stdout)
    assert "NaN" not in re.sub(r"<script.*?</script>", "", done.stdout, flags=re.DOTALL)
    assert "Uncaught" not in done.stderr


def test_a_single_text_needs_no_choice_between_texts(page: Path, tmp_path: Path) -> None:
    merged = merge(
        EMBEDDED / "docs", EMBEDDED / "code", data=DATA[:1], tokens=256, align="none", measure_spectrum=False
    )
    merged.save(tmp_path / "out")
    for file, hidden in ((page, False), (tmp_path / "out" / "report.html", True)):
        controls = [attributes for tag, attributes in Tags(file.read_text()).tags if tag == "div"]
        first = next(attributes for attributes in controls if attributes.get("class") == "controls")
        assert ("hidden" in first) == hidden
