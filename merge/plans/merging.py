"""What can be asked of a merge, of two models on a path or of any number by an operator."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from ...align.methods import Method
from ..common_options import (
    context_option,
    data_option,
    device_option,
    seed_option,
    task_path_option,
    tasks_option,
    tokens_option,
)
from ..options import ALIGNMENT, PATH, RUNNING, TEXT, option
from .gates import Gates
from .operators import SearchPlan, Soup, operator_option, read_search
from .spectrum import SpectrumPlan
from .training import CurvePlan, LearnPlan, training_option
from .words import read_path, read_point, read_rank

Align = Literal["auto"] | Method
Dtype = Literal["float32", "float16", "bfloat16"]
Objective = Literal["mean", "worst", "task"]


@dataclass(frozen=True)
class MergePlan:
    """What is asked of a merge of two models along a path, or of any number by an operator.

    `data` are corpora as `--data` takes them (`isthmus.eval.text.corpus`); each gives `tokens` tokens to select on and
    as many to report on; those of the labels `report_on` only report. Without them, a curve or a ``learned`` alignment
    is fitted to text that the two models write; else no loss is measured, and `t` and `align` have to be given.

    **Alignment.** ``auto`` goes from ``none`` over ``orthogonal`` and ``combined`` to ``learned`` (two models on a
    straight line), takes what lowers the barrier by more than the noise, and stops where the barrier is within it;
    before a curve it stops after ``orthogonal``, and it does not learn where the model is too large
    (`LearnPlan.affordable`). ``learned`` that is asked for is for any number of models. None is ``auto`` for two models
    and, with text, for more; else ``none``. With a `budget` above 1, neurons that fit badly stay twice, and the MLPs of
    the merge are that much wider (`isthmus.align.width`).

    `refit` fits the maps of an average that write to the residual stream by least squares, to what the models write
    there (`isthmus.merge.refit`), where the loss on the select text falls by it.

    **Two models** are merged at a point of `path`: the straight line, a curve to be trained on the fit text of the
    labels `fit_on` (by default all but `report_on`), or the directory of a path that was saved. `t` None is the t in
    [interior, 1 − interior] with the lowest `objective` on the select text. `optimizers` are those that trained A and
    B, where the user knows better than their files and weights tell.

    **By an operator**, `soup` says where weights come from: the recipe (``uniform``), or a ``greedy`` choice of models
    on the select text; or they are searched for, as `search` says (``search`` is the older word for ``coordinate``).
    `max_memory`, a size such as ``6GB``, is for models larger than memory: they are aligned layer by layer, merged from
    disk to disk and measured from there.

    `dtype` is what the result is saved in: by default the recipe's, else the models' own when they share one, else
    float32. `vocabulary` brings models with tokens of their own to one vocabulary. With `as_lora`, a rank, the merge is
    saved as an adapter of the base that the models share or that the operator has; ``exact`` is the lowest rank that
    loses nothing but rounding. `tasks`, of the harness's own or of `task_path`, are run on all models and on the merge;
    with the `objective` ``task``, t or weights are chosen on one half of their documents, and the other is reported.
    `head` is the letter of the classifier whose head is taken, None where heads are merged.
    """

    data: Sequence[str] = data_option(shown_default="what the models write, for curves and --align learned")
    tasks: Sequence[str] = tasks_option()
    task_path: Sequence[str] = task_path_option()
    learn: LearnPlan = field(default_factory=LearnPlan)
    path: Literal["linear"] | CurvePlan | Path = option(
        "linear",
        "linear, polychain or bezier; or a directory that `isthmus path` wrote, for these two models. Of three or "
        "more, polychain trains one centre for all.",
        PATH,
        read=read_path,
        recorded=False,
    )
    align: Align | None = option(
        None,
        "auto tries none, orthogonal, combined and (two models) learned in turn, until the barrier is within the "
        "noise.",
        ALIGNMENT,
        shown_default="auto; none for a recipe, and for a method without --data",
    )
    budget: float = option(
        1.0,
        "Let the MLPs of the merge have this many times the neurons, so that pairs that fit badly stay twice: 1 to 2.",
        ALIGNMENT,
    )
    refit: bool = option(
        False,
        "Fit the maps that write to the residual stream by least squares, to what the models write there on average, "
        "unless the loss rises by it.",
        ALIGNMENT,
    )
    soup: Soup = "uniform"
    search: SearchPlan | None = operator_option(
        None,
        "Search for weights: coordinate, gradient (on the fit text) or cma; coordinate where no word follows.",
        read=read_search,
        recorded=False,
    )
    t: float | None = option(
        None, "The merge point: auto, or a number from 0 (A) to 1 (B).", PATH, unset="auto", read=read_point
    )
    objective: Objective = option(
        "mean",
        "What t is chosen by: the mean loss over texts, the worst text's excess, or the score on half of the tasks; "
        "weights by the mean or by tasks.",
        PATH,
    )
    interior: float = option(0.1, "Keep t this far from both ends.", PATH)
    fit_on: Sequence[str] = training_option((), "Train on the text of this label only. Repeatable.")
    report_on: Sequence[str] = option(
        (), "Only report on the text of this label: nothing is fitted to it or chosen on it. Repeatable.", TEXT
    )
    spectrum: SpectrumPlan = field(default_factory=SpectrumPlan)
    tokens: int = tokens_option()
    context: int = context_option()
    dtype: Dtype | None = option(
        None, "What to save in; auto keeps the models' when they share one.", RUNNING, unset="auto"
    )
    vocabulary: Literal["union", "base", "A", "transplant"] | None = option(
        None,
        "One vocabulary for models with tokens of their own: the union of all, or that of the base or of A; transplant "
        "gives models of other tokenizers that of the first.",
        RUNNING,
    )
    as_lora: int | Literal["exact"] | None = option(
        None,
        "Save the merge as an adapter (LoRA) of the models' base, of this rank; exact: the lowest that loses nothing.",
        RUNNING,
        read=read_rank,
    )
    head: str | None = option(
        None,
        "Of classifiers whose labels differ: all take the head of this one (A, B, ...), and the rest is merged.",
        RUNNING,
    )
    seed: int = seed_option()
    max_memory: str | None = operator_option(
        None,
        "For models larger than memory: align them layer by layer, and measure them with this much of one in memory "
        "(6GB), the rest from disk.",
    )
    optimizers: tuple[str | None, str | None] = (None, None)
    gates: Gates = field(default_factory=Gates)
    device: str = device_option()

    @property
    def alignment(self) -> Align:
        """The alignment that is asked for, once `open_job` has settled it."""
        return self.align or "auto"

    @property
    def weight_search(self) -> SearchPlan | None:
        """How weights are searched for; None where they are given, or chosen greedily."""
        return SearchPlan() if self.search is None and self.soup == "search" else self.search

    @property
    def chooses_weights(self) -> bool:
        """Whether weights are chosen on text."""
        return self.soup != "uniform" or self.search is not None

    @property
    def choice_of_weights(self) -> str:
        """How weights are chosen, in words."""
        return f"--search {self.search.method}" if self.search is not None else f"a {self.soup} soup"

    @property
    def wants_spectrum(self) -> bool:
        """Whether a spectrum is asked for."""
        return bool(self.spectrum.measure) or self.gates.require_spectrum

    @property
    def is_plain(self) -> bool:
        """Whether weights are averaged, and nothing is measured."""
        return (
            not self.data
            and self.alignment == "none"
            and self.path == "linear"
            and not self.wants_spectrum
            and self.budget == 1
        )

    @property
    def writes_text(self) -> bool:
        """Whether two models write the text themselves: bends and learned alignments take some, and none is given."""
        return not self.data and (isinstance(self.path, CurvePlan) or self.learns_on_line)

    @property
    def learns_on_line(self) -> bool:
        """Whether an alignment may be learned for a straight line; only with text where that is not asked for."""
        chosen = self.alignment == "learned" or (self.alignment == "auto" and bool(self.data))
        return self.path == "linear" and chosen

    @property
    def trains(self) -> bool:
        """Whether bends or an alignment may be trained."""
        return isinstance(self.path, CurvePlan) or self.learns_on_line
