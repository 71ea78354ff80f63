"""Options that change nothing in what is asked for: given on the command line, each is an error of one sentence."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from ..checkpoint.errors import BadInput
from .comparing.plan import ComparePlan
from .options import option_names
from .plans import CURVES, AlignPlan, CurvePlan, ExplainPlan, LearnPlan, MergePlan, OperatorPlan, SearchPlan

SHARED = {"--path", "--seed", "--mixed-precision"}  # of bends and of alignments
OF_BENDS = option_names(CurvePlan) - SHARED
OF_LEARNING = option_names(LearnPlan) - SHARED
OF_TRAINING = {"--mixed-precision", "--fit-on"}
OF_THE_PATH = {
    "--path",
    "--restore-spectrum",
    "--interior",
    "--budget",
    "--optimizer-a",
    "--optimizer-b",
}
OF_SEARCH = option_names(SearchPlan) - {"--search"}
OF_OPERATORS = {*option_names(OperatorPlan), *option_names(SearchPlan), "--max-memory"} - {"--method"}


# Whether it applies, the first names of the options that then change nothing, and what a sentence says after them.
Rule = tuple[bool, Collection[str], str]


def require_effect(given: Mapping[str, str], rules: Sequence[Rule]) -> None:
    """Raise BadInput for the first option that was given and changes nothing.

    `given` are the options on the command line, by their first names, as they are written there.
    """
    for applies, options, why in rules:
        for name, written in given.items():
            if applies and name in options:
                raise BadInput(f"{written} {why}")


def idle_in_merge(plan: MergePlan, *, by_operator: bool) -> list[Rule]:
    """What changes nothing in a merge, of two models on a path or of any number by an operator."""
    two_models = "is for two models and the path between them: leave it out, or leave --method out"
    curve = isinstance(plan.path, CurvePlan)
    reads_no_text = not plan.data and not plan.writes_text
    plain = reads_no_text and plan.path == "linear" and (plan.align == "none" or (by_operator and plan.align is None))
    measures = plan.spectrum.measure or (plan.spectrum.measure is None and not plain)
    star = by_operator and curve
    learns = plan.alignment == "learned" and not star if by_operator else plan.learns_on_line
    evolves, chosen = (
        plan.search is not None and plan.search.method == "cma",
        f"--soup {plan.soup}" if plan.search is None else "--search",
    )
    return [
        (not by_operator, OF_OPERATORS, "is one of the options that are for a --method: name one, or leave it out"),
        (by_operator, OF_THE_PATH - {"--path"}, two_models),
        (by_operator and not star, {"--path", *OF_BENDS}, f"{two_models}, or take --path polychain for three or more"),
        (
            by_operator and not learns and not star,
            OF_LEARNING | OF_TRAINING,
            "is for --align learned: add it, or leave this out",
        ),
        (by_operator and plan.t is None, {"--t"}, f"auto {two_models}"),
        (
            by_operator and not plan.chooses_weights,
            {"--objective"},
            "is what t is chosen by, or weights: add --search, or leave it out",
        ),
        (not curve, OF_BENDS, f"is for bends: add --path {' or '.join(CURVES)}, or leave it out"),
        (
            not learns,
            OF_LEARNING,
            "is for an alignment that is learned for a straight line: that takes --align learned, or auto and --data",
        ),
        (
            not plan.trains and not learns,
            OF_TRAINING,
            "is for training, and neither bends nor an alignment are trained here",
        ),
        (plan.t is not None, {"--objective", "--interior"}, "is for the choice of t: leave out it, or --t"),
        (reads_no_text, {"--tokens", "--context"}, "counts tokens of text: add --data, or leave it out"),
        (not plan.data, {"--report-on", "--fit-on"}, "names a text: add --data, or leave it out"),
        (
            plan.gates.require_spectrum and plan.spectrum.measure is False,
            {"--spectrum"},
            "contradicts --require-spectrum: leave one out",
        ),
        (
            not plan.gates.require_spectrum and not measures,
            {"--max-excess", "--same-kind"},
            "is for the verdict on a spectrum, and none is measured: add --spectrum, or leave it out",
        ),
        (by_operator and not evolves and not learns and not star, {"--restart"}, f"{two_models}, or take --search cma"),
        (plan.search is None, OF_SEARCH, "is for a search for weights: add --search, or leave it out"),
        (not evolves, {"--evaluations"}, "counts what --search cma tries: leave it out"),
        (plan.search is not None, {"--soup"}, "contradicts --search: leave one out"),
        (plan.chooses_weights, {"--weight"}, f"contradicts {chosen}, which chooses weights: leave one out"),
        (by_operator and plan.chooses_weights, {"--t"}, f"contradicts {chosen}, which chooses t: leave one out"),
    ]


def idle_in_align(plan: AlignPlan) -> list[Rule]:
    """What changes nothing in an alignment by the method of the plan."""
    text = f"is text, at which --method {plan.method} does not look: take activations, combined or learned, or leave "
    return [
        (not plan.needs_text, {"--data"}, f"{text}it out"),
        (not plan.needs_text, {"--context"}, f"is for blocks of text, at which --method {plan.method} does not look"),
        (plan.method != "learned", {*OF_LEARNING, "--mixed-precision"}, "is for --method learned: leave it out"),
    ]


def idle_in_ensemble(models: int, *, saves: bool) -> list[Rule]:
    """What changes nothing in an ensemble of this many models."""
    return [
        (models < 2, {"--align"}, "is for the soup of two models or more: leave it out"),
        (not saves, {"--overwrite"}, "is for an output: add -o, or leave it out"),
    ]


def idle_in_compare(plan: ComparePlan, *, saves: bool) -> list[Rule]:
    """What changes nothing in a comparison."""
    return [
        (not saves, {"--overwrite", "--restart"}, "is for an output: add -o, or leave it out"),
        (not plan.tasks, {"--task-path"}, "is for --task: name a task of it, or leave it out"),
        (
            plan.objective == "task",
            {"--granularity"},
            "is for weights that are learned by their slopes, and scores on tasks have none: leave it out",
        ),
    ]


def idle_in_explain(plan: ExplainPlan, *, saves: bool) -> list[Rule]:
    """What changes nothing in an explanation."""
    return [
        (not plan.data, option_names(ExplainPlan) - {"--data"}, "is for losses on text: add --data, or leave it out"),
        (not saves, {"--overwrite"}, "is for an output: add -o, or leave it out"),
    ]
