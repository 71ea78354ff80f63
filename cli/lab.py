"""`isthmus lab`: the studies, and how the embedded checkpoints were made."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .options import Debug, JsonFile, Quiet
from .places import require_places
from .tables import print_fingerprints
from .terminal import emit, say, screen

lab = typer.Typer(no_args_is_help=True, help="The studies, and how the embedded checkpoints were made.")


@lab.command()
def pretrain(
    output: Annotated[Path, typer.Argument(help="The directory to train into.", show_default=False)],
    name: Annotated[
        list[str] | None, typer.Option("--name", help="Train only these. Repeatable.", show_default=False)
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option("--steps", min=1, help="Fewer steps than the recipes say.", show_default=False),
    ] = None,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Train the embedded checkpoints again, from the standard library of this Python. Finished ones are kept."""
    from ..lab.pretrain import make_checkpoints

    with screen(quiet) as progress:
        made = make_checkpoints(output, names=name, steps=steps, progress=progress)
    if not quiet:
        for checkpoint, loss in made.items():
            say(f"{checkpoint}: training loss {loss:.3f}")


@lab.command("fingerprint")
def fingerprints(
    output: Annotated[Path, typer.Argument(help="The directory to train into.", show_default=False)],
    json_file: JsonFile = None,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Does the spectral fingerprint tell optimizers apart? Trains models (an hour on two cores) and judges them."""
    from dataclasses import asdict

    require_places(json_file, [("the directory", output)], existing=True)
    from ..lab.fingerprint_study import fingerprint_study

    with screen(quiet) as progress:
        found = fingerprint_study(output, progress=progress)
    emit(json_file, {"models": [{**asdict(verdict), "outcome": verdict.outcome} for verdict in found]})
    if not quiet:
        print_fingerprints(found)


@lab.command("symmetries")
def symmetries(
    output: Annotated[Path, typer.Argument(help="The directory to train into.", show_default=False)],
    json_file: JsonFile = None,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Which symmetry buys what? Trains models, ablates fifteen pairs (an hour on two cores), keeps what is done."""
    from dataclasses import asdict

    require_places(json_file, [("the directory", output)], existing=True)
    from ..lab.symmetries import symmetry_study, table_rows

    with screen(quiet) as progress:
        found = symmetry_study(output, progress=progress)
    rows = table_rows(found)
    names = ("kind", "step", "barrier", "std", "share")
    emit(
        json_file,
        {
            "pairs": [asdict(pair) for pair in found],
            "table": [dict(zip(names, row, strict=True)) for row in rows],
        },
    )
    if not quiet:
        for kind, step, barrier, spread, share in rows:
            say(f"{kind:12} {step:18} {barrier:.3f} ± {spread:.3f} nats ({share:.0%} of no alignment)")


StudyDirectory = Annotated[
    Path, typer.Argument(help="The directory to work in; what is finished there is not repeated.", show_default=False)
]
Quick = Annotated[bool, typer.Option("--quick", help="A minute, to see that it runs: the numbers mean nothing.")]
Workers = Annotated[
    int | None, typer.Option("--workers", min=1, help="Parts at a time, one core each.", show_default="all cores")
]


def _study_command(name: str, question: str) -> None:
    @lab.command(name, help=question)
    def study(
        directory: StudyDirectory,
        quick: Quick = False,
        workers: Workers = None,
        json_file: JsonFile = None,
        quiet: Quiet = False,
        debug: Debug = False,
    ) -> None:
        _study(name, directory, quick, workers, json_file, quiet)


for _name, _question in {
    "relu": "Two-layer ReLU networks: constraint sets, connectivity in them, optimizers' regions, a certified barrier.",
    "table": "Barriers between small GPT-2s trained by AdamW, Muon and Lion, by alignment, and with one bend.",
    "spectra": "Spectra along paths between those models, and the calibration of the verdict on them.",
    "planes": "The loss on planes through three of those models, before and after alignment.",
    "practice": "Does the optimizer of fine-tuning change how models merge? Is a merge a good start for training on?",
}.items():
    _study_command(_name, _question)


@lab.command("generalization")
def study_generalization(
    directory: StudyDirectory,
    data: Annotated[
        list[str] | None,
        typer.Option("--data", help="More text to measure on, as for merge. Repeatable.", show_default=False),
    ] = None,
    quick: Quick = False,
    workers: Workers = None,
    json_file: JsonFile = None,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Points of those paths on other text than the models were trained on, and in ensembles."""
    _study("generalization", directory, quick, workers, json_file, quiet, tuple(data or ()))


def _study(
    name: str,
    directory: Path,
    quick: bool,
    workers: int | None,
    json_file: str | None,
    quiet: bool,
    elsewhere: tuple[str, ...] = (),
) -> None:
    require_places(json_file, [("the directory", directory)], data=elsewhere, existing=True)
    from ..lab.parts import cores
    from ..lab.studies import StudyOptions as Asked
    from ..lab.studies import run_study

    with screen(quiet) as progress:
        record = run_study(name, directory, Asked(quick, workers or cores(), elsewhere), progress)
    emit(json_file, record)
    if not quiet:
        say(record["question"])
        say(f"{directory / name}.json has the numbers, .png the figure")
