"""A user's own questions: a `.jsonl` file, read into documents of a task of lm-evaluation-harness.

A line has a `prompt` and either `choices` with the `answer`, its number from 0 or its text, or a `completion`. A space
stands between the prompt and what follows, as in the harness; the two are scored by their log-probabilities:

- of choices, **acc** is the share of questions whose likeliest choice is the answer, **acc_norm** that by the
  log-probability per character of the choice;
- of completions, **acc** is the share that greedy decoding gives token by token.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...checkpoint.errors import BadInput
from ...checkpoint.reference import shown_name
from ..corpora import lines_of

FORM = "'prompt', 'choices' and 'answer', or 'prompt' and 'completion'"


def questions(path: Path) -> list[dict[str, Any]]:
    """The questions of a file, of one form. Raises BadInput, with the line, for what is none, and for an empty file."""
    name, rows = shown_name(path), []
    for number, content in lines_of(path):
        rows.append(_question(content, f"line {number} of '{name}'"))
        if rows[-1].keys() != rows[0].keys():
            raise BadInput(f"line {number} of '{name}' has a completion, others have choices: keep them in two files")
    if not rows:
        raise BadInput(f"'{name}' holds no questions: give lines with {FORM}")
    return rows


def _question(content: object, where: str) -> dict[str, Any]:
    if not isinstance(content, dict) or not isinstance(content.get("prompt"), str):
        raise BadInput(f"{where} is not a JSON object with {FORM}")
    prompt = content["prompt"].rstrip(" ")
    if "completion" in content and "choices" not in content:
        completion = content["completion"]
        if not isinstance(completion, str) or not completion.strip():
            raise BadInput(f"{where} has no completion: text that is not empty")
        return {"prompt": prompt, "completion": completion.lstrip(" ")}
    choices = content.get("choices")
    if not isinstance(choices, list) or len(choices) < 2 or not all(isinstance(one, str) and one for one in choices):
        raise BadInput(f"{where} has no choices: a list of two texts or more, none of them empty")
    return {"prompt": prompt, "choices": [one.lstrip(" ") for one in choices], "answer": _answer(content, where)}


def _answer(content: Mapping[str, Any], where: str) -> int:
    """The number of the answer among the choices."""
    answer, choices = content.get("answer"), content["choices"]
    if isinstance(answer, str):
        if choices.count(answer) != 1:
            raise BadInput(f"{where}: the answer is {choices.count(answer)} times among the choices, and must be once")
        return int(choices.index(answer))
    if type(answer) is not int or not 0 <= answer < len(choices):
        raise BadInput(f"{where}: the answer is a choice, or its number from 0 to {len(choices) - 1}")
    return answer


def task_settings(label: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The questions as the configuration of a task of lm-evaluation-harness."""

    def documents(**_: Any) -> dict[str, Any]:
        from datasets import Dataset

        return {"test": Dataset.from_list(rows)}

    chooses = "choices" in rows[0]
    own = {"doc_to_choice": "choices", "doc_to_target": "answer"} if chooses else {"doc_to_target": "completion"}
    metrics = ("acc", "acc_norm") if chooses else ("acc",)
    return {
        "task": label,
        "custom_dataset": documents,
        "test_split": "test",
        "output_type": "multiple_choice" if chooses else "loglikelihood",
        "doc_to_text": "prompt",
        "target_delimiter": " ",
        **own,
        "metric_list": [{"metric": name, "aggregation": "mean", "higher_is_better": True} for name in metrics],
    }
