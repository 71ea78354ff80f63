"""Every study at less than its quick size, by the command line: its record, and that nothing is computed twice."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from statistics import mean
from typing import Any

import pytest

from isthmus.checkpoint.errors import BadInput
from isthmus.eval.spectrum import APART, USUAL
from isthmus.lab.options import QUICK, Effort, StudyOptions, WidthPlan
from isthmus.lab.pairs import OPTIMIZERS, kinds, pairs, training_recipe
from isthmus.lab.planes import triples
from isthmus.lab.spectra_study import calibrate, expected_verdict, verdict
from isthmus.lab.studies import STUDIES, run_study
from isthmus.lab.table import WAYS, rows
from isthmus.lab.width import effort_of, fits, recipe
from isthmus.lab.width import table as width_table

STUDIES_OF_RECORD = Path(__file__).parents[2] / "docs" / "studies"


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("studies")


SMALL = replace(QUICK.effort, pretraining=12, learning=8, tokens=256, looked_at=1024, plane=3)


@pytest.mark.parametrize("name", STUDIES)
def test_a_quick_study_by_the_command_line(
    name: str, directory: Path, isthmus: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("isthmus.lab.options.QUICK", replace(QUICK, effort=SMALL))
    done = isthmus("lab", name, directory, "--quick", "--workers", "1", "--json", directory / "printed.json")
    assert done.code == 0, done.err
    record = json.loads((directory / f"{name}.json").read_text())
    assert record == json.loads((directory / "printed.json").read_text())
    assert record["study"] == name
    assert record["settings"]["seeds"] == 2
    assert set(record["versions"]) == {"isthmus", "torch", "transformers"}
    assert record["machine"].startswith(f"{os.cpu_count()} cores")
    assert (directory / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    CHECKS[name](record)

    parts = {file: file.stat().st_mtime_ns for file in directory.rglob("*.json") if file.parent != directory}
    isthmus("lab", name, directory, "--quick", "--workers", "1")
    assert parts == {file: file.stat().st_mtime_ns for file in directory.rglob("*.json") if file.parent != directory}


def relu(record: dict[str, Any]) -> None:
    assert record["barrier"]["certificate"]["bound"] == "1/4"
    for optimizer in OPTIMIZERS:
        wide = record[f"connectivity, {optimizer}, 32"]
        assert all(path is not None and path["over_ends"] < 1e-9 for path in wide["constructed"])
        tight = record[f"constraint, {optimizer}, 4.0"]
        assert max(tight["spectral" if optimizer == "muon" else "entrywise"]) * 4.0 == pytest.approx(1, abs=0.05)


def table(record: dict[str, Any]) -> None:
    assert len(record["pairs"]) == 6
    assert len(record["table"]) == 6 * len(WAYS)
    for pair in record["pairs"].values():
        for way in WAYS:
            losses = pair["losses"][way]
            straight = [losses[0] + t / 10 * (losses[-1] - losses[0]) for t in range(11)]
            highest = max(loss - line for loss, line in zip(losses, straight, strict=True))
            assert pair["barriers"][way] == pytest.approx(max(0, highest), abs=1e-9)


def spectra(record: dict[str, Any]) -> None:
    assert len(record["pairs"]) == 15, "all pairs of six models"
    for path in record["paths"].values():
        assert [point["position"] for point in path["points"]][:: len(path["points"]) - 1] == pytest.approx([0, 1])
    assert [one["name"] for one in record["thresholds"]] == ["same_kind", "max_excess", "max_excess_apart"]
    assert record["of_known_kind"] == 15 + 6, "all averages, and paths that an optimizer of an end has bent"


def generalization(record: dict[str, Any]) -> None:
    for pair in record["pairs"].values():
        for text in ("docs", "code"):
            losses = pair[text]
            assert losses["third_over_two"][0] == pytest.approx(losses["two"] - losses["three"], abs=1e-9)
            assert losses["two"] <= mean(losses["ends"]) + 1e-9, "by Jensen's inequality"
            assert losses["barrier"] == pytest.approx(max(losses["excess"]))
            assert losses["excess"][0] == losses["excess"][-1] == pytest.approx(0, abs=1e-12)
    assert list(record["fits"]) == ["adamw-1, adamw-2", "adamw-1, muon-1", "muon-1, muon-2"]
    for ways in record["fits"].values():
        assert list(ways) == ["closed form", "learned", "one bend", "learned, no text", "one bend, no text"]
        for texts in ways.values():
            assert list(texts) == ["docs", "code", "written by the models"]
            for text in texts.values():
                assert text["barrier"] == pytest.approx(max(text["excess"]))
                assert text["excess"][0] == text["excess"][-1] == pytest.approx(0, abs=1e-12)
        middles = {way: texts["docs"]["excess"][5] for way, texts in ways.items()}
        assert middles["one bend"] != middles["closed form"]


def planes(record: dict[str, Any]) -> None:
    assert list(record["planes"]) == ["adamw-1, muon-1, lion-1"]
    for ways in record["planes"].values():
        for way in ("before", "after"):
            plane, average = ways[way]["plane"], ways[way]["average"]
            assert len(plane["loss"]) == len(plane["loss"][0]) == len(plane["x"])
            assert ways[way]["excess"][0] == pytest.approx(average - mean(ways[way]["ends"]), abs=1e-9)
        assert ways["after"]["ends"] == pytest.approx(ways["before"]["ends"], abs=1e-4), "alignment keeps functions"


def practice(record: dict[str, Any]) -> None:
    assert len(record["merges"]) == 9
    for merge in record["merges"].values():
        assert merge["gain"][0] == pytest.approx(min(merge["ends"]) - merge["average"], abs=1e-9)
    for run in record["further"].values():
        assert set(run) == {"docs", "code", "average"}
        assert all(start["after"] != start["before"] for start in run.values())


def width(record: dict[str, Any]) -> None:
    assert list(record["pairs"]) == [
        f"{width}, {name}-1, {name}-2" for width in QUICK.widths.widths for name in ("adamw", "muon")
    ]
    for row in record["table"]:
        pair = record["pairs"][f"{row['width']}, {row['optimizer']}-1, {row['optimizer']}-2"]
        ends = pair["losses"]["naive"]
        assert row["loss"] == pytest.approx(mean((ends[0], ends[-1])))
        assert all(row[way] == {"mean": pair["barriers"][way], "std": 0.0} for way in WAYS)
    assert len(record["fits"]) == 2 * len(WAYS)


CHECKS = {
    "relu": relu,
    "table": table,
    "spectra": spectra,
    "planes": planes,
    "generalization": generalization,
    "practice": practice,
    "width": width,
}


def test_other_settings_are_refused(tmp_path: Path) -> None:
    (tmp_path / "settings.json").write_text(json.dumps(asdict(QUICK)))
    with pytest.raises(BadInput, match="holds parts of a study with other settings"):
        run_study("relu", tmp_path, StudyOptions())


def test_a_text_that_is_not_there_is_refused_before_models_are_trained(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"no text at 'nothing\.txt'"):
        run_study("generalization", tmp_path, StudyOptions(quick=True, other_texts=("nothing.txt",)))
    assert not (tmp_path / "models").exists()


def test_five_pairs_of_every_kind_of_fifteen_models() -> None:
    by_kind = {kind: pairs(kind) for kind in kinds()}
    assert len(by_kind) == 6
    assert all(len(set(couples)) == 5 for couples in by_kind.values())
    models = {name for couples in by_kind.values() for couple in couples for name in couple}
    assert len(models) == 15
    assert all(a != b for couples in by_kind.values() for a, b in couples)
    seeds = {
        training_recipe(f"{optimizer}-{number}", Effort()).seed for optimizer in OPTIMIZERS for number in range(1, 6)
    }
    assert len(seeds) == 15


def test_twenty_planes_through_fifteen_models() -> None:
    planes = triples(5)
    assert len(set(planes)) == 20
    assert {len({name.split("-")[0] for name in names}) for names in planes} == {1, 3}
    assert all(len(set(names)) == 3 for names in planes)
    assert len({name for names in planes for name in names}) == 15


def test_the_table_sums_up_barriers() -> None:
    barriers = [dict.fromkeys(WAYS, 1.0), dict.fromkeys(WAYS, 3.0)]
    pairs = {f"adamw-{n}, muon-{n}": {"barriers": barriers[n - 1]} for n in (1, 2)}
    row = rows(pairs)[0]
    assert (row.kind, row.way, row.mean, row.barriers) == ("adamw-muon", "naive", 2.0, (1.0, 3.0))
    assert row.std == pytest.approx(2**0.5)


def test_thresholds_are_chosen_on_one_half_and_tested_on_the_other() -> None:
    def couple(distance: float, excess: float) -> dict[str, Any]:
        return {"distance": distance, "average": {"excess": excess}}

    def path(*excesses: float) -> dict[str, Any]:
        return {"points": [{"excess": excess} for excess in excesses]}

    pairs_found = {
        "adamw-1, adamw-2": couple(0.1, 0.3),
        "adamw-1, muon-1": couple(0.5, 0.06),
        "adamw-2, adamw-3": couple(0.6, 0.3),  # held out, and on the wrong side
        "adamw-2, muon-2": couple(0.7, 0.05),
    }
    paths = {
        "adamw-1, adamw-2, adamw": path(0.0, 0.1, 0.0),
        "adamw-1, adamw-2, muon": path(0.0, 0.9, 0.0),  # of no known kind
        "adamw-2, adamw-3, adamw": path(0.0, 0.21, 0.0),  # on the wrong side
        "adamw-1, muon-1, adamw": path(0.0, 0.02, 0.0),
        "adamw-2, muon-2, muon": path(0.0, 0.03, 0.0),
    }
    kind, excess, between = calibrate(paths, pairs_found)
    assert (kind.name, kind.chosen, kind.area, kind.wrong) == ("same_kind", pytest.approx(0.3), 1.0, 1)
    assert (kind.low, kind.high) == ((0.6,), (0.7,))
    assert (excess.name, excess.chosen, excess.wrong) == ("max_excess", pytest.approx(0.2), 1)
    assert (between.name, between.chosen, between.wrong) == ("max_excess_apart", pytest.approx(0.04), 0)


def test_power_laws_of_barriers_are_found_and_go_on() -> None:
    losses = {"naive": [3.0, 5.0, 3.2]}
    barriers = {way: (lambda width: 100 / width) for way in WAYS} | {"one bend": lambda width: max(0.0, 96 - width)}
    measured = {
        f"{width}, {name}-1, {name}-2": {"losses": losses, "barriers": {way: of(width) for way, of in barriers.items()}}
        for width in (64, 128, 256)
        for name in ("adamw", "muon")
    }
    found = {(fit["optimizer"], fit["way"]): fit for fit in fits(measured)}
    law = found["muon", "combined"]
    assert law["exponent"] == pytest.approx(-1)
    assert law["beyond"]["GPT-2 small"]["barrier"] == pytest.approx(100 / 768)
    assert found["adamw", "one bend"]["without"] == 2
    assert found["adamw", "one bend"]["exponent"] is None
    assert [row["loss"] for row in width_table(measured)] == pytest.approx([3.1] * 6)


def test_wider_models_are_trained_alike() -> None:
    effort, plan = Effort(), WidthPlan()
    narrow, wide = (recipe("adamw-1", width, effort, plan) for width in (128, 512))
    assert narrow.adamw_lr == training_recipe("adamw-1", effort).adamw_lr == 2 * wide.adamw_lr
    assert (narrow.steps, wide.steps) == (530, 220)
    config = effort_of(512, effort, plan).config()
    assert (config.n_embd, config.n_head, config.n_layer) == (512, 16, 2)


def test_verdicts_come_from_the_numbers() -> None:
    def path(distance: float, excess: float) -> dict[str, Any]:
        points = [{"t": t, "excess": excess * 4 * t * (1 - t), "position": t} for t in (0.0, 0.5, 1.0)]
        return {"points": points, "middle": {"distance": distance}}

    assert [verdict(path(*numbers)) for numbers in ((0.1, 0.09), (0.5, 0.03), (0.5, 0.09))] == [
        "preserved",
        "transition",
        "broken",
    ]
    assert verdict({"average": {"excess": 0.05, "distance": 0.5, "log_ratio": -0.1}}) == "contracted"
    assert expected_verdict("adamw-1, muon-1, muon") == "transition"
    assert expected_verdict("adamw-1, adamw-2, muon") is None


def test_the_thresholds_of_isthmus_are_right_on_the_pairs_that_were_measured() -> None:
    """By the record of the full study: the verdict on every path and average of known kind, and both halves."""
    record = json.loads((STUDIES_OF_RECORD / "spectra.json").read_text())
    numbers = {**record["paths"], **record["pairs"]}
    judged = [name for name in numbers if expected_verdict(name)]
    assert len(judged) == record["of_known_kind"] == 135
    for name in judged:
        assert verdict(numbers[name]) == expected_verdict(name), name
    distances: dict[bool, list[float]] = {True: [], False: []}
    for name, pair in record["pairs"].items():
        one, other = (end.split("-")[0] for end in name.split(", "))
        distances[one == other].append(pair["distance"])
    assert max(distances[True]) < USUAL.same_kind < min(distances[False])
    for threshold, used in zip(
        record["thresholds"], (USUAL.same_kind, USUAL.max_excess, APART * USUAL.max_excess), strict=True
    ):
        assert max(threshold["low"]) < threshold["chosen"] < min(threshold["high"]), "held out"
        assert max(threshold["low"]) < used < min(threshold["high"])
