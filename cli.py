"""The command line: parse, call, print. People read stderr, programs read stdout or --json."""

from __future__ import annotations

import gc
import json
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn, cast, get_args

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as RichProgress

from isthmus.checkpoint.errors import BadInput, IsthmusError
from isthmus.eval.processes import finish, is_main
from isthmus.merge.progress import Progress

if TYPE_CHECKING:
    from rich.progress import TaskID

    from isthmus.checkpoint.output import OutputFile
    from isthmus.checkpoint.push import Plan, Target
    from isthmus.lab.fingerprint import Verdict
    from isthmus.merge.recipe import Recipe

INTERRUPTED = 130
COLLECT_EVERY = 10_000  # objects: torch makes a million while it is imported, and they all stay
TRAINING, PUSHING = "Training of bends and alignments", "Pushing to the Hub"
OPERATORS = "Merging by a method"

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Merge transformer checkpoints along low-loss paths.",
)
lab = typer.Typer(no_args_is_help=True, help="The studies, and how the embedded checkpoints were made.")
app.add_typer(lab, name="lab")


AlignChoice = Literal["auto", "none", "permutation", "orthogonal", "activations", "combined", "learned"]
MoveChoice = Literal["permutation", "orthogonal", "activations", "combined", "learned"]
MoveOrNotChoice = Literal["none", "permutation", "orthogonal"]
ObjectiveChoice = Literal["mean", "worst"]
DtypeChoice = Literal["auto", "float32", "float16", "bfloat16"]
BendOptimizerChoice = Literal["auto", "adamw", "muon", "lion"]
StartChoice = Literal["restored", "midpoint"]
PrecisionChoice = Literal["no", "bf16"]
CurveChoice = Literal["polychain", "bezier"]
SoupChoice = Literal["uniform", "greedy"]
AverageChoice = Literal["probabilities", "logits"]
GroupAlignChoice = Literal["auto", "none", "permutation", "orthogonal", "activations", "combined"]
MethodChoice = Literal[
    "linear",
    "slerp",
    "karcher",
    "task_arithmetic",
    "ties",
    "dare_linear",
    "dare_ties",
    "model_stock",
    "fisher",
    "regmean",
]
CURVES = get_args(CurveChoice)

Model = Annotated[
    str,
    typer.Argument(
        help="A directory, or a Hub id: user/model, user/model@revision, user/model:subfolder.",
        show_default=False,
    ),
]
Output = Annotated[Path, typer.Option("--output", "-o", help="The directory to write.", show_default=False)]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an output directory that is not empty.")]
Data = Annotated[
    list[str] | None,
    typer.Option(
        "--data",
        help="Text, with a label or without (law=cases.txt): a file, a directory, a .jsonl, stdlib:docs or "
        "stdlib:code. Repeatable.",
        show_default=False,
    ),
]
JsonFile = Annotated[
    str | None,
    typer.Option("--json", help="Write the result as JSON to this file, or - for stdout.", show_default=False),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show tracebacks.")]
Seed = Annotated[int, typer.Option("--seed", help="Seed of everything random.")]
Tokens = Annotated[
    int, typer.Option("--tokens", min=1, help="Tokens of each text to select on, and as many to report on.")
]
Align = Annotated[
    AlignChoice,
    typer.Option(
        "--align",
        help="auto tries none, orthogonal, combined and learned in turn, until the barrier is within the noise.",
    ),
]
AlignSteps = Annotated[
    int, typer.Option("--align-steps", min=1, help="Steps of a learned alignment.", rich_help_panel=TRAINING)
]
AlignBatch = Annotated[
    int,
    typer.Option(
        "--align-batch", min=1, help="Blocks of text per step of a learned alignment.", rich_help_panel=TRAINING
    ),
]
MethodOption = Annotated[
    MethodChoice | None,
    typer.Option(
        "--method",
        help="Merge by an operator in place of a path; linear for more than two models.",
        show_default=False,
        rich_help_panel=OPERATORS,
    ),
]
Base = Annotated[
    str | None,
    typer.Option(
        "--base",
        help="The model that the others were trained from.",
        show_default=False,
        rich_help_panel=OPERATORS,
    ),
]
Weight = Annotated[
    list[str] | None,
    typer.Option(
        "--weight",
        help="A model's weight, once for all or once for each: a number, or a gradient over the layers (0,0.5,1).",
        show_default=False,
        rich_help_panel=OPERATORS,
    ),
]
Density = Annotated[
    list[str] | None,
    typer.Option(
        "--density",
        help="The share of a task vector that ties and dare keep, as --weight.",
        show_default=False,
        rich_help_panel=OPERATORS,
    ),
]
Scale = Annotated[
    float | None,
    typer.Option(
        "--lambda", help="What merged task vectors are multiplied by.", show_default=False, rich_help_panel=OPERATORS
    ),
]
SoupOption = Annotated[
    SoupChoice,
    typer.Option("--soup", help="greedy leaves out models that do not lower the loss.", rich_help_panel=OPERATORS),
]
Search = Annotated[
    bool, typer.Option("--search", help="Search for weights on the select text.", rich_help_panel=OPERATORS)
]
MaxMemory = Annotated[
    str | None,
    typer.Option(
        "--max-memory",
        help="For models larger than memory: measure them with so much of one in memory (6GB), the rest from disk.",
        show_default=False,
        rich_help_panel=OPERATORS,
    ),
]
PathOption = Annotated[
    str,
    typer.Option(
        "--path", help="linear, polychain or bezier; or a directory that `isthmus path` wrote, for these two models."
    ),
]
Bends = Annotated[int, typer.Option("--bends", min=1, help="Bends of a curved path.", rich_help_panel=TRAINING)]
Steps = Annotated[int, typer.Option("--steps", min=1, help="Training steps.", rich_help_panel=TRAINING)]
BendOptimizer = Annotated[
    BendOptimizerChoice,
    typer.Option(
        "--bend-optimizer",
        help="auto: the one that trained both models, where that is known, else adamw.",
        rich_help_panel=TRAINING,
    ),
]
BendLr = Annotated[
    float | None,
    typer.Option(
        "--bend-lr",
        help="Peak learning rate; each optimizer has its own default.",
        show_default=False,
        rich_help_panel=TRAINING,
    ),
]
BendWeightDecay = Annotated[
    float,
    typer.Option(
        "--bend-weight-decay",
        min=0.0,
        help="Decoupled weight decay; without, training inflates the spectrum.",
        rich_help_panel=TRAINING,
    ),
]
BendStart = Annotated[
    StartChoice,
    typer.Option(
        "--bend-start",
        help="Where bends start on the straight line: as they are, or with the singular values put back.",
        rich_help_panel=TRAINING,
    ),
]
Batch = Annotated[
    int, typer.Option("--batch", min=1, help="Blocks of text per step, over all processes.", rich_help_panel=TRAINING)
]
Accumulate = Annotated[
    int,
    typer.Option(
        "--accumulate", min=1, help="Micro-batches per step, each at a t of its own.", rich_help_panel=TRAINING
    ),
]
MixedPrecision = Annotated[
    PrecisionChoice | None,
    typer.Option(
        "--mixed-precision",
        help="bf16 trains in bfloat16 where that is safe; by default as accelerate was launched.",
        show_default=False,
        rich_help_panel=TRAINING,
    ),
]
FitOn = Annotated[
    list[str] | None,
    typer.Option(
        "--fit-on",
        help="Train on the text of this label only. Repeatable.",
        show_default=False,
        rich_help_panel=TRAINING,
    ),
]
Restart = Annotated[
    bool,
    typer.Option("--restart", help="Drop an interrupted training of this output.", rich_help_panel=TRAINING),
]
OptimizerA = Annotated[
    str | None, typer.Option("--optimizer-a", help="What trained A, where you know better.", show_default=False)
]
OptimizerB = Annotated[
    str | None, typer.Option("--optimizer-b", help="What trained B, where you know better.", show_default=False)
]
Private = Annotated[
    bool, typer.Option("--private", help="Create the repository as a private one.", rich_help_panel=PUSHING)
]
Revision = Annotated[
    str | None,
    typer.Option("--revision", help="The branch; created if need be.", show_default=False, rich_help_panel=PUSHING),
]
CreatePr = Annotated[bool, typer.Option("--create-pr", help="Open a pull request instead.", rich_help_panel=PUSHING)]
CommitMessage = Annotated[
    str | None,
    typer.Option("--commit-message", help="What the commit says.", show_default=False, rich_help_panel=PUSHING),
]
Device = Annotated[str, typer.Option("--device", help="Where losses are measured: auto, cpu, cuda, cuda:1, ...")]


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(version("isthmus"))
        raise typer.Exit


@app.callback()
def _isthmus(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    pass  # typer reads the options that stand before the command off this function


@app.command()
def check(
    models: Annotated[list[str], typer.Argument(help="Two or more models.", show_default=False)],
    json_file: JsonFile = None,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Can these models be merged? Headers and small files only, no weights are downloaded."""
    if len(models) < 2:
        raise BadInput("check compares models: give at least two")
    with _screen(quiet) as progress:
        from isthmus.align.families import FAMILIES
        from isthmus.checkpoint.check import check as run

        progress.stage("checking")
        result = run(*models, families=FAMILIES)
    _emit(json_file, result.to_dict())
    if not quiet:
        colours = {"blocks": "red", "degrades": "yellow", "notes": "cyan"}
        for finding in result.findings:
            _say(f"[{colours[finding.kind]}]{finding.kind}[/]  {_escape(str(finding))}")
        if result.cost:
            _say(f"[dim]{_escape(str(result.cost))}[/]")
        _say("[green]these can be merged[/]" if result.mergeable else "[red]these cannot be merged[/]")
    if not result.mergeable:
        raise typer.Exit(3)


@app.command()
def align(
    a: Model,
    b: Model,
    output: Output,
    method: Annotated[
        MoveChoice,
        typer.Option(
            "--method",
            help="permutation keeps tied embeddings; orthogonal also rotates; activations, combined and learned look "
            "at --data, too.",
        ),
    ] = "orthogonal",
    data: Data = None,
    align_steps: AlignSteps = 1000,
    align_batch: AlignBatch = 8,
    mixed_precision: MixedPrecision = None,
    restart: Restart = False,
    stream: Annotated[
        bool, typer.Option("--stream", help="For models larger than memory: read layers when it is their turn.")
    ] = False,
    device: Device = "auto",
    reference: Annotated[
        Path | None,
        typer.Option(
            "--reference",
            help="Also write A, in the form that B was moved next to, to this directory.",
            show_default=False,
        ),
    ] = None,
    dtype: Annotated[DtypeChoice, typer.Option("--dtype", help="What to save in; auto keeps B's.")] = "auto",
    seed: Seed = 0,
    overwrite: Overwrite = False,
    json_file: JsonFile = None,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Move B next to A; B's function does not change. Writes the moved B and alignment.safetensors.

    An orthogonally aligned B is in canonical form: average it with the canonical form of A, which --reference writes.
    """
    with _screen(quiet) as progress:
        from isthmus.merge.learn import LearnPlan
        from isthmus.merge.moved import align_and_save

        if restart:
            _drop_training(output)
        report = align_and_save(
            a,
            b,
            output,
            method=method,
            data=data or (),
            learn=LearnPlan(align_steps, align_batch, mixed_precision, seed),
            reference=reference,
            device=device,
            stream=stream,
            dtype=_dtype(dtype),
            seed=seed,
            overwrite=overwrite,
            progress=progress,
        )
    _emit(json_file, report)
    if not quiet:
        _say(
            f"aligned ({report['method']}) in {report['seconds']:.1f} s, score {report['score']:.3f}, "
            f"log-probabilities within {report['max_log_prob_error']:.1e}; written to {_escape(str(output))}"
        )


@app.command()
def merge(
    models: Annotated[
        list[str],
        typer.Argument(
            help="Two models, or more with --method; or a recipe of mergekit's, a .yml file.", show_default=False
        ),
    ],
    output: Output,
    data: Data = None,
    method: MethodOption = None,
    base: Base = None,
    weight: Weight = None,
    density: Density = None,
    scale: Scale = None,
    soup: SoupOption = "uniform",
    search: Search = False,
    max_memory: MaxMemory = None,
    align: Annotated[
        AlignChoice | None,
        typer.Option(
            "--align",
            help="auto tries none, orthogonal, combined and (two models) learned in turn, until the barrier is within "
            "the noise.",
            show_default="auto; none for a recipe, and for a method without --data",
        ),
    ] = None,
    path: PathOption = "linear",
    t: Annotated[str, typer.Option("--t", help="The merge point: auto, or a number from 0 (A) to 1 (B).")] = "auto",
    objective: Annotated[
        ObjectiveChoice,
        typer.Option("--objective", help="What t minimises: the mean over texts, or the worst text's excess."),
    ] = "mean",
    interior: Annotated[float, typer.Option("--interior", help="Keep t this far from both ends.")] = 0.1,
    max_barrier: Annotated[
        float | None,
        typer.Option("--max-barrier", help="Refuse a higher barrier, in nats.", show_default=False),
    ] = None,
    require_spectrum: Annotated[
        bool, typer.Option("--require-spectrum", help="Refuse a contracted or inflated spectrum.")
    ] = False,
    require_gain: Annotated[
        bool, typer.Option("--require-gain", help="Refuse a merge worse than the better endpoint.")
    ] = False,
    spectrum: Annotated[
        bool | None,
        typer.Option(
            "--spectrum/--no-spectrum",
            help="Measure the spectrum. Default: yes, but for a plain average without --data.",
            show_default=False,
        ),
    ] = None,
    restore_spectrum: Annotated[
        bool,
        typer.Option(
            "--restore-spectrum",
            help="Put the merge's singular values between the endpoints', unless the loss rises by it.",
        ),
    ] = False,
    max_excess: Annotated[
        float,
        typer.Option("--max-excess", help="Highest spectral excess, in nats, that is preserved or a transition."),
    ] = 0.1,
    same_kind: Annotated[
        float,
        typer.Option("--same-kind", help="Endpoints closer than this, in nats, share a kind of spectrum."),
    ] = 0.2,
    tokens: Tokens = 8192,
    dtype: Annotated[
        DtypeChoice,
        typer.Option("--dtype", help="What to save in; auto keeps the endpoints' when they share one."),
    ] = "auto",
    align_steps: AlignSteps = 1000,
    align_batch: AlignBatch = 8,
    bends: Bends = 1,
    steps: Steps = 300,
    bend_optimizer: BendOptimizer = "auto",
    bend_lr: BendLr = None,
    bend_weight_decay: BendWeightDecay = 0.2,
    bend_start: BendStart = "restored",
    batch: Batch = 32,
    accumulate: Accumulate = 1,
    mixed_precision: MixedPrecision = None,
    fit_on: FitOn = None,
    restart: Restart = False,
    optimizer_a: OptimizerA = None,
    optimizer_b: OptimizerB = None,
    push_to: Annotated[
        str | None,
        typer.Option(
            "--push", help="Push the merge to this repository of the Hub.", show_default=False, rich_help_panel=PUSHING
        ),
    ] = None,
    private: Private = False,
    revision: Revision = None,
    create_pr: CreatePr = False,
    commit_message: CommitMessage = None,
    device: Device = "auto",
    seed: Seed = 0,
    overwrite: Overwrite = False,
    json_file: JsonFile = None,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Merge models: check, align, walk the path to its lowest point or apply a method, measure, save.

    Two models are merged along the path between them. More, or two with --method, are merged by an operator: linear,
    slerp, karcher, task_arithmetic, ties, dare_linear, dare_ties, model_stock, fisher, regmean.
    """
    from isthmus.checkpoint.saving import require_free

    require_free(output, overwrite=overwrite)
    target = None
    if push_to is None and (private or revision or create_pr or commit_message):
        raise BadInput("--private, --revision, --create-pr and --commit-message are for --push: say where to push to")
    if push_to is not None and is_main():
        from isthmus.checkpoint.push import Target

        with _screen(quiet) as progress:
            progress.stage("looking at the Hub")
            target = Target.find(push_to, revision=revision, private=private, create_pr=create_pr)
            target.require_room()
    chosen = _path(
        path,
        bends,
        bend_optimizer,
        bend_start,
        steps=steps,
        lr=bend_lr,
        weight_decay=bend_weight_decay,
        batch=batch,
        accumulate=accumulate,
        precision=mixed_precision,
        seed=seed,
    )
    if restart:
        _drop_training(output)
    from isthmus.merge.gates import Gates

    usual: dict[str, Any] = {
        "data": data or (),
        "gates": Gates(max_barrier, require_spectrum, require_gain),
        "tokens": tokens,
        "measure_spectrum": spectrum,
        "max_excess": max_excess,
        "same_kind": same_kind,
        "dtype": _dtype(dtype),
        "device": device,
        "seed": seed,
    }
    by_operator = method is not None or len(models) != 2
    for_operator = {"--base": base, "--weight": weight, "--density": density, "--lambda": scale, "--search": search}
    for_operator["--max-memory"] = max_memory
    for_path = {
        "--path": path != "linear",
        "--restore-spectrum": restore_spectrum,
        "--fit-on": fit_on,
        "--optimizer-a": optimizer_a,
        "--optimizer-b": optimizer_b,
    }
    if not by_operator and (soup != "uniform" or any(for_operator.values())):
        raise BadInput(f"{', '.join([*for_operator, '--soup'])} are for a --method: name one")
    for option, given in for_path.items():
        if by_operator and given:
            raise BadInput(f"{option} is for two models and the path between them: leave it out, or leave --method out")
    with _screen(quiet) as progress:
        if by_operator:
            from isthmus.merge.many import combine

            if align == "learned":
                raise BadInput("--align learned is for two models and the path between them: take combined")
            recipe, from_file = _recipe(models, method, base, weight, density, scale, t)
            result = combine(
                recipe,
                align=align or ("auto" if data and not from_file and max_memory is None else "none"),
                soup="search" if search else soup,
                max_memory=max_memory,
                progress=progress,
                **usual,
            )
        else:
            from isthmus.merge.learn import LearnPlan
            from isthmus.merge.pipeline import merge as run

            result = run(
                *models,
                align=align or "auto",
                learn=LearnPlan(align_steps, align_batch, mixed_precision, seed),
                path=chosen,
                fit_on=fit_on or (),
                keep_in=output,
                t=_point(t),
                objective=objective,
                interior=interior,
                restore=restore_spectrum,
                optimizers=(optimizer_a, optimizer_b),
                progress=progress,
                **usual,
            )
        progress.stage("saving")
        report = result.report
        if is_main():
            report = result.save(output, overwrite=overwrite, repo_id=target.repo_id if target else None)
    _emit(json_file, report)
    if not quiet:
        _print_merge(report)
        _say(f"written to {_escape(str(output))}")
    if target is not None:  # looked up again: others may have pushed there meanwhile
        target = type(target).find(target.repo_id, revision=revision, private=private, create_pr=create_pr)
        from isthmus.checkpoint.output import read_output

        _push(read_output(output), target, commit_message, quiet=quiet)


@app.command()
def push(
    directory: Annotated[Path, typer.Argument(help="What `isthmus merge` wrote.", show_default=False)],
    repo_id: Annotated[str, typer.Argument(help="The repository: user/model.", show_default=False)],
    private: Private = False,
    revision: Revision = None,
    create_pr: CreatePr = False,
    commit_message: CommitMessage = None,
    edited_card: Annotated[
        bool, typer.Option("--edited-card", help="README.md was changed on purpose since the merge.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List what would go, and send nothing.")] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the model that is in the repository already.")
    ] = False,
    json_file: JsonFile = None,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Push a merge to the Hub, in one commit. The same command again goes on with an interrupted upload.

    Log in with `hf auth login` first, or set HF_TOKEN.
    """
    from isthmus.checkpoint.output import read_output
    from isthmus.checkpoint.push import Target

    with _screen(quiet) as progress:
        progress.stage("reading what was written")
        files = read_output(directory, edited_card=edited_card)
        progress.stage("looking at the Hub")
        target = Target.find(repo_id, revision=revision, private=private, create_pr=create_pr, writing=not dry_run)
    _push(
        files,
        target,
        commit_message,
        overwrite=overwrite,
        dry_run=dry_run,
        json_file=json_file,
        quiet=quiet,
    )


@app.command("path")
def train_path(
    a: Model,
    b: Model,
    output: Output,
    data: Data = None,
    align: Align = "auto",
    path: Annotated[
        CurveChoice, typer.Option("--path", help="Straight segments through the bends, or a smooth curve towards them.")
    ] = "polychain",
    bends: Bends = 1,
    steps: Steps = 300,
    bend_optimizer: BendOptimizer = "auto",
    bend_lr: BendLr = None,
    bend_weight_decay: BendWeightDecay = 0.2,
    bend_start: BendStart = "restored",
    batch: Batch = 32,
    accumulate: Accumulate = 1,
    mixed_precision: MixedPrecision = None,
    fit_on: FitOn = None,
    restart: Restart = False,
    optimizer_a: OptimizerA = None,
    optimizer_b: OptimizerB = None,
    tokens: Tokens = 8192,
    device: Device = "auto",
    seed: Seed = 0,
    overwrite: Overwrite = False,
    json_file: JsonFile = None,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Train a curved path between two models and save it, for `merge --path OUT`.

    The same command again goes on with a training that was interrupted. With `accelerate launch -m isthmus path ...` it
    runs on several processes or GPUs.
    """
    from isthmus.checkpoint.saving import require_free

    require_free(output, overwrite=overwrite)
    chosen = _path(
        path,
        bends,
        bend_optimizer,
        bend_start,
        steps=steps,
        lr=bend_lr,
        weight_decay=bend_weight_decay,
        batch=batch,
        accumulate=accumulate,
        precision=mixed_precision,
        seed=seed,
    )
    if restart:
        _drop_training(output)
    with _screen(quiet) as progress:
        from isthmus.merge.output import path_report
        from isthmus.merge.pipeline import merge as run

        result = run(
            a,
            b,
            data=data or (),
            align=align,
            path=chosen,
            fit_on=fit_on or (),
            keep_in=output,
            tokens=tokens,
            device=device,
            seed=seed,
            optimizers=(optimizer_a, optimizer_b),
            progress=progress,
        )
        progress.stage("saving")
        if is_main():
            result.save_path(output, overwrite=overwrite)
    report = path_report(result.report)
    _emit(json_file, report)
    if not quiet:
        _print_merge(report)
        _say(f"the path is written to {_escape(str(output))}; merge with --path {_escape(str(output))}")
    if result.report["path"]["diverged_at"]:
        raise typer.Exit(1)


@app.command()
def plane(
    models: Annotated[list[str], typer.Argument(help="Three models; B and C are aligned to A.", show_default=False)],
    output: Output,
    data: Data = None,
    align: Annotated[MoveOrNotChoice, typer.Option("--align", help="How B and C are aligned to A.")] = "orthogonal",
    tokens: Annotated[int, typer.Option("--tokens", min=1, help="Tokens of each text to measure on.")] = 2048,
    resolution: Annotated[int, typer.Option("--resolution", min=2, help="Points along each side.")] = 13,
    device: Device = "auto",
    seed: Seed = 0,
    overwrite: Overwrite = False,
    json_file: JsonFile = None,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """The loss on the plane through three models: report.html and plane.png."""
    from isthmus.checkpoint.saving import require_free

    require_free(output, overwrite=overwrite)
    with _screen(quiet) as progress:
        from isthmus.merge.pipeline import pick_device
        from isthmus.merge.plane import loss_plane

        found = loss_plane(
            models,
            data=data or (),
            align=align,
            tokens=tokens,
            resolution=resolution,
            device=pick_device(device),
            seed=seed,
            progress=progress,
        )
        if is_main():
            found.save(output, overwrite=overwrite)
    _emit(json_file, found.report)
    if not quiet:
        _say(f"written to {_escape(str(output))}: look at report.html or plane.png there")


@app.command()
def spectrum(
    models: Annotated[list[str], typer.Argument(help="One or more models.", show_default=False)],
    json_file: JsonFile = None,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Spectra: stable ranks of every kind of matrix, the optimizers that left them, distances between models."""
    with _screen(quiet) as progress:
        from isthmus.merge.spectra import compare_models

        report = compare_models(models, progress)
    _emit(json_file, report)
    if not quiet:
        _print_spectra(report)


@app.command()
def ensemble(
    models: Annotated[list[str], typer.Argument(help="Two or more models.", show_default=False)],
    data: Data = None,
    path: Annotated[
        Path | None,
        typer.Option("--path", help="A path between the first two, as `isthmus path` wrote it.", show_default=False),
    ] = None,
    at: Annotated[
        list[float] | None,
        typer.Option("--at", help="A point of the path that is a member, too. Repeatable.", show_default=False),
    ] = None,
    average: Annotated[
        AverageChoice, typer.Option("--average", help="What is averaged; logits are the geometric mean.")
    ] = "probabilities",
    align: Annotated[
        GroupAlignChoice, typer.Option("--align", help="How the models are aligned for their soup and their merge.")
    ] = "auto",
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="Save it as a small directory for isthmus.load_ensemble, without weights.",
            show_default=False,
        ),
    ] = None,
    tokens: Tokens = 8192,
    device: Device = "auto",
    seed: Seed = 0,
    overwrite: Overwrite = False,
    json_file: JsonFile = None,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """The members, their soup, their merge and their ensemble on the same text, with the cost of each."""
    from isthmus.checkpoint.saving import require_free

    if output is not None:
        require_free(output, overwrite=overwrite)
    with _screen(quiet) as progress:
        from isthmus.merge.ensembles import ensemble as run

        found = run(
            models,
            data=data or (),
            path=path,
            at=at or (),
            average=average,
            align=align,
            tokens=tokens,
            device=device,
            seed=seed,
            progress=progress,
        )
        if output is not None and is_main():
            progress.stage("saving")
            found.save(output, overwrite=overwrite)
    _emit(json_file, found.report)
    if not quiet:
        _print_ensemble(found.report)
        if output is not None:
            _say(f"written to {_escape(str(output))}: open it with isthmus.load_ensemble")


@app.command()
def demo(
    output: Annotated[Path, typer.Option("--output", "-o", help="The directory to write.")] = Path("isthmus-demo"),
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """The main job on the embedded checkpoints, offline, in about a minute."""
    from isthmus.lab.demo import EXAMPLES, require_room, run_example

    require_room(output, overwrite=overwrite)
    for example in EXAMPLES:
        if not quiet:
            _say(f"\n[bold]{example.title}[/]\n[dim]{_escape(example.command(output))}[/]")
        with _screen(quiet) as progress:
            report = run_example(example, output, overwrite=overwrite, progress=progress)
        if not quiet:
            _print_merge(report)
            _say(f"written to {_escape(str(output / example.name))}, the figures to report.html there")


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
    from isthmus.lab.pretrain import make_checkpoints

    with _screen(quiet) as progress:
        made = make_checkpoints(output, names=name, steps=steps, progress=progress)
    if not quiet:
        for checkpoint, loss in made.items():
            _say(f"{checkpoint}: training loss {loss:.3f}")


@lab.command("fingerprint")
def fingerprints(
    output: Annotated[Path, typer.Argument(help="The directory to train into.", show_default=False)],
    json_file: JsonFile = None,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Does the spectral fingerprint tell optimizers apart? Trains models (an hour on two cores) and judges them."""
    from dataclasses import asdict

    from isthmus.lab.fingerprint import fingerprint_study

    with _screen(quiet) as progress:
        found = fingerprint_study(output, progress=progress)
    _emit(json_file, {"models": [{**asdict(verdict), "outcome": verdict.outcome} for verdict in found]})
    if not quiet:
        _print_fingerprints(found)


@lab.command("symmetries")
def symmetries(
    output: Annotated[Path, typer.Argument(help="The directory to train into.", show_default=False)],
    json_file: JsonFile = None,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Which symmetry buys what? Trains models, ablates fifteen pairs (an hour on two cores), keeps what is done."""
    from dataclasses import asdict

    from isthmus.lab.symmetries import symmetry_study, table_rows

    with _screen(quiet) as progress:
        found = symmetry_study(output, progress=progress)
    rows = table_rows(found)
    names = ("kind", "step", "barrier", "std", "share")
    _emit(
        json_file,
        {
            "pairs": [asdict(pair) for pair in found],
            "table": [dict(zip(names, row, strict=True)) for row in rows],
        },
    )
    if not quiet:
        for kind, step, barrier, spread, share in rows:
            _say(f"{kind:12} {step:18} {barrier:.3f} ± {spread:.3f} nats ({share:.0%} of no alignment)")


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
    from isthmus.lab.parts import cores
    from isthmus.lab.studies import Asked, run_study

    with _screen(quiet) as progress:
        record = run_study(name, directory, Asked(quick, workers or cores(), elsewhere), progress)
    _emit(json_file, record)
    if not quiet:
        _say(f"{record['question']}\n{_escape(str(directory / name))}.json has the numbers, .png the figure")


def main() -> None:
    """Run the command line; errors become one sentence and an exit code."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    gc.set_threshold(COLLECT_EVERY)
    try:
        code = app(standalone_mode=False)  # typer gives the code of an Exit, and 130 for Ctrl-C
        finish()
        if code == INTERRUPTED:
            raise KeyboardInterrupt
        if code:
            sys.exit(code)
    except IsthmusError as error:
        _fail(str(error), error.exit_code)
    except KeyboardInterrupt:
        _fail("interrupted; nothing half-written was left", INTERRUPTED)
    except MemoryError:
        _fail("out of memory; nothing half-written was left", 1)
    except Exception as error:
        usage = getattr(error, "exit_code", None)
        if isinstance(usage, int) and hasattr(error, "format_message"):
            _fail(error.format_message() or f"see 'isthmus {' '.join(sys.argv[1:2])} --help'", 2)
        if "--debug" in sys.argv:
            raise
        _fail(
            f"something unforeseen happened ({type(error).__name__}: {error}); run again with --debug to see where",
            1,
        )


def script() -> NoReturn:
    """`main` as a process of its own, which ends without taking torch apart: that takes as long as a small merge."""
    code = 0
    try:
        main()
    except SystemExit as leaving:
        code = leaving.code if isinstance(leaving.code, int) else 1
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except OSError:  # nobody reads it any more, or there is no room; what matters was flushed when it was written
        code = code or 1
    os._exit(code)


def _fail(message: str, code: int) -> None:
    if "--debug" in sys.argv:
        import traceback

        traceback.print_exc()
    print(f"isthmus: {message}", file=sys.stderr)
    sys.exit(code)


def _say(message: str) -> None:
    if not is_main():
        return
    Console(stderr=True, highlight=False, soft_wrap=True).print(message)


def _escape(text: str) -> str:
    from rich.markup import escape

    return escape(text)


def _emit(target: str | None, content: dict[str, Any]) -> None:
    if target is None or not is_main():
        return
    text = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
    if target == "-":
        try:
            sys.stdout.write(text)
            sys.stdout.flush()
        except BrokenPipeError:  # nobody reads it any more
            sys.exit(1)
        except OSError as error:
            raise IsthmusError(f"cannot write the output: {error.strerror}") from None
        return
    try:
        Path(target).write_text(text, encoding="utf-8")
    except OSError as error:
        raise IsthmusError(f"cannot write the JSON file '{Path(target).name}': {error.strerror}") from None


@contextmanager
def _screen(quiet: bool) -> Iterator[Progress]:
    """A progress bar on stderr, gone when the work is done; silent with --quiet. Also keeps libraries from talking."""
    import logging
    import warnings

    warnings.filterwarnings("ignore", module=r"(?!isthmus)")
    for library in ("transformers", "huggingface_hub"):
        logging.getLogger(library).setLevel(logging.ERROR)
    if quiet or not is_main():
        yield Progress()
        return
    with _BarProgress() as bar:
        yield bar


class _BarProgress(Progress):
    """One line: the stage, how far it is, the time it took, an estimate of the rest. It vanishes at the end."""

    def __init__(self) -> None:
        console = Console(stderr=True)
        self._rich = RichProgress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task: TaskID | None = None

    def __enter__(self) -> _BarProgress:
        self._rich.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._rich.stop()

    def stage(self, name: str, total: int | None = None) -> None:
        """Replace the bar by one for a new stage."""
        if self._task is not None:
            self._rich.remove_task(self._task)
        self._task = self._rich.add_task(name, total=total, note="")

    def advance(self, steps: int = 1) -> None:
        """Move the bar."""
        if self._task is not None:
            self._rich.advance(self._task, steps)

    def note(self, text: str) -> None:
        """Show a number beside the bar."""
        if self._task is not None:
            self._rich.update(self._task, note=text)


def _path(path: str, bends: int, optimizer: BendOptimizerChoice, start: StartChoice, **training: Any) -> Any:
    """What --path and the options of training come to: linear, a plan, or a directory."""
    if path == "linear":
        return path
    if path in CURVES:
        from isthmus.merge.curve import CurvePlan
        from isthmus.merge.training import PathTraining

        return CurvePlan(cast(CurveChoice, path), bends, optimizer, start, PathTraining(**training))
    if not Path(path).is_dir():
        raise BadInput(f"--path {path}: give linear, {', '.join(CURVES)}, or a directory that `isthmus path` wrote")
    return Path(path)


def _drop_training(output: Path) -> None:
    from isthmus.merge.training_state import TrainingState

    if is_main():
        TrainingState.beside(output, None).remove()


def _recipe(
    models: Sequence[str],
    method: str | None,
    base: str | None,
    weight: Sequence[str] | None,
    density: Sequence[str] | None,
    scale: float | None,
    t: str,
) -> tuple[Recipe, bool]:
    """What models and options say to do, and whether a file says it."""
    from isthmus.merge.mergekit import is_recipe, read_recipe
    from isthmus.merge.recipe import recipe

    if len(models) == 1 and is_recipe(models[0]):
        given = {"--method": method, "--base": base, "--weight": weight, "--density": density, "--lambda": scale}
        given["--t"] = None if t == "auto" else t
        for option, value in given.items():
            if value is not None:
                raise BadInput(f"the recipe says what {option} would: leave {option} out")
        return read_recipe(models[0]), True
    if len(models) == 1:
        raise BadInput("give two models or more, or a recipe (a .yml file)")
    found = recipe(
        method or "linear",
        models,
        base=base,
        weights=[_gradient("--weight", value) for value in weight or ()],
        densities=[_gradient("--density", value) for value in density or ()],
        scale=scale,
        t=_point(t),
    )
    return found, False


def _gradient(option: str, text: str) -> list[float]:
    """One number, or several with commas between them."""
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise BadInput(f"{option} takes a number, or a gradient of numbers with commas; got '{text}'") from None


def _point(t: str) -> float | None:
    if t == "auto":
        return None
    try:
        return float(t)
    except ValueError:
        raise BadInput(f"--t takes auto or a number from 0 to 1; got '{t}'") from None


def _dtype(choice: DtypeChoice) -> Any:
    if choice == "auto":
        return None
    import torch

    return getattr(torch, choice)


def _print_merge(report: dict[str, Any]) -> None:
    from rich.table import Table

    from isthmus.eval.summary import loss_table, sentences

    if not is_main():
        return
    columns, rows = loss_table(report)
    if rows:
        table = Table(box=None, pad_edge=False, header_style="dim")
        table.add_column("loss, nats per token")
        for column in columns:
            table.add_column(column, justify="right")
        for row in rows:
            losses = (f"{loss:.3f}" for loss in row.losses)
            table.add_row(_escape(row.model), *losses, style="bold" if row.is_merge else None)
        Console(stderr=True).print(table)
    for sentence in sentences(report):
        _say(_escape(sentence))


def _push(
    files: Sequence[OutputFile],
    target: Target,
    message: str | None,
    *,
    overwrite: bool = False,
    dry_run: bool = False,
    json_file: str | None = None,
    quiet: bool = False,
) -> None:
    """Upload the files of a merge, with the hub client's own progress bars."""
    from huggingface_hub.utils import disable_progress_bars

    from isthmus.checkpoint.push import plan_push

    plan = plan_push(files, target, overwrite=overwrite)
    if quiet:
        disable_progress_bars()
    pushed = None if dry_run else plan.carry_out(message)
    _emit(json_file, plan.to_dict(pushed))
    if not quiet and pushed is None:
        _print_plan(plan)
    elif not quiet and pushed is not None:
        did = "proposed" if target.create_pr else "pushed"
        _say(f"{did if plan.changed else 'nothing to push, it is all there'}: {_escape(pushed.url)}")


def _print_plan(plan: Plan) -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("file")
    table.add_column("bytes", justify="right")
    table.add_column()
    for file in plan.files:
        table.add_row(_escape(file.name), f"{file.size:,}", "" if file in plan.changed else "is there already")
    for name in plan.stale:
        table.add_row(_escape(name), "", "would be removed")
    Console(stderr=True).print(table)
    _say(f"nothing was sent; a push would {_escape(str(plan))}")


def _print_ensemble(report: dict[str, Any]) -> None:
    from rich.table import Table

    if not is_main():
        return
    labels = [part["label"] for part in report["data"]]
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("loss, nats per token")
    for column in (*labels, *(["mean"] if len(labels) > 1 else []), "passes", "weights", "seconds"):
        table.add_column(column, justify="right")
    for row in report["models"]:
        losses = [row["losses"][label] for label in labels] + ([row["loss"]] if len(labels) > 1 else [])
        costs = (str(row["passes"]), f"{row['weights'] / 1e6:.1f} M", f"{row['seconds']:.1f}")
        style = "bold" if row["kind"] == "ensemble" else None
        table.add_row(_escape(row["name"]), *(f"{loss:.3f}" for loss in losses), *costs, style=style)
    Console(stderr=True).print(table)
    merge = next(row for row in report["models"] if row["kind"] == "merge")
    weights = ", ".join(f"{weight:.3g}" for weight in merge["merge_weights"])
    method = merge["alignment"]
    how = "without alignment" if method == "none" else f"after {method} alignment"
    _say(f"soup: the plain average {how}; merge: that with the weights {weights}")
    gain, error = report["gain"], report["gain_stderr"]
    _say(
        f"the ensemble's {report['average']} are averaged: "
        f"{'better' if gain > 0 else 'worse'} than the best member by {abs(gain):.3f} ± {error:.3f} nats"
    )


def _print_fingerprints(verdicts: list[Verdict]) -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in ("model", "trained by", "peak", "share", "attention", "kurtosis", "embedding", "judged"):
        table.add_column(column, no_wrap=True)
    for verdict in verdicts:
        found = verdict.numbers
        numbers = (found.peakedness, found.share, found.attention, found.kurtosis, found.embedding)
        judged = verdict.judged or "unknown"
        style = "red" if verdict.outcome == "wrong" else "bold" if verdict.held_out else None
        table.add_row(verdict.name, verdict.trained_by, *(f"{n:.2f}" for n in numbers), judged, style=style)
    Console(stderr=True).print(table)
    outcomes = [verdict.outcome for verdict in verdicts if verdict.held_out]
    counts = ", ".join(f"{outcomes.count(outcome)} {outcome}" for outcome in ("right", "unknown", "wrong"))
    _say(f"held out: {counts}")


def _print_spectra(report: dict[str, Any]) -> None:
    from rich.table import Table

    console = Console(stderr=True)
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("mean stable rank")
    kinds = list(report["models"][0]["stable_rank"])
    for kind in kinds:
        table.add_column(kind, justify="right")
    for model in report["models"]:
        table.add_row(model["ref"], *(f"{model['stable_rank'][kind]:.1f}" for kind in kinds))
    console.print(table)
    for model in report["models"]:
        found = model["optimizer"]
        _say(_escape(f"{model['ref']}: trained by {found['optimizer'] or 'an unknown optimizer'}, {found['why']}"))
    for pair in report["distances"]:
        _say(f"{_escape(pair['a'])} and {_escape(pair['b'])}: {pair['distance']:.3f} nats apart")
