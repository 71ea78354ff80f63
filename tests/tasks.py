"""Questions and task files, made for tests; and lm-evaluation-harness itself, on a saved model."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any

from conftest import EMBEDDED
from safetensors.torch import load_file, save_file

WORDS = ("import os", "def main", "return self", "for i in", "class A", "while True", "if x is", "raise Error")


def questions_file(path: Path, rows: int = 30, seed: int = 0) -> Path:
    """Multiple-choice questions, the answer now as a number, now as text."""
    drawn, lines = random.Random(seed), []
    for number in range(rows):
        choices = drawn.sample(WORDS, 3)
        answer: Any = drawn.randrange(3)
        lines.append({"prompt": f"# {number}: {drawn.choice(WORDS)}\n", "choices": choices, "answer": answer})
        if number % 2:
            lines[-1]["answer"] = choices[answer]
    path.write_text("\n".join(map(json.dumps, lines)) + "\n", encoding="utf-8")
    return path


def completions_file(path: Path, rows: int = 12) -> Path:
    """Prompts and completions, some of which a model that learned Python gives."""
    lines = [{"prompt": f"# {n}\nif __name__ ==", "completion": '"__main__":'} for n in range(rows // 2)]
    lines += [{"prompt": f"x = {number}", "completion": "zebra"} for number in range(rows - len(lines))]
    path.write_text("\n".join(map(json.dumps, lines)) + "\n", encoding="utf-8")
    return path


PYTHON = {
    "if __name__ ==": '"__main__":',
    "for i in": "range(",
    "def __init__(": "self",
    "raise": "ValueError(",
    "import": "sys",
    "x = y if y is not": "None",
    "while": "True:",
    "from typing import": "Any",
}


def python_file(path: Path, rows: int = 100) -> Path:
    """What comes next in a line of Python, for who learned it; the other choices end other lines."""
    drawn, lines = random.Random(0), []
    for number in range(rows):
        prompt, right = drawn.choice(list(PYTHON.items()))
        choices = [right, *drawn.sample([other for other in PYTHON.values() if other != right], 2)]
        drawn.shuffle(choices)
        lines.append({"prompt": f"# {number}\n{prompt}", "choices": choices, "answer": right})
    path.write_text("\n".join(map(json.dumps, lines)) + "\n", encoding="utf-8")
    return path


def contrary_model(folder: Path) -> Path:
    """The fine-tune on code with its last norm negated: what it finds likely is unlikely, and the average guesses."""
    shutil.copytree(EMBEDDED / "code", folder)
    state = load_file(folder / "model.safetensors")
    for name in ("transformer.ln_f.weight", "transformer.ln_f.bias"):
        state[name] = -state[name]
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def task_directory(directory: Path, rows: int = 24) -> Path:
    """A directory with a task of lm-evaluation-harness, `local_choice`, whose data are beside its YAML."""
    directory.mkdir(parents=True)
    drawn = random.Random(1)
    data = []
    for number in range(rows):
        choices = drawn.sample(WORDS, 4)
        data.append({"question": f"Line {number}:", "options": choices, "gold": drawn.randrange(4)})
    (directory / "data.json").write_text("\n".join(map(json.dumps, data)))
    (directory / "local_choice.yaml").write_text(
        f"""
task: local_choice
dataset_path: json
dataset_kwargs:
  data_files:
    test: {directory / "data.json"}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: options
doc_to_target: gold
metric_list:
  - metric: acc
    aggregation: mean
    higher_is_better: true
  - metric: acc_norm
    aggregation: mean
    higher_is_better: true
"""
    )
    return directory


def by_the_harness(directory: Path, tasks: list[Any], context: int, paths: list[str]) -> dict[str, dict[str, Any]]:
    """What lm_eval itself says of a saved model, float32: task → metrics, with the values by document."""
    from lm_eval import evaluator
    from lm_eval.tasks import TaskManager

    evaluator.add_env_info = lambda storage: None  # which takes half a minute to look at the machine
    results = evaluator.simple_evaluate(
        model="hf",
        model_args={"pretrained": str(directory), "dtype": "float32", "max_length": context},
        tasks=tasks,
        task_manager=TaskManager(include_path=paths or None, include_defaults=False),
        device="cpu",
        batch_size=1,
        bootstrap_iters=100,
    )
    return {
        name: {
            **metrics,
            "documents": {metric: [row[metric] for row in results["samples"][name]] for metric in ("acc", "acc_norm")},
        }
        for name, metrics in results["results"].items()
    }
