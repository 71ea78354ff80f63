"""The arguments and options of the commands, and what they may be."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, get_args

import typer

TRAINING, PUSHING = "Training of bends and alignments", "Pushing to the Hub"
OPERATORS = "Merging by a method"

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
