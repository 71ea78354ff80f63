"""What `--task` and `--require-task` say. Nothing here imports torch or lm-evaluation-harness."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

from ...checkpoint.errors import BadInput
from ...checkpoint.path_conflicts import Place
from ...checkpoint.reference import shown_name

QUESTIONS = ".jsonl"
_LIMITED = re.compile(r"(.+):(\d+)", re.DOTALL)
_LABELLED = re.compile(r"([\w.-]+)=(.+)", re.DOTALL)
_REQUIRED = re.compile(r"(.+?)>=(\d*\.?\d+)(%?)")


@dataclass(frozen=True)
class TaskSpec:
    """A task: its `label`, its `name` in the harness or the `file` of its questions, and at most how many of them."""

    label: str
    name: str
    limit: int | None = None
    file: Path | None = None

    @property
    def public(self) -> str:
        """As `--task` takes it, with a file by its last name."""
        name = self.name if self.file is None else shown_name(self.file)
        usual = self.name if self.file is None else self.file.stem
        limit = "" if self.limit is None else f":{self.limit}"
        return f"{'' if self.label == usual else f'{self.label}='}{name}{limit}"


def task_specs(words: Sequence[str]) -> tuple[TaskSpec, ...]:
    """The tasks that `--task` names: ``[label=]name[:limit]``, or ``[label=]questions.jsonl[:limit]``.

    Raises BadInput for words that are none, for labels that appear twice, and for files that are not there.
    """
    specs = [_spec(word) for word in words]
    labels = [spec.label for spec in specs]
    twice = next((label for label in labels if labels.count(label) > 1), None)
    if twice is not None:
        raise BadInput(f"two tasks are called '{twice}': name them, as in --task first=a.jsonl --task second=b.jsonl")
    return tuple(specs)


def _spec(word: str) -> TaskSpec:
    limited = _LIMITED.fullmatch(word)
    rest, limit = (limited.group(1), int(limited.group(2))) if limited else (word, None)
    if limit == 0 or not rest.strip() or (":" in rest and not rest.endswith(QUESTIONS)):
        raise BadInput(f"--task takes NAME or NAME:LIMIT, a limit of 1 or more; got '{word}'")
    labelled = _LABELLED.fullmatch(rest)
    label, name = labelled.groups() if labelled else (None, rest)
    if not name.lower().endswith(QUESTIONS):
        return TaskSpec(label or name, name, limit)
    file = Path(name).expanduser()
    if not file.is_file():
        raise BadInput(f"there is no file '{shown_name(file)}' of questions: --task takes one, or the name of a task")
    return TaskSpec(label or PurePath(name).stem, name, limit, file)


def task_places(words: Sequence[str]) -> list[Place]:
    """The files in `--task`."""
    return [Place.of("the questions", str(spec.file)) for spec in task_specs(words) if spec.file is not None]


def required(words: Sequence[str], labels: Sequence[str]) -> Mapping[str, float]:
    """The least scores, from 0 to 1, that `--require-task` asks for, by label: ``NAME>=0.6`` or ``NAME>=60%``.

    Raises BadInput for words that ask for nothing, or of no task.
    """
    least = {}
    for word in words:
        match = _REQUIRED.fullmatch(word.replace(" ", ""))
        bound = float(match[2]) / (100 if match[3] else 1) if match else 2.0
        if match is None or bound > 1:
            raise BadInput(f"--require-task takes NAME>=SCORE, from 0 to 1 or in %; got '{word}'")
        if match[1] not in labels:
            has = f"the tasks are {', '.join(labels)}" if labels else "there is no --task"
            raise BadInput(f"--require-task {word}: {has}; name one of those that are run")
        least[match[1]] = bound
    return least
