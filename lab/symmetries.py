"""The study of symmetries: linear barriers as the group grows, on pairs of models that differ in seed or optimizer.

Five AdamW and five Muon models, of which only seeds differ (the embedded ones are two of each), make five pairs of
either kind and five mixed ones. For each of them, the barrier of the straight line on text that was not fitted on:
without alignment; with permutations; also with a rotation of the residual stream; also with rotations inside heads;
with activations as well as weights; and learned, with invertible maps inside heads and the gauge of norms.

Of other architectures than GPT-2, three models of either optimizer, trained for fewer steps, make three pairs of
every kind, whose closed form is also the start of a curve with one bend. (Curves between GPT-2s are the study of
`isthmus.lab.table`.)
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from statistics import mean

import torch

from ..align.alignment import Alignment
from ..align.canonical import canonical
from ..align.families import family
from ..align.matching import match
from ..align.pipeline import Aligned, align_states
from ..align.universe import Universe
from ..checkpoint.loading import Checkpoint, load
from ..checkpoint.saving import replace_json
from ..eval.barrier import profile
from ..eval.loss import LossMeter
from ..eval.progress import Progress
from ..eval.text import Blocks, Text
from ..merge.path import WeightPath
from ..merge.plans import CurvePlan, LearnPlan
from ..merge.reading import ACTIVATION_TOKENS, blocks_to_look_at
from ..merge.search import grid
from ..merge.training.fitting import Fitter
from .architectures import FEWER, Architecture
from .demo import CHECKPOINTS
from .options import SEEDS
from .parts import spread
from .pretrain import (
    EMBEDDED,
    TrainingRecipe,
    config_of,
    embedded_tokenizer,
    make_checkpoint,
    recipes_of,
    small_config,
)

DATA = ("stdlib:docs", "stdlib:code")
PLAN = LearnPlan(steps=400)
STEPS = ("none", "permutation", "residual rotation", "head maps", "activations", "learned")
BEND = "one bend"
FIRST = {"adamw": EMBEDDED[0], "muon": EMBEDDED[1]}


@dataclass(frozen=True)
class Ablation:
    """One pair: its kind, and the barrier in nats after every step of `STEPS`, each of which adds to those before.

    The step `BEND`, where it was asked for, comes after the closed forms.
    """

    kind: str
    a: str
    b: str
    barriers: Mapping[str, float]


def recipes(architecture: Architecture = "gpt2") -> list[TrainingRecipe]:
    """The models that are trained: of GPT-2, those beside the embedded ones."""
    if architecture != "gpt2":
        return list(recipes_of(architecture))
    return [
        replace(first, name=f"{name}-{number}", seed=10 * number + first.seed)
        for number in range(3, SEEDS + 1)
        for name, first in FIRST.items()
    ]


def pairs(architecture: Architecture = "gpt2") -> list[tuple[str, str, str]]:
    """(kind, A, B): five pairs of every kind, or three."""
    triples, seeds = [], SEEDS if architecture == "gpt2" else FEWER
    for number in range(1, seeds + 1):
        after = number % seeds + 1
        triples += [(f"{name}-{name}", f"{name}-{number}", f"{name}-{after}") for name in FIRST]
        triples.append(("adamw-muon", f"adamw-{number}", f"muon-{number}"))
    return triples


def symmetry_study(
    directory: Path,
    architecture: Architecture = "gpt2",
    *,
    wanted: Sequence[tuple[str, str, str]] | None = None,
    progress: Progress | None = None,
) -> list[Ablation]:
    """Train the models into `directory`, unless they exist, and ablate all pairs, or those `wanted`.

    Pairs that were done before are read back.
    """
    progress = progress or Progress()
    directory = directory if architecture == "gpt2" else directory / architecture  # names of models are the same
    wanted = pairs(architecture) if wanted is None else wanted
    places = {recipe.name: CHECKPOINTS / recipe.name for recipe in EMBEDDED}
    for recipe in recipes(architecture):
        places[recipe.name] = directory / recipe.name
        if any(recipe.name in pair for pair in wanted) and not places[recipe.name].exists():
            make_checkpoint(recipe, config_of(architecture), directory, progress)
    ablations = []
    for kind, a, b in wanted:
        file = directory / f"{a}, {b}.json"
        if not file.exists():
            bend = None if architecture == "gpt2" else CurvePlan().for_endpoints(kind.split("-"))
            replace_json(file, ablate(load(places[a]), load(places[b]), _text(), PLAN, progress, bend=bend))
        ablations.append(Ablation(kind, a, b, json.loads(file.read_text())))
    return ablations


@cache
def _text() -> tuple[Blocks, ...]:
    tokenizer, context = embedded_tokenizer(), int(small_config().n_positions)
    text = Text(DATA, tokenizer, context=context, vocabulary=len(tokenizer))
    return text.blocks(
        fit_tokens=max(
            PLAN.training.tokens(len(DATA), context), CurvePlan().training.tokens(len(DATA), context), ACTIVATION_TOKENS
        )
    )


def ablate(
    first: Checkpoint,
    second: Checkpoint,
    text: Sequence[Blocks],
    plan: LearnPlan,
    progress: Progress,
    *,
    bend: CurvePlan | None = None,
) -> dict[str, float]:
    """The barrier of one pair, step by step, in nats per token on the report text."""
    a, b, config, table = dict(first.state), dict(second.state), first.config, family(first.config)
    fit, select, report = ({part.label: getattr(part, name) for part in text} for name in ("fit", "select", "report"))
    progress.stage(f"aligning {first.name} and {second.name}", len(STEPS))
    steps = {"none": align_states(a, b, config, "none"), "permutation": align_states(a, b, config, "permutation")}
    steps["residual rotation"] = _stream_rotated(a, b, first)
    steps["head maps"] = align_states(a, b, config, "orthogonal")
    steps["activations"] = align_states(a, b, config, "combined", ids=blocks_to_look_at(fit))
    barriers = {}
    for name, aligned in steps.items():
        barriers[name] = _barrier(WeightPath("linear", aligned.a, aligned.b), aligned, report)
        progress.advance()
    fitter = Fitter(fit, select, progress=progress)
    trained = fitter.learn(Universe.of_pair(steps["activations"]), (a, b), plan)
    trained.alignment.verify(b, trained.alignment.apply(b, table), config)
    barriers["learned"] = _barrier(trained.path, steps["activations"], report)
    if bend is not None:
        start = steps["activations"]
        line = WeightPath("linear", start.a, start.b)
        curve, _ = fitter.curve(line, start.config, bend)
        barriers[BEND] = _barrier(curve.path, start, report)
    return barriers


def _stream_rotated(a: Mapping[str, torch.Tensor], b: Mapping[str, torch.Tensor], first: Checkpoint) -> Aligned:
    """A rotated residual stream, and permutations everywhere else."""
    table = family(first.config)
    untied, forms = table.untied(), [canonical(state, table) for state in (a, b)]
    acting = untied.permuting(lambda space: space.inside is not None)
    matching = match(untied.split(forms[0]), untied.split(forms[1]), acting)
    alignment = Alignment("orthogonal", matching.elements, matching.score)
    moved = alignment.apply(b, table)
    error = alignment.verify(b, moved, first.config)
    return Aligned(forms[0], moved, alignment.config(first.config), alignment, error)


def _barrier(path: WeightPath, aligned: Aligned, blocks: Mapping[str, torch.Tensor]) -> float:
    return profile(path, LossMeter(aligned.config, blocks), grid()).barrier


def table_rows(ablations: Sequence[Ablation]) -> list[tuple[str, str, float, float, float]]:
    """(kind, step, mean barrier, its standard deviation over pairs, mean share of the barrier without alignment)."""
    rows = []
    for kind in dict.fromkeys(pair.kind for pair in ablations):
        same = [pair.barriers for pair in ablations if pair.kind == kind]
        for step in same[0]:
            values = [barriers[step] for barriers in same]
            share = mean(barriers[step] / barriers["none"] for barriers in same)
            rows.append((kind, step, mean(values), spread(values), share))
    return rows
