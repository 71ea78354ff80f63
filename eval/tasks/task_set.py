"""Tasks that are run on models: their documents, split so that none serves two, and scores by document.

The work is lm-evaluation-harness's (the package lm-eval): it makes prompts of documents, asks models, and scores what
they say. Models are given to it as they are in memory, each in turn on the same documents.
"""

from __future__ import annotations

import json
import logging
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from difflib import get_close_matches
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from ...checkpoint.errors import BadInput, IsthmusError, one_line
from ...checkpoint.reference import shown_name
from ..loss import Losses
from .questions import questions, task_settings
from .specs import TaskSpec

if TYPE_CHECKING:
    from torch import nn

Part = Literal["select", "report"]
PREFERRED = ("acc_norm", "acc", "exact_match")  # of several metrics of a task, the one that is shown
FEWEST = 50  # documents in a part: the standard error of a share is then at most 7 points
BATCH = 16
SEED = 1234  # of the examples in a prompt, as lm_eval has it


class TaskScores(Losses):
    """The score of every document, the higher the better, label of a task → float64 (documents,).

    Means, standard errors and paired differences are those of `Losses`.
    """


@dataclass(frozen=True)
class LoadedTask:
    """A task of the harness, or a group of them: its leaves by name, the `metric` that is shown, and which documents of
    every leaf belong to each part.
    """

    label: str
    metric: str
    leaves: Mapping[str, Any]
    documents: Mapping[Part, Mapping[str, Sequence[int]]]

    def count(self, part: Part) -> int:
        """How many documents a part has."""
        return sum(map(len, self.documents[part].values()))


class TaskSet:
    """Tasks, opened and split. With `choosing`, half of the documents of each are there to choose by, else none.

    Raises BadInput for tasks that are unknown, whose data cannot be read here, or that have no score by document; and
    where a task is too small to choose by and to report on.
    """

    def __init__(self, specs: Sequence[TaskSpec], paths: Sequence[str] = (), *, choosing: bool = False, seed: int = 0):
        harness()
        loader = _Loader(paths)
        self.tasks = [_split(spec, loader.leaves(spec), choosing=choosing, seed=seed) for spec in specs]

    @property
    def labels(self) -> list[str]:
        """The labels of the tasks."""
        return [task.label for task in self.tasks]

    def record(self) -> list[dict[str, Any]]:
        """What the report says of the tasks, JSON-ready."""
        return [
            {
                "label": task.label,
                "metric": task.metric,
                "report_documents": task.count("report"),
                "select_documents": task.count("select"),
            }
            for task in self.tasks
        ]

    def scores(
        self, model: nn.Module, tokenizer: Any, part: Part = "report", *, context: int = 1024, device: str = "cpu"
    ) -> TaskScores:
        """The scores of a model on all documents of a part. Raises IsthmusError where the harness fails."""
        with _quietly():
            from lm_eval.evaluator import evaluate
            from lm_eval.models.huggingface import HFLM

            asked = HFLM(
                pretrained=model.to(device), tokenizer=tokenizer, batch_size=BATCH, max_length=context, device=device
            )
            return TaskScores({task.label: _scored(evaluate, asked, task, part) for task in self.tasks})


def harness() -> None:
    """Import lm-evaluation-harness. Raises BadInput where it is not installed."""
    try:
        with _quietly():
            import lm_eval  # noqa: F401
    except ImportError:
        raise BadInput("--task needs lm-evaluation-harness: pip install 'isthmus[tasks]'") from None


def _scored(evaluate: Any, asked: Any, task: LoadedTask, part: Part) -> torch.Tensor:
    chosen = {name: list(places) for name, places in task.documents[part].items() if places}
    leaves = {name: task.leaves[name] for name in chosen}
    for leaf in leaves.values():
        leaf.set_fewshot_seed(SEED)  # the same examples before the questions of every model
    try:
        results = evaluate(
            asked, {"tasks": leaves, "groups": {}, "group_map": {}}, samples=chosen, bootstrap_iters=0, log_samples=True
        )
    except Exception as error:
        raise IsthmusError(f"the task '{task.label}' failed ({type(error).__name__}: {one_line(error)})") from error
    values = []
    for name, places in chosen.items():
        first: dict[int, Any] = {}
        for sample in results["samples"][name]:
            first.setdefault(sample["doc_id"], sample[task.metric])  # of the first filter
        values += [first[place] for place in places]
    return torch.tensor([float(value) for value in values], dtype=torch.float64)


def _split(spec: TaskSpec, leaves: Mapping[str, Any], *, choosing: bool, seed: int) -> LoadedTask:
    drawn = random.Random(f"{seed}/{spec.label}")
    every = list(_different_documents(leaves))
    drawn.shuffle(every)
    every = every[: spec.limit]
    half = len(every) // 2 if choosing else 0
    if choosing and half < FEWEST:
        raise BadInput(
            f"the task '{spec.label}' has {len(every)} documents, too few to choose by and to report on: {2 * FEWEST} "
            "are needed; leave out what chooses by tasks, or give more"
        )
    parts: dict[Part, list[tuple[str, int]]] = {"select": every[:half], "report": every[half:]}
    documents = {
        part: {name: sorted(place for leaf, place in chosen if leaf == name) for name in leaves}
        for part, chosen in parts.items()
    }
    return LoadedTask(spec.label, _metric(spec.label, leaves), leaves, documents)


def _different_documents(leaves: Mapping[str, Any]) -> Iterator[tuple[str, int]]:
    """The documents of all leaves; one that is there twice counts once, so that no two parts have it."""
    taken = set()
    for name, task in leaves.items():
        for place, document in enumerate(task.eval_docs):
            content = json.dumps(document, sort_keys=True, default=str)
            if content not in taken:
                taken.add(content)
                yield name, place


def _metric(label: str, leaves: Mapping[str, Any]) -> str:
    """The metric of a task that is shown: the first of `PREFERRED` that is a mean over documents, else the first."""
    usable: list[str] | None = None
    for task in leaves.values():
        means, higher = task.aggregation(), task.higher_is_better()
        own = [name for name in means if getattr(means[name], "__name__", "") == "mean" and higher.get(name)]
        usable = own if usable is None else [name for name in usable if name in own]
    if not usable:
        raise BadInput(f"the task '{label}' has no score by document that is the higher the better, as accuracies are")
    return next((name for name in PREFERRED if name in usable), usable[0])


class _Loader:
    """Opens tasks: of the harness itself by name, of YAML files in `paths`, of a file of questions."""

    def __init__(self, paths: Sequence[str]):
        for path in paths:
            if not Path(path).expanduser().is_dir():
                raise BadInput(f"there is no directory '{shown_name(Path(path))}' of tasks (--task-path)")
        self.paths = [str(Path(path).expanduser()) for path in paths]

    def leaves(self, spec: TaskSpec) -> Mapping[str, Any]:
        """The tasks that a name stands for, by their names."""
        if spec.file is not None:
            rows = questions(spec.file)
            with _quietly():
                from lm_eval.api.task import ConfigurableTask

                return {spec.label: ConfigurableTask(config=task_settings(spec.label, rows))}
        try:
            with _quietly():
                manager = self._manager(spec.name)
                tasks: Mapping[str, Any] = manager.load(spec.name)["tasks"]
        except (BadInput, MemoryError):
            raise
        except Exception as error:
            raise BadInput(
                f"the task '{spec.name}' cannot be opened ({type(error).__name__}: {one_line(error)}): look at its "
                "YAML, and whether its data are on this machine"
            ) from None
        unsafe = [name for name, task in tasks.items() if getattr(task, "UNSAFE_CODE", False)]
        if unsafe:
            raise BadInput(f"the task '{unsafe[0]}' runs code that models write, which isthmus does not")
        return tasks

    def _manager(self, name: str) -> Any:
        """A manager that knows a task; the harness's own tasks are listed only for one that is not local."""
        from lm_eval.tasks import TaskManager

        local = TaskManager(include_path=self.paths, include_defaults=False) if self.paths else None
        if local is not None and name in local.all_tasks:
            return local
        manager = TaskManager(include_path=self.paths or None)
        if name not in manager.all_tasks:
            near = get_close_matches(name, manager.all_tasks, n=2)
            advice = f"did you mean {' or '.join(near)}?" if near else "name one of lm-eval, or add --task-path"
            raise BadInput(f"there is no task '{name}': {advice}")
        return manager


@contextmanager
def _quietly() -> Iterator[None]:
    """Without the harness's bars and remarks, and without telling a server what is read from files here."""
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    with redirect_stderr(StringIO()):
        try:
            import datasets.config

            datasets.config.HF_UPDATE_DOWNLOAD_COUNTS = False
        except ImportError:
            pass
        yield
