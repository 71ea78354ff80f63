"""The command line: parse, call, print. People read stderr, programs read stdout or --json.

A parameter of a command that is a plan (`isthmus.merge.plans`) stands for the options that the plan describes.
"""

from __future__ import annotations

import gc
import os
import shlex
import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, TextIO, cast

import typer

from .checkpoint.errors import BadInput, IsthmusError
from .checkpoint.outputs import require_outputs
from .checkpoint.path_conflicts import Place, model_places
from .checkpoint.redaction import Redacting
from .checkpoint.reference import shown_name
from .checkpoint.runs import expanded, is_pattern, last
from .checkpoint.working_folders import release_all
from .eval.corpora import text_places
from .eval.processes import finish, is_main
from .eval.tasks.specs import task_places
from .lab.architectures import Architecture
from .merge.comparing.plan import ComparePlan
from .merge.idle import idle_in_align, idle_in_compare, idle_in_ensemble, idle_in_explain, idle_in_merge, require_effect
from .merge.options import PATH, PUSHING, RUNNING, TRAINING, Option, option
from .merge.plans import (
    Align,
    AlignPlan,
    CurvePlan,
    EnsemblePlan,
    ExplainPlan,
    ExtractPlan,
    MergePlan,
    OperatorPlan,
    PlanePlan,
)
from .merge.recipes.yaml_reader import directories_in, is_recipe
from .merge.typer_commands import Command, Given, shown_examples
from .merge.typer_commands import command as command_of
from .terminal import (
    emit,
    fail,
    print_alignment,
    print_comparison,
    print_ensemble,
    print_explanation,
    print_extraction,
    print_findings,
    print_fingerprints,
    print_forecast,
    print_merge,
    print_push,
    print_spectra,
    print_symmetries,
    say,
    screen,
)

if TYPE_CHECKING:
    from .checkpoint.push import PushPlan
    from .checkpoint.push_target import PushTarget
    from .merge.recipes.recipe import Recipe

TERMINATED = 143
AGAIN = 0.2  # seconds
INTERRUPTED = 130
COLLECT_EVERY = 10_000  # objects: torch makes a million while it is imported, and they all stay

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Merge transformer checkpoints along low-loss paths.",
    epilog=shown_examples(
        ("Can these be merged?", "check ./a ./b"),
        ("Merge them at the best point for a text", "merge ./a ./b -o merged --data law.txt"),
    ),
)
lab = typer.Typer(
    no_args_is_help=True,
    help="The studies, and how the embedded checkpoints were made.",
    epilog=shown_examples(
        ("A study in a minute, to see that it runs", "lab table study --quick"), ("The whole study", "lab table study")
    ),
)
app.add_typer(lab, name="lab")


@dataclass(frozen=True)
class Reply:
    """How a command answers: people on stderr unless `quiet`, programs in a JSON file."""

    json_file: str | None = option(None, "Write the result as JSON to this file, or - for stdout.", name="--json")
    quiet: bool = option(False, "Print nothing but errors.", short="-q")
    debug: bool = option(False, "Show tracebacks.")

    def give(self, report: dict[str, Any], show: Callable[[dict[str, Any]], None], *sentences: str) -> None:
        """Write the report for programs; show it, and the sentences, to people."""
        emit(self.json_file, report)
        if not self.quiet:
            show(report)
            for sentence in sentences:
                say(sentence)


@dataclass(frozen=True)
class PushOptions:
    """Where on the Hub a merge goes, and with what message."""

    repo_id: str | None = option(None, "Push the merge to this repository of the Hub.", PUSHING, name="--push")
    private: bool = option(False, "Create the repository as a private one.", PUSHING)
    revision: str | None = option(None, "The branch; created if need be.", PUSHING)
    create_pr: bool = option(False, "Open a pull request instead.", PUSHING)
    message: str | None = option(None, "What the commit says.", PUSHING, name="--commit-message")

    def target(self, repo_id: str, *, writing: bool = True) -> PushTarget:
        """What the Hub says of that place now."""
        from .checkpoint.push_target import PushTarget

        return PushTarget.find(
            repo_id, revision=self.revision, private=self.private, create_pr=self.create_pr, writing=writing
        )


@dataclass(frozen=True)
class Optimizers:
    """What trained A and B."""

    a: str | None = option(None, "What trained A, where you know better.", PATH, name="--optimizer-a")
    b: str | None = option(None, "What trained B, where you know better.", PATH, name="--optimizer-b")


@dataclass(frozen=True)
class StudyArguments:
    """How much a study does, and at a time."""

    quick: bool = option(False, "A minute, to see that it runs: the numbers mean nothing.")
    workers: int | None = option(None, "Parts at a time, one core each.", minimum=1, shown_default="all cores")
    data: Sequence[str] = option((), "More text to measure on, as for merge. Repeatable.")


def _argument(help: str) -> Any:
    return typer.Argument(help=help, show_default=False)


# A plan of which a command takes some fields and no others.
Silent = Annotated[Reply, ("quiet", "debug")]
Study = Annotated[StudyArguments, ("quick", "workers")]
PushPlace = Annotated[PushOptions, ("private", "revision", "create_pr", "message")]
Trained = Annotated[MergePlan, ("data", "align", "fit_on", "report_on", "tokens", "context", "device", "seed")]

Model = Annotated[str, _argument("A directory, or a Hub id: user/model, user/model@revision, user/model:subfolder.")]
Family = Annotated[Architecture, Option("The architecture.")]
WorkDirectory = Annotated[Path, _argument("The directory to work in; what is finished there is not repeated.")]
Output = Annotated[Path, Option("The directory to write.", short="-o")]
Overwrite = Annotated[bool, Option("Replace an output directory that is not empty.")]
Restart = Annotated[bool, Option("Drop an interrupted training of this output.", TRAINING)]


def command(
    *examples: tuple[str, str], group: typer.Typer = app, name: str | None = None, about: str = ""
) -> Callable[[Command], Command]:
    """Make a function a command (`isthmus.merge.typer_commands.command`)."""
    return command_of(group, *examples, name=name, about=about)


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


@command(
    ("Two models on the Hub", "check gpt2 user/gpt2-finetuned"), ("For a script", "check ./a ./b ./c --json - --quiet")
)
def check(models: Annotated[list[str], _argument("Two or more models.")], *, reply: Reply) -> None:
    """Can these models be merged? Headers and small files only, no weights are downloaded."""
    if len(models) < 2:
        raise BadInput("check compares models: give at least two")
    require_outputs(reply.json_file, [], _inputs(models))
    with screen(reply.quiet) as progress:
        from .align.families import FAMILIES
        from .checkpoint.check import check as run

        progress.stage("checking")
        result = run(*models, families=FAMILIES)
    emit(reply.json_file, result.to_dict())
    if not reply.quiet:
        print_findings(result.findings)
        if result.diagnosis:
            say(str(result.diagnosis))
        if result.cost:
            say((str(result.cost), "dim"))
        say(("these can be merged", "green") if result.mergeable else ("these cannot be merged", "red"))
    if not result.mergeable:
        raise typer.Exit(3)


@command(
    ("Average them yourself afterwards", "align ./a ./b -o b-aligned --reference a-canonical"),
    ("The best alignment, learned on text", "align ./a ./b -o b-aligned --method learned --data law.txt"),
)
def align(
    a: Model,
    b: Model,
    *,
    output: Output,
    reference: Annotated[
        Path | None, Option("Also write A, in the form that B was moved next to, to this directory.")
    ] = None,
    overwrite: Overwrite = False,
    plan: AlignPlan,
    restart: Restart = False,
    given: Given,
    reply: Reply,
) -> None:
    """Move B next to A; B's function does not change. Writes the moved B and alignment.safetensors.

    An orthogonally aligned B is in canonical form: average it with the canonical form of A, which --reference writes.
    """
    outputs = [("the output", output), ("--reference", reference)]
    require_outputs(reply.json_file, outputs, _inputs((a, b), plan.data), overwrite=overwrite)
    require_effect(given, idle_in_align(plan))
    with screen(reply.quiet) as progress:
        if restart:
            _drop_training(output)
        from .merge.aligned_checkpoint import align_and_save

        report = align_and_save(a, b, output, plan, reference=reference, overwrite=overwrite, progress=progress)
    reply.give(report, print_alignment, f"written to {output}")


@command(
    ("Two models, at the best point for two texts", "merge ./a ./b -o merged --data law.txt --data code=stdlib:code"),
    ("Three fine-tunes of one base", "merge ./a ./b ./c -o merged --method ties --base gpt2"),
)
def merge(
    models: Annotated[
        list[str],
        _argument("Two models, or more with --method; 'run/checkpoint-*'; or a recipe of mergekit's, a .yml file."),
    ],
    *,
    output: Output,
    overwrite: Overwrite = False,
    operator: OperatorPlan,
    plan: MergePlan,
    optimizers: Optimizers,
    restart: Restart = False,
    push: PushOptions,
    only_plan: Annotated[
        bool,
        Option(
            "Say what this would read, train and measure, in what memory and time on this machine, and stop.",
            RUNNING,
            name="--plan",
        ),
    ] = False,
    given: Given,
    reply: Reply,
) -> None:
    """Merge models: check, align, walk the path to its lowest point or apply a method, measure, save.

    Two models are merged along the path between them. More, or two with --method, are merged by an operator: linear,
    slerp, nuslerp, multislerp, karcher; with --base task_arithmetic, ties, dare_linear, dare_ties, della, della_linear,
    breadcrumbs, breadcrumbs_ties, sce, ram, ramplus_tl, nearswap, arcee_fusion, model_stock; with --data fisher,
    regmean.
    """
    run = any(map(is_pattern, models)) or operator.last is not None
    by_operator = operator.method is not None or len(models) != 2 or run
    models = expanded(models) if operator.last is None else last(expanded(models), operator.last)
    plan = replace(plan, soup=operator.soup, optimizers=(optimizers.a, optimizers.b))
    require_effect(given, idle_in_merge(plan, by_operator=by_operator))
    inputs = _inputs(
        (*models, operator.base), plan.data, [plan.path] if isinstance(plan.path, Path) else [], plan.tasks
    )
    require_outputs(reply.json_file, [("the output", output)], inputs, overwrite=overwrite)
    target = _target_of_merge(push, reply)
    if only_plan:
        with screen(reply.quiet) as progress:
            from .merge.forecast import forecast

            recipe, plan = _recipe(models, operator, plan, given) if by_operator else (models, plan)
            foreseen = forecast(recipe, plan, progress=progress, before=time.process_time())
        reply.give(foreseen.to_dict(), print_forecast, "nothing was merged: leave --plan out")
        return
    if restart:
        _drop_training(output)
    with screen(reply.quiet) as progress:
        from .merge.pipeline import merge_models

        recipe, plan = _recipe(models, operator, plan, given) if by_operator else (models, plan)
        result = merge_models(recipe, plan, beside=output, progress=progress)
        progress.stage("saving")
        report = result.report
        if is_main():
            report = result.save(output, overwrite=overwrite, repo_id=target.repo_id if target else None)
    reply.give(report, print_merge, f"written to {output}")
    if target is not None:  # looked up again: others may have pushed there meanwhile
        from .checkpoint.push import plan_push
        from .checkpoint.upload_check import read_output

        plan_of_push = plan_push(read_output(output), push.target(target.repo_id))
        _push(plan_of_push, push.message, replace(reply, json_file=None))


@command(
    ("What a fine-tune adds to its base, at the ranks it needs", "extract ./tuned --base gpt2 -o lora --energy 0.99"),
    ("At one rank, with what that loses", "extract ./tuned --base gpt2 -o lora --rank 16 --data law.txt"),
)
def extract(
    model: Model,
    *,
    base: Annotated[str, Option("The model that it was trained from.")],
    output: Output,
    overwrite: Overwrite = False,
    plan: ExtractPlan,
    reply: Reply,
) -> None:
    """Write what a model is more than its base as a LoRA adapter, which peft loads.

    Linear maps are cut to their largest singular values; embeddings, output matrices, norms and biases that differ go
    in whole.
    """
    inputs = _inputs((model, base), plan.data)
    require_outputs(reply.json_file, [("the output", output)], inputs, overwrite=overwrite)
    with screen(reply.quiet) as progress:
        from .merge.extract import extract as extract_adapter

        report = extract_adapter(model, base, output, plan, overwrite=overwrite, progress=progress)
    reply.give(report, print_extraction, f"written to {output}: name it {base}+{output}")


@command(
    ("A new repository that nobody else sees", "push merged user/merged --private"),
    ("See what would be sent", "push merged user/merged --dry-run"),
)
def push(
    directory: Annotated[Path, _argument("What `isthmus merge` wrote.")],
    repo_id: Annotated[str, _argument("The repository: user/model.")],
    *,
    edited_card: Annotated[bool, Option("README.md was changed on purpose since the merge.")] = False,
    dry_run: Annotated[bool, Option("List what would go, and send nothing.")] = False,
    overwrite: Annotated[bool, Option("Replace the model that is in the repository already.")] = False,
    options: PushPlace,
    reply: Reply,
) -> None:
    """Push a merge to the Hub, in one commit. The same command again goes on with an interrupted upload.

    Log in with `hf auth login` first, or set HF_TOKEN.
    """
    from .checkpoint.push import plan_push
    from .checkpoint.upload_check import read_output

    require_outputs(reply.json_file, [], _inputs(directories=[directory]))
    with screen(reply.quiet) as progress:
        progress.stage("reading what was written")
        files = read_output(directory, edited_card=edited_card)
        progress.stage("looking at the Hub")
        target = options.target(repo_id, writing=not dry_run)
    _push(plan_push(files, target, overwrite=overwrite), options.message, reply, dry_run=dry_run)


@command(
    ("A curve with one bend", "path ./a ./b -o curve --data law.txt"),
    ("On several GPUs, with `accelerate launch -m` before it", "path ./a ./b -o curve --data law.txt --bends 3"),
    name="path",
)
def train_path(
    a: Model,
    b: Model,
    *,
    output: Output,
    overwrite: Overwrite = False,
    plan: Trained,
    curve: CurvePlan,
    restart: Restart = False,
    optimizers: Optimizers,
    reply: Reply,
) -> None:
    """Train a curved path between two models and save it, for `merge --path OUT`.

    The same command again goes on with a training that was interrupted. With `accelerate launch -m isthmus path ...` it
    runs on several GPUs, and with `--use_fsdp` after `launch` these share all weights.
    """
    require_outputs(reply.json_file, [("the output", output)], _inputs((a, b), plan.data), overwrite=overwrite)
    if restart:
        _drop_training(output)
    plan = replace(plan, path=curve, optimizers=(optimizers.a, optimizers.b))
    with screen(reply.quiet) as progress:
        from .merge.pipeline import merge_models
        from .merge.result import path_report

        result = merge_models([a, b], plan, beside=output, progress=progress)
        progress.stage("saving")
        if is_main():
            result.save_path(output, overwrite=overwrite)
    report = path_report(result.report)
    reply.give(report, print_merge, f"the path is written to {output}; merge with --path {output}")
    if result.report["path"]["diverged_at"]:
        raise typer.Exit(1)


@command(
    ("Three fine-tunes", "plane ./a ./b ./c -o plane --data law.txt"),
    ("As they are, in more detail", "plane ./a ./b ./c -o plane --data law.txt --align none --resolution 25"),
)
def plane(
    models: Annotated[list[str], _argument("Three models; B and C are aligned to A.")],
    *,
    output: Output,
    overwrite: Overwrite = False,
    plan: PlanePlan,
    reply: Reply,
) -> None:
    """The loss on the plane through three models: report.html and plane.png."""
    require_outputs(reply.json_file, [("the output", output)], _inputs(models, plan.data), overwrite=overwrite)
    with screen(reply.quiet) as progress:
        from .merge.plane import loss_plane

        result = loss_plane(models, plan, progress=progress)
        if is_main():
            result.save(output, overwrite=overwrite)
    reply.give(result.report, lambda _: say(f"written to {output}: look at report.html or plane.png there"))


@command(
    ("What trained this model?", "spectrum ./a"),
    ("How far apart are the spectra of two?", "spectrum ./a ./b --json spectra.json"),
)
def spectrum(models: Annotated[list[str], _argument("One or more models.")], *, reply: Reply) -> None:
    """Spectra: stable ranks of every kind of matrix, the optimizers that left them, distances between models."""
    require_outputs(reply.json_file, [], _inputs(models))
    with screen(reply.quiet) as progress:
        from .merge.spectra import compare_models

        report = compare_models(models, progress)
    reply.give(report, print_spectra)


@command(
    ("Is the merge as good as the ensemble?", "ensemble ./a ./b --data law.txt"),
    ("With the middle of a trained path", "ensemble ./a ./b --data law.txt --path curve --at 0.5 -o ensemble"),
)
def ensemble(
    models: Annotated[list[str], _argument("Two or more models.")],
    *,
    output: Annotated[
        Path | None, Option("Save it as a small directory for isthmus.load_ensemble, without weights.", short="-o")
    ] = None,
    overwrite: Overwrite = False,
    plan: EnsemblePlan,
    given: Given,
    reply: Reply,
) -> None:
    """The members, their soup, their merge and their ensemble on the same text, with the cost of each.

    With --task they are asked the same questions, too.
    """
    require_effect(given, idle_in_ensemble(len(models), saves=output is not None))
    inputs = _inputs(models, plan.data, [plan.path] if plan.path else [], plan.tasks)
    require_outputs(reply.json_file, [("the output", output)], inputs, overwrite=overwrite)
    with screen(reply.quiet) as progress:
        from .merge.ensembles import ensemble as measure_ensemble

        result = measure_ensemble(models, plan, progress=progress)
        if output is not None and is_main():
            progress.stage("saving")
            result.save(output, overwrite=overwrite)
    written = [f"written to {output}: open it with isthmus.load_ensemble"] if output else []
    reply.give(result.report, print_ensemble, *written)


@command(
    ("Why is this merge what it is?", "explain ./merged"),
    ("A merge by another tool, with losses", "explain ./m ./a ./b --base gpt2 --data law.txt -o why"),
)
def explain(
    merge: Annotated[str, _argument("The merge.")],
    parents: Annotated[
        list[str] | None, _argument("What it was made of; by default what its isthmus.json names, next to it.")
    ] = None,
    *,
    base: Annotated[str | None, Option("The model that the parents were trained from.")] = None,
    output: Annotated[Path | None, Option("Write explain.html and isthmus.json to this directory.", short="-o")] = None,
    overwrite: Overwrite = False,
    plan: ExplainPlan,
    given: Given,
    reply: Reply,
) -> None:
    """What a merge did, by layer and kind of matrix.

    How far it is from each parent, how much it keeps of each, where the parents conflict. With --data, what every layer
    and part costs when it alone is a parent's.
    """
    require_effect(given, idle_in_explain(plan, saves=output is not None))
    models = [merge, *(parents or []), *([base] if base is not None else [])]
    require_outputs(reply.json_file, [("the output", output)], _inputs(models, plan.data), overwrite=overwrite)
    with screen(reply.quiet) as progress:
        from .merge.explain import explain as explain_merge

        result = explain_merge(merge, parents or (), plan, base=base, progress=progress)
        if output is not None and is_main():
            result.save(output, overwrite=overwrite)
    written = [f"the heat maps are in {output / 'explain.html'}"] if output else []
    reply.give(result.report, print_explanation, *written)


@command(
    ("Which method suits these fine-tunes?", "compare ./a ./b --base gpt2 --data law.txt"),
    ("By questions, kept while it goes on", "compare ./a ./b ./c --base gpt2 --data law.txt --task q.jsonl -o table"),
)
def compare(
    models: Annotated[list[str], _argument("Two or more models.")],
    *,
    base: Annotated[str | None, Option("The model that the others were trained from.")] = None,
    output: Annotated[Path | None, Option("Write recipe.yml and isthmus.json to this directory.", short="-o")] = None,
    overwrite: Overwrite = False,
    plan: ComparePlan,
    restart: Annotated[bool, Option("Drop an interrupted comparison of this output.")] = False,
    given: Given,
    reply: Reply,
) -> None:
    """A table of methods: each with weights that are searched for under one budget, against the plain average.

    What chooses is never what reports. The recipe of the winner makes its merge again, by isthmus merge. With -o, a
    comparison that was interrupted goes on with the same command.
    """
    require_effect(given, idle_in_compare(plan, saves=output is not None))
    inputs = _inputs((*models, base), plan.data, tasks=plan.tasks)
    require_outputs(reply.json_file, [("the output", output)], inputs, overwrite=overwrite)
    if restart and output is not None:
        _drop_training(output)
    with screen(reply.quiet) as progress:
        from .merge.comparing.comparison import compare as compare_methods

        result = compare_methods(models, plan, base=base, beside=output, progress=progress)
        if output is not None and is_main():
            result.save(output, overwrite=overwrite)
    written = []
    if output is not None:
        recipe = shlex.quote(str(output / "recipe.yml"))
        command = result.report["merge_command"].replace("recipe.yml", recipe, 1)
        written = [f"written to {output}; the winner is made by: {command}"]
    reply.give(result.report, print_comparison, *written)


@command(("See what isthmus does", "demo"), ("Elsewhere", "demo -o elsewhere"))
def demo(*, output: Output = Path("isthmus-demo"), overwrite: Overwrite = False, reply: Silent) -> None:
    """The main job on the embedded checkpoints, offline, in about two minutes."""
    from .lab.demo import EXAMPLES, require_room, run_example

    require_room(output, overwrite=overwrite)
    for example in EXAMPLES:
        if not reply.quiet:
            say()
            say((example.title, "bold"))
            say((example.command(output), "dim"))
        with screen(reply.quiet) as progress:
            report = run_example(example, output, overwrite=overwrite, progress=progress)
        reply.give(report, print_merge, f"written to {output / example.name}, the figures to report.html there")


@command(
    ("All of them", "lab pretrain checkpoints"),
    ("A Llama, to see that it runs", "lab pretrain llamas --family llama --name adamw-1 --steps 50"),
    group=lab,
)
def pretrain(
    output: WorkDirectory,
    *,
    family: Family = "gpt2",
    name: Annotated[Sequence[str], Option("Train only these. Repeatable.")] = (),
    steps: Annotated[int | None, Option("Fewer steps than the recipes say.", minimum=1)] = None,
    reply: Silent,
) -> None:
    """Train the embedded checkpoints again, or small models of another architecture, from the standard library of this
    Python. Finished ones are kept.
    """
    from .lab.pretrain import make_checkpoints

    with screen(reply.quiet) as progress:
        losses = make_checkpoints(output, architecture=family, names=name or None, steps=steps, progress=progress)
    if not reply.quiet:
        for checkpoint, loss in losses.items():
            say(f"{checkpoint}: training loss {loss:.3f}")


@command(
    ("The table", "lab fingerprint study"),
    ("The numbers as well", "lab fingerprint study --json fingerprints.json"),
    group=lab,
)
def fingerprint(output: WorkDirectory, *, reply: Reply) -> None:
    """Does the spectral fingerprint tell optimizers apart? Trains models (an hour on two cores) and judges them."""
    require_outputs(reply.json_file, [("the directory", output)], [], existing=True)
    from .lab.fingerprint_study import fingerprint_study

    with screen(reply.quiet) as progress:
        verdicts = fingerprint_study(output, progress=progress)
    report = {"models": [{**asdict(verdict), "outcome": verdict.outcome} for verdict in verdicts]}
    reply.give(report, lambda _: print_fingerprints(verdicts))


@command(
    ("The table", "lab symmetries study"),
    ("Of Llamas, with the numbers", "lab symmetries llamas --family llama --json llamas.json"),
    group=lab,
)
def symmetries(
    output: WorkDirectory,
    *,
    family: Family = "gpt2",
    reply: Reply,
) -> None:
    """Which symmetry buys what? Trains models, ablates their pairs (GPT-2: an hour on two cores)."""
    require_outputs(reply.json_file, [("the directory", output)], [], existing=True)
    from .lab.symmetries import symmetry_study, table_rows

    with screen(reply.quiet) as progress:
        pairs = symmetry_study(output, family, progress=progress)
    names = ("kind", "step", "barrier", "std", "share")
    table = [dict(zip(names, row, strict=True)) for row in table_rows(pairs)]
    reply.give({"pairs": [asdict(pair) for pair in pairs], "table": table}, print_symmetries)


def _study_command(name: str, about: str) -> None:
    quick, whole = f"lab {name} study --quick", f"lab {name} study --workers 4"

    @command(("In a minute", quick), ("With four cores", whole), group=lab, name=name, about=about)
    def study(directory: WorkDirectory, *, options: Study, reply: Reply) -> None:
        _run_study(name, directory, options, reply)


for _name, _about in {
    "relu": "Two-layer ReLU networks: constraint sets, connectivity in them, optimizers' regions, a certified barrier.",
    "table": "Barriers between small GPT-2s trained by AdamW, Muon and Lion, by alignment, and with one bend.",
    "spectra": "Spectra along paths between those models, and the calibration of the verdict on them.",
    "planes": "The loss on planes through three of those models, before and after alignment.",
    "practice": "Does the optimizer of fine-tuning change how models merge? Is a merge a good start for training on?",
    "width": "Barriers between models of equal loss as they grow wider, by alignment, and with one bend.",
}.items():
    _study_command(_name, _about)


@command(
    ("In a minute", "lab generalization study --quick"),
    ("On your text, too", "lab generalization study --data law.txt"),
    group=lab,
)
def generalization(directory: WorkDirectory, *, options: StudyArguments, reply: Reply) -> None:
    """Points of those paths on other text than the models were trained on, and in ensembles."""
    _run_study("generalization", directory, options, reply)


def _run_study(name: str, directory: Path, options: StudyArguments, reply: Reply) -> None:
    inputs = _inputs(data=options.data)
    require_outputs(reply.json_file, [("the directory", directory)], inputs, existing=True)
    from .lab.options import StudyOptions
    from .lab.parts import cores
    from .lab.studies import run_study

    with screen(reply.quiet) as progress:
        settings = StudyOptions(options.quick, options.workers or cores(), tuple(options.data))
        record = run_study(name, directory, settings, progress)
    numbers = f"{directory / name}.json has the numbers, .png the figure"
    reply.give(record, lambda study: say(study["question"]), numbers)


def _inputs(
    models: Sequence[str | None] = (),
    data: Sequence[str] = (),
    directories: Sequence[Path] = (),
    tasks: Sequence[str] = (),
) -> list[Place]:
    """Where all that a command reads is: models or recipes, with what these name, text, directories and questions."""
    places = []
    for model in models:
        if model is not None and is_recipe(model):
            places += [Place.of("the recipe", model), *model_places(directories_in(Path(model)))]
        elif model is not None:
            places += model_places([model])
    others = [Place.of("the directory", path) for path in directories]
    return [*places, *text_places(data), *others, *task_places(tasks)]


def _drop_training(output: Path) -> None:
    from .merge.training.training_state import TrainingState

    if is_main():
        TrainingState.beside(output, None).remove()


def _recipe(models: Sequence[str], operator: OperatorPlan, plan: MergePlan, given: Given) -> tuple[Recipe, MergePlan]:
    """The recipe that models and options come to, or that a file is; and the plan without what the recipe says."""
    from .merge.recipes.mergekit import read_recipe
    from .merge.recipes.recipe import recipe

    if len(models) == 1 and is_recipe(models[0]):
        for option in ("--method", "--base", "--weight", "--density", "--lambda", "--t", "--parameter"):
            if option in given:
                raise BadInput(f"the recipe says what {option} would: leave {option} out")
        written = read_recipe(models[0])
        if written.dtype and plan.dtype:
            raise BadInput(f"the recipe says what --dtype would ({written.dtype}): leave --dtype out")
        return written, replace(plan, align=plan.align or "none")
    if len(models) == 1 and operator.base is None:
        raise BadInput("give two models or more, one with --base, or a recipe (a .yml file)")
    chosen = recipe(
        operator.method or "linear",
        models,
        base=operator.base,
        weights=operator.weights,
        densities=operator.densities,
        scale=operator.scale,
        t=0.5 if operator.method == "slerp" and plan.chooses_weights else plan.t,
        parameters=dict(operator.parameters),
    )
    compares = plan.data and plan.max_memory is None and plan.as_lora is None
    usual: Align = "auto" if compares else "none"
    return chosen, replace(plan, t=None, align=plan.align or usual)


def _target_of_merge(push: PushOptions, reply: Reply) -> PushTarget | None:
    """Where a merge will be pushed to: whether that can be is found out before the work begins."""
    if push.repo_id is None and push != PushOptions():
        raise BadInput("--private, --revision, --create-pr and --commit-message are for --push: say where to push to")
    if push.repo_id is None or not is_main():
        return None
    with screen(reply.quiet) as progress:
        progress.stage("looking at the Hub")
        target = push.target(push.repo_id)
        target.require_room()
    return target


def _push(plan: PushPlan, message: str | None, reply: Reply, *, dry_run: bool = False) -> None:
    """Upload the files of a merge, with the hub client's own progress bars."""
    from huggingface_hub.utils import disable_progress_bars

    if reply.quiet:
        disable_progress_bars()
    pushed = None if dry_run else plan.carry_out(message)
    reply.give(plan.to_dict(pushed), lambda _: print_push(plan, pushed))


def main() -> None:
    """Run the command line; errors become one sentence and an exit code. Nothing secret is written to stderr."""
    for number in (signal.SIGTERM, signal.SIGALRM):
        signal.signal(number, _stop)
    gc.set_threshold(COLLECT_EVERY)
    try:
        with redirect_stderr(cast("TextIO", Redacting(sys.stderr))):
            _run()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def _stop(*_: object) -> None:
    """End the process, leaving nothing behind. Python drops what is raised in a finalizer: then it is raised again."""
    error = sys.exception()
    while error is not None and not isinstance(error, SystemExit):
        error = error.__context__
    if error is None:
        signal.setitimer(signal.ITIMER_REAL, AGAIN)
        sys.exit(TERMINATED)


def _run() -> None:
    try:
        code = app(standalone_mode=False)  # typer gives the code of an Exit, and 130 for Ctrl-C
        finish()
        if code == INTERRUPTED:
            raise KeyboardInterrupt
        if code:
            sys.exit(code)
    except IsthmusError as error:
        fail(str(error), error.exit_code)
    except KeyboardInterrupt:
        fail("interrupted; nothing half-written was left", INTERRUPTED)
    except MemoryError:
        fail("out of memory; nothing half-written was left", 1)
    except BrokenPipeError:  # nobody reads it any more
        sys.exit(1)
    except SystemExit:
        raise
    except BaseException as error:
        usage = getattr(error, "exit_code", None)
        if isinstance(usage, int) and hasattr(error, "format_message"):
            fail(error.format_message() or f"see 'isthmus {' '.join(sys.argv[1:2])} --help'", 2)
        if isinstance(error, OSError) and error.filename is not None and error.strerror:
            place = os.fsdecode(error.filename) if isinstance(error.filename, bytes) else str(error.filename)
            fail(f"cannot use '{shown_name(Path(place))[:100]}': {error.strerror}", 2)
        advice = "the traceback is above" if "--debug" in sys.argv else "run again with --debug to see where"
        fail(f"something unforeseen happened ({type(error).__name__}: {error}); {advice}", 1)


def script() -> NoReturn:
    """`main` as a process of its own, which ends without taking torch apart: that takes as long as a small merge."""
    code = 0
    for number, stream in enumerate((sys.stdin, sys.stdout, sys.stderr)):
        if stream is None:  # closed by who started this: the next file must not be opened in its place
            os.dup2(os.open(os.devnull, os.O_RDWR), number)
    if sys.stderr is None:
        sys.stderr = Path(os.devnull).open("w")  # noqa: SIM115 - for as long as the process runs
    try:
        main()
    except SystemExit as leaving:
        code = leaving.code if isinstance(leaving.code, int) else 1
    release_all()  # what is still referred to may own a temporary folder
    try:
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
    except OSError:  # nobody reads it any more, or there is no room; what matters was flushed when it was written
        code = code or 1
    os._exit(code)
