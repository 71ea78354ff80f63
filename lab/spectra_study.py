"""The study of spectra along paths, and the calibration of the thresholds of the spectrum verdict.

Along every path between two models of the studies, with its bend trained by AdamW or by Muon: stable ranks, spectral
excess and position. For the calibration, all pairs of models are split in two halves: on one the thresholds are chosen,
on the other they are tested. The distance of two models should show whether one optimizer trained both; the excess of a
merge, whether it is an average of models that were not aligned, or a point of a path.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import combinations, pairwise
from pathlib import Path
from statistics import mean
from typing import Any

from ..eval.barrier import profile
from ..eval.progress import Progress
from ..eval.spectrum import Spectrum, along_path, among, judged, judged_path, mean_distance, stable_rank
from ..merge.path import WeightPath
from ..merge.plans import OptimizerName
from ..merge.spectra import spectrum
from .options import Effort, StudyOptions
from .pairs import kinds, loss_meter, model, model_names, optimizer_of, pairs, train_models, trained_path
from .parts import compute

POINTS = (0.0, 0.17, 0.33, 0.5, 0.67, 0.83, 1.0)
SHOWN = "h.1.fc"  # the matrix that Zhang et al. show


@dataclass(frozen=True)
class Threshold:
    """A threshold of one number: the area under its ROC curve and its value from one half, errors on the other.

    `low` are the numbers of pairs that should be below it and `high` those above, in the half that was held out.
    """

    name: str
    area: float
    chosen: float
    low: tuple[float, ...]
    high: tuple[float, ...]

    @property
    def wrong(self) -> int:
        """The number of held-out pairs on the wrong side."""
        return sum(value >= self.chosen for value in self.low) + sum(value < self.chosen for value in self.high)


def spectra_study(directory: Path, options: StudyOptions, progress: Progress) -> dict[str, Any]:
    """Spectra of all paths and the calibration, JSON-ready; models and paths that are in `directory` are used."""
    names, workers = model_names(options.size.seeds), options.workers
    train_models(directory, names, options, progress)
    parts = {
        f"{a}, {b}, {by}": partial(path_spectra, directory, a, b, by, options.size.effort)
        for kind in kinds()
        for a, b in pairs(kind, options.size.seeds)
        for by in bend_optimizers(kind)
    }
    paths = compute(directory / "spectra", parts, "spectra along paths", workers, progress)
    couples = {f"{a}, {b}": partial(pair_spectra, directory, a, b) for a, b in combinations(names, 2)}
    distances = compute(directory / "distances", couples, "spectra of pairs", workers, progress)
    judged_all = {name: record | {"verdict": verdict(record)} for name, record in {**paths, **distances}.items()}
    with_expectation = [name for name in judged_all if expected_verdict(name)]
    return {
        "paths": {name: judged_all[name] for name in paths},
        "pairs": {name: judged_all[name] for name in distances},
        "thresholds": [asdict(one) | {"wrong": one.wrong} for one in calibrate(paths, distances)],
        "of_known_kind": len(with_expectation),
        "judged_wrong": [name for name in with_expectation if judged_all[name]["verdict"] != expected_verdict(name)],
    }


def bend_optimizers(kind: tuple[OptimizerName, OptimizerName]) -> tuple[OptimizerName, ...]:
    """The optimizers of the bends of a kind: AdamW and Muon; with Lion models, Lion for two of them, else AdamW."""
    if "lion" in kind:
        return ("lion",) if kind == ("lion", "lion") else ("adamw",)
    return ("adamw", "muon")


def path_spectra(directory: Path, a: str, b: str, by: OptimizerName, effort: Effort) -> Mapping[str, Any]:
    """Losses and spectra along one path, in nats, and the verdict."""
    path, config = trained_path(directory, a, b, effort, by)
    spectra = {t: spectrum(path(t), config) for t in POINTS}
    numbers = along_path(spectra).points
    losses = profile(path, loss_meter(config, effort), POINTS)
    return {
        "points": [
            {
                "t": t,
                "loss": losses.at(t).mean,
                "excess": excess,
                "position": position,
                "stable_rank": mean(stable_rank(values) for values in spectra[t].values()),
                SHOWN: stable_rank(spectra[t][SHOWN]),
            }
            for t, excess, position in numbers
        ],
        "middle": _numbers(spectra[0.0], spectra[0.5], spectra[1.0]),
    }


def pair_spectra(directory: Path, a: str, b: str) -> Mapping[str, Any]:
    """The spectral distance of two models, and the spectrum of their average without alignment."""
    first, second = (model(directory / "models", name) for name in (a, b))
    ends = [spectrum(one.state, one.config) for one in (first, second)]
    middle = spectrum(WeightPath("linear", first.state, second.state)(0.5), first.config)
    return {"distance": mean_distance(*ends), "average": _numbers(ends[0], middle, ends[1])}


def _numbers(a: Spectrum, m: Spectrum, b: Spectrum) -> dict[str, float]:
    comparison = among((a, b), m)
    return {key: getattr(comparison, key) for key in ("excess", "distance", "log_ratio")}


def verdict(record: Mapping[str, Any]) -> str:
    """The verdict of isthmus on a path, or on an average without alignment, from its numbers."""
    if "points" not in record:
        return judged(**record["average"])
    points = [(point["t"], point["excess"], point["position"]) for point in record["points"]]
    return judged_path(points, record["middle"]["distance"]).verdict


def expected_verdict(name: str) -> str | None:
    """The verdict that a path or an average should get, from its name; None where either may be right.

    ``A, B`` is an average without alignment, which cancels: contracted. ``A, B, OPTIMIZER`` is a path whose bend one of
    the optimizers of its ends trained: preserved between models of one, a transition between those of two. A bend by
    another optimizer may do either.
    """
    a, b, *by = name.split(", ")
    ends = {optimizer_of(a), optimizer_of(b)}
    if not by:
        return "contracted"
    return ("preserved" if len(ends) == 1 else "transition") if by[0] in ends else None


def calibrate(paths: Mapping[str, Any], couples: Mapping[str, Any]) -> list[Threshold]:
    """Thresholds from the pairs whose first model has an odd number, and their errors on the others.

    `same_kind` divides distances of models of one optimizer from those of two; the highest excess, of one and of two,
    the highest along paths of `expected_verdict` kind from that of averages without alignment.
    """

    def part(records: Mapping[str, Any], held_out: bool, alike: bool) -> list[Mapping[str, Any]]:
        return [
            record
            for name, record in records.items()
            if expected_verdict(name)
            and int(name.split(", ")[0].split("-")[1]) % 2 != held_out
            and (len({optimizer_of(end) for end in name.split(", ")[:2]}) == 1) == alike
        ]

    halves = (False, True)
    distances = [
        [[one["distance"] for one in part(couples, half, alike)] for alike in (True, False)] for half in halves
    ]
    thresholds = [_threshold("same_kind", *distances)]
    for alike, name in ((True, "max_excess"), (False, "max_excess_apart")):
        excesses = [
            [
                [max(point["excess"] for point in one["points"]) for one in part(paths, half, alike)],
                [one["average"]["excess"] for one in part(couples, half, alike)],
            ]
            for half in halves
        ]
        thresholds.append(_threshold(name, *excesses))
    return thresholds


def _threshold(name: str, chosen_on: Sequence[Sequence[float]], tested_on: Sequence[Sequence[float]]) -> Threshold:
    """The value with the fewest errors on `chosen_on`, (low, high), in the middle of its gap."""
    low, high = map(sorted, chosen_on)
    values = sorted([*low, *high])
    cuts = [(one + other) / 2 for one, other in pairwise(values)]
    errors = {cut: sum(x >= cut for x in low) + sum(x < cut for x in high) for cut in cuts}
    fewest = [cut for cut in cuts if errors[cut] == min(errors.values())]
    wins = [(x < y) + 0.5 * (x == y) for x in low for y in high]
    return Threshold(name, mean(wins), fewest[len(fewest) // 2], tuple(tested_on[0]), tuple(tested_on[1]))
