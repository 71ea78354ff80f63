"""Fields that several plans have, with the options that they are given as."""

from __future__ import annotations

from functools import partial

from .options import RUNNING, TASKS, TEXT, option

data_option = partial(
    option,
    (),
    "Text, with a label or without (law=cases.txt): a file, a directory, a .jsonl, stdlib:docs or stdlib:code. "
    "Repeatable.",
    TEXT,
    recorded=False,
)
tokens_option = partial(option, 8192, "Tokens of each text to select on, and as many to report on.", TEXT, minimum=1)
context_option = partial(
    option, 1024, "Tokens of a block of text, at most; the models' context where that is shorter.", TEXT, minimum=2
)
tasks_option = partial(
    option,
    (),
    "A task to judge by: NAME of lm-evaluation-harness or questions.jsonl, with a label or a limit (law=x.jsonl, "
    "arc_easy:200). Repeatable.",
    TASKS,
    name="--task",
    recorded=False,
)
task_path_option = partial(option, (), "A directory of task YAMLs. Repeatable.", TASKS, recorded=False)
device_option = partial(
    option, "auto", "Where losses are measured: auto, cpu, cuda, cuda:1, ...", RUNNING, recorded=False
)
seed_option = partial(option, 0, "Seed of everything random.", RUNNING)
