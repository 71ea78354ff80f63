"""The commands but for the studies."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..checkpoint.errors import BadInput
from ..eval.processes import is_main
from .asked import drop_training, path_asked, point_asked, recipe_asked
from .effect import idle_in_align, idle_in_ensemble, idle_in_merge
from .findings import print_findings
from .options import (
    CURVES,
    PUSHING,
    Accumulate,
    Align,
    AlignBatch,
    AlignChoice,
    AlignSteps,
    AverageChoice,
    Base,
    Batch,
    BendLr,
    BendOptimizer,
    Bends,
    BendStart,
    BendWeightDecay,
    CommitMessage,
    CreatePr,
    CurveChoice,
    Data,
    Debug,
    Density,
    Device,
    DtypeChoice,
    FitOn,
    GroupAlignChoice,
    JsonFile,
    MaxMemory,
    MethodOption,
    MixedPrecision,
    Model,
    MoveChoice,
    MoveOrNotChoice,
    ObjectiveChoice,
    OptimizerA,
    OptimizerB,
    Output,
    Overwrite,
    PathOption,
    Private,
    Quiet,
    Restart,
    Revision,
    Scale,
    Search,
    Seed,
    SoupOption,
    Steps,
    Tokens,
    Weight,
)
from .places import require_places
from .recipe_effect import require_effect
from .tables import print_ensemble, print_merge, print_plan, print_spectra
from .terminal import emit, say, screen

if TYPE_CHECKING:
    from ..checkpoint.push_target import PushTarget
    from ..checkpoint.upload_check import OutputFile

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Merge transformer checkpoints along low-loss paths.",
)


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
    require_places(json_file, models=models)
    with screen(quiet) as progress:
        from ..align.families import FAMILIES
        from ..checkpoint.check import check as run

        progress.stage("checking")
        result = run(*models, families=FAMILIES)
    emit(json_file, result.to_dict())
    if not quiet:
        print_findings(result.findings)
        if result.cost:
            say((str(result.cost), "dim"))
        say(("these can be merged", "green") if result.mergeable else ("these cannot be merged", "red"))
    if not result.mergeable:
        raise typer.Exit(3)


@app.command()
def align(
    context: typer.Context,
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
    require_places(
        json_file,
        [("the output", output), ("--reference", reference)],
        models=(a, b),
        data=data,
        overwrite=overwrite,
    )
    require_effect(context, idle_in_align(method, looks=method in ("activations", "combined", "learned")))
    with screen(quiet) as progress:
        from ..merge.aligned_checkpoint import align_and_save
        from ..merge.plans import AlignPlan, LearnPlan

        if restart:
            drop_training(output)
        report = align_and_save(
            a,
            b,
            output,
            AlignPlan(
                method,
                data or (),
                LearnPlan(align_steps, align_batch, mixed_precision, seed),
                stream,
                None if dtype == "auto" else dtype,
                device,
                seed,
            ),
            reference=reference,
            overwrite=overwrite,
            progress=progress,
        )
    emit(json_file, report)
    if not quiet:
        say(
            f"aligned ({report['method']}) in {report['seconds']:.1f} s, score {report['score']:.3f}, "
            f"log-probabilities within {report['max_log_prob_error']:.1e}; written to {output}"
        )


@app.command()
def merge(
    context: typer.Context,
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
        typer.Option(
            "--max-excess", help="Highest spectral excess, in nats, that is preserved; 0.4 of it is a transition."
        ),
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
    by_operator = method is not None or len(models) != 2
    idle = idle_in_merge(
        by_operator=by_operator,
        data=bool(data),
        align=align,
        path=path,
        t=t,
        spectrum=spectrum,
        require_spectrum=require_spectrum,
        search=search,
        soup=soup,
    )
    require_effect(context, idle)
    require_places(
        json_file,
        [("the output", output)],
        models=(*models, base),
        data=data,
        directories=[path] if path not in ("linear", *CURVES) else [],
        overwrite=overwrite,
    )
    target = None
    if push_to is None and (private or revision or create_pr or commit_message):
        raise BadInput("--private, --revision, --create-pr and --commit-message are for --push: say where to push to")
    if push_to is not None and is_main():
        from ..checkpoint.push_target import PushTarget

        with screen(quiet) as progress:
            progress.stage("looking at the Hub")
            target = PushTarget.find(push_to, revision=revision, private=private, create_pr=create_pr)
            target.require_room()
    chosen = path_asked(
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
        drop_training(output)
    from ..merge.pipeline import merge_models
    from ..merge.plans import Gates, LearnPlan, MergePlan, SpectrumPlan

    with screen(quiet) as progress:
        common = dict(
            data=data or (),
            spectrum=SpectrumPlan(spectrum, restore_spectrum, max_excess, same_kind),
            tokens=tokens,
            dtype=None if dtype == "auto" else dtype,
            seed=seed,
            gates=Gates(max_barrier, require_spectrum, require_gain),
            device=device,
        )
        if by_operator:
            if align == "learned":
                raise BadInput("--align learned is for two models and the path between them: take combined")
            recipe, from_file = recipe_asked(models, method, base, weight, density, scale, t)
            if from_file and recipe.dtype and dtype != "auto":
                raise BadInput(f"the recipe says what --dtype would ({recipe.dtype}): leave --dtype out")
            result = merge_models(
                recipe,
                MergePlan(
                    align=align or ("auto" if data and not from_file and max_memory is None else "none"),
                    soup="search" if search else soup,
                    max_memory=max_memory,
                    **common,
                ),
                progress=progress,
            )
        else:
            result = merge_models(
                models,
                MergePlan(
                    align=align,
                    learn=LearnPlan(align_steps, align_batch, mixed_precision, seed),
                    path=chosen,
                    fit_on=fit_on or (),
                    t=point_asked(t),
                    objective=objective,
                    interior=interior,
                    optimizers=(optimizer_a, optimizer_b),
                    **common,
                ),
                beside=output,
                progress=progress,
            )
        progress.stage("saving")
        report = result.report
        if is_main():
            report = result.save(output, overwrite=overwrite, repo_id=target.repo_id if target else None)
    emit(json_file, report)
    if not quiet:
        print_merge(report)
        say(f"written to {output}")
    if target is not None:  # looked up again: others may have pushed there meanwhile
        target = type(target).find(target.repo_id, revision=revision, private=private, create_pr=create_pr)
        from ..checkpoint.upload_check import read_output

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
    from ..checkpoint.push_target import PushTarget
    from ..checkpoint.upload_check import read_output

    require_places(json_file, directories=[directory])
    with screen(quiet) as progress:
        progress.stage("reading what was written")
        files = read_output(directory, edited_card=edited_card)
        progress.stage("looking at the Hub")
        target = PushTarget.find(repo_id, revision=revision, private=private, create_pr=create_pr, writing=not dry_run)
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
    require_places(json_file, [("the output", output)], models=(a, b), data=data, overwrite=overwrite)
    chosen = path_asked(
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
        drop_training(output)
    with screen(quiet) as progress:
        from ..merge.pipeline import merge_models
        from ..merge.plans import MergePlan
        from ..merge.result import path_report

        result = merge_models(
            [a, b],
            MergePlan(
                data=data or (),
                align=align,
                path=chosen,
                fit_on=fit_on or (),
                tokens=tokens,
                device=device,
                seed=seed,
                optimizers=(optimizer_a, optimizer_b),
            ),
            beside=output,
            progress=progress,
        )
        progress.stage("saving")
        if is_main():
            result.save_path(output, overwrite=overwrite)
    report = path_report(result.report)
    emit(json_file, report)
    if not quiet:
        print_merge(report)
        say(f"the path is written to {output}; merge with --path {output}")
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
    require_places(json_file, [("the output", output)], models=models, data=data, overwrite=overwrite)
    with screen(quiet) as progress:
        from ..merge.plane import loss_plane
        from ..merge.plans import PlanePlan

        found = loss_plane(models, PlanePlan(data or (), align, tokens, resolution, device, seed), progress=progress)
        if is_main():
            found.save(output, overwrite=overwrite)
    emit(json_file, found.report)
    if not quiet:
        say(f"written to {output}: look at report.html or plane.png there")


@app.command()
def spectrum(
    models: Annotated[list[str], typer.Argument(help="One or more models.", show_default=False)],
    json_file: JsonFile = None,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Spectra: stable ranks of every kind of matrix, the optimizers that left them, distances between models."""
    require_places(json_file, models=models)
    with screen(quiet) as progress:
        from ..merge.spectra import compare_models

        report = compare_models(models, progress)
    emit(json_file, report)
    if not quiet:
        print_spectra(report)


@app.command()
def ensemble(
    context: typer.Context,
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
    require_effect(context, idle_in_ensemble(len(models), saves=output is not None))
    require_places(
        json_file, [("the output", output)], models=models, data=data, directories=[path], overwrite=overwrite
    )
    with screen(quiet) as progress:
        from ..merge.ensembles import ensemble as run
        from ..merge.plans import EnsemblePlan

        found = run(
            models, EnsemblePlan(data or (), path, at or (), average, align, tokens, device, seed), progress=progress
        )
        if output is not None and is_main():
            progress.stage("saving")
            found.save(output, overwrite=overwrite)
    emit(json_file, found.report)
    if not quiet:
        print_ensemble(found.report)
        if output is not None:
            say(f"written to {output}: open it with isthmus.load_ensemble")


@app.command()
def demo(
    output: Annotated[Path, typer.Option("--output", "-o", help="The directory to write.")] = Path("isthmus-demo"),
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """The main job on the embedded checkpoints, offline, in about a minute."""
    from ..lab.demo import EXAMPLES, require_room, run_example

    require_room(output, overwrite=overwrite)
    for example in EXAMPLES:
        if not quiet:
            say()
            say((example.title, "bold"))
            say((example.command(output), "dim"))
        with screen(quiet) as progress:
            report = run_example(example, output, overwrite=overwrite, progress=progress)
        if not quiet:
            print_merge(report)
            say(f"written to {output / example.name}, the figures to report.html there")


def _push(
    files: Sequence[OutputFile],
    target: PushTarget,
    message: str | None,
    *,
    overwrite: bool = False,
    dry_run: bool = False,
    json_file: str | None = None,
    quiet: bool = False,
) -> None:
    """Upload the files of a merge, with the hub client's own progress bars."""
    from huggingface_hub.utils import disable_progress_bars

    from ..checkpoint.push import plan_push

    plan = plan_push(files, target, overwrite=overwrite)
    if quiet:
        disable_progress_bars()
    pushed = None if dry_run else plan.carry_out(message)
    emit(json_file, plan.to_dict(pushed))
    if not quiet and pushed is None:
        print_plan(plan)
    elif not quiet and pushed is not None:
        did = "proposed" if target.create_pr else "pushed"
        say(f"{did if plan.changed else 'nothing to push, it is all there'}: {pushed.url}")
