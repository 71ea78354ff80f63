"""What can be asked of a comparison of methods. Nothing here imports torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

from ...eval.tasks.specs import task_specs
from ..common_options import (
    context_option,
    data_option,
    device_option,
    seed_option,
    task_path_option,
    tasks_option,
    tokens_option,
)
from ..options import OPERATORS, RUNNING, TASKS, option
from ..plans import LEAST_EVALUATIONS, Dtype, Granularity, refuse
from .methods import method_specs

_task = partial(option, panel=TASKS)
_operator = partial(option, panel=OPERATORS)
_running = partial(option, panel=RUNNING)


@dataclass(frozen=True)
class ComparePlan:
    """Methods, by default those that make sense for the models, with weights that are searched for: each search tries
    `evaluations` weights at most, or reads as many tokens as that where it follows slopes.

    Every choice is made on the select text, or with the `objective` ``task`` on half of the documents of the `tasks`;
    what is reported was measured on the rest.
    """

    data: Sequence[str] = data_option()
    tasks: Sequence[str] = tasks_option()
    task_path: Sequence[str] = task_path_option()
    objective: Literal["mean", "task"] = _task(
        "mean",
        "What weights and the winner are chosen by: the mean loss over texts, or half of the documents of tasks.",
    )
    methods: Sequence[str] = _operator(
        (),
        "A method to compare, with parameters or without (ties:density=0.2). Repeatable.",
        name="--method",
        shown_default="those that make sense for these models",
    )
    granularity: Granularity = _operator(
        "layer", "What has weights of its own where they are learned by their slopes: model, layer or matrix."
    )
    evaluations: int = _operator(
        30, "The budget of every method: weights that are tried at most.", minimum=LEAST_EVALUATIONS
    )
    tokens: int = tokens_option()
    context: int = context_option()
    dtype: Dtype | None = _running(
        None, "What merges are measured in; auto takes the models' when they share one.", unset="auto"
    )
    device: str = device_option()
    seed: int = seed_option()

    def __post_init__(self) -> None:
        method_specs(self.methods)
        task_specs(self.tasks)
        refuse(
            {
                "methods are compared on text: add --data (stdlib:docs)": not self.data,
                "--objective task chooses by tasks: add --task": self.objective == "task" and not self.tasks,
                "--task-path is for --task: name a task of it, or leave it out": (
                    bool(self.task_path) and not self.tasks
                ),
                f"--evaluations is {LEAST_EVALUATIONS} or more; got {self.evaluations}": (
                    self.evaluations < LEAST_EVALUATIONS
                ),
            }
        )
