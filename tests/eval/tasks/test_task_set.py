"""Tasks: the numbers of lm-evaluation-harness itself, documents that serve once, and what is refused."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
from conftest import EMBEDDED
from tasks import by_the_harness, completions_file, questions_file, task_directory
from transformers import AutoModelForCausalLM, AutoTokenizer

from isthmus.checkpoint.errors import BadInput
from isthmus.eval.tasks import task_set
from isthmus.eval.tasks.questions import questions
from isthmus.eval.tasks.specs import required, task_specs
from isthmus.eval.tasks.task_set import TaskSet

DOCS = EMBEDDED / "docs"
CONTEXT = 64


@pytest.fixture(scope="module")
def model() -> Any:
    import torch

    return AutoModelForCausalLM.from_pretrained(DOCS, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(DOCS)


def test_a_local_task_has_the_numbers_of_the_harness(tmp_path: Path, model: Any, tokenizer: Any) -> None:
    folder = task_directory(tmp_path / "tasks")
    tasks = TaskSet(task_specs(["local_choice"]), [str(folder)])
    scores = tasks.scores(model, tokenizer, context=CONTEXT)
    expected = by_the_harness(DOCS, ["local_choice"], CONTEXT, [str(folder)])["local_choice"]
    assert scores.per_block["local_choice"].tolist() == expected["documents"]["acc_norm"]
    assert 0 < scores.mean < 1
    assert scores.mean == pytest.approx(expected["acc_norm,none"], abs=1e-9)
    assert scores.stderr == pytest.approx(expected["acc_norm_stderr,none"], abs=1e-9)


def test_questions_are_scored_as_by_hand(tmp_path: Path, model: Any, tokenizer: Any) -> None:
    import torch

    file = questions_file(tmp_path / "q.jsonl", rows=12)
    tasks = TaskSet(task_specs([str(file)]))
    scores = tasks.scores(model, tokenizer, context=CONTEXT).per_block["q"].tolist()
    for row, score in zip(questions(file), scores, strict=True):
        normalized = []
        for choice in row["choices"]:
            before = tokenizer(row["prompt"].rstrip()).input_ids
            space = row["prompt"][len(row["prompt"].rstrip()) :]
            whole = tokenizer(row["prompt"].rstrip() + space + " " + choice).input_ids
            with torch.no_grad():
                found = model(torch.tensor([whole])).logits[0].log_softmax(-1)
            total = sum(float(found[place - 1, whole[place]]) for place in range(len(before), len(whole)))
            normalized.append(total / len(choice))
        assert score == float(normalized.index(max(normalized)) == row["answer"])


def test_completions_are_right_where_greedy_decoding_gives_them(tmp_path: Path, model: Any, tokenizer: Any) -> None:
    import torch

    file = completions_file(tmp_path / "c.jsonl")
    scores = TaskSet(task_specs([str(file)])).scores(model, tokenizer, context=CONTEXT).per_block["c"].tolist()
    for row, score in zip(questions(file), scores, strict=True):
        prompt = tokenizer(row["prompt"], return_tensors="pt")
        wanted = tokenizer(row["prompt"] + " " + row["completion"]).input_ids[prompt.input_ids.shape[1] :]
        with torch.no_grad():
            made = model.generate(**prompt, max_new_tokens=len(wanted), do_sample=False, eos_token_id=None)
        assert score == float(made[0, prompt.input_ids.shape[1] :].tolist() == wanted)


def test_no_document_serves_two(tmp_path: Path) -> None:
    file = questions_file(tmp_path / "q.jsonl", rows=130)
    (task,) = TaskSet(task_specs([str(file)]), choosing=True).tasks
    select, report = (set(task.documents[part]["q"]) for part in ("select", "report"))
    assert not select & report
    assert len(select) == len(report) == 65
    (again,) = TaskSet(task_specs([str(file)]), choosing=True).tasks
    (other,) = TaskSet(task_specs([str(file)]), choosing=True, seed=1).tasks
    assert again.documents == task.documents != other.documents
    (whole,) = TaskSet(task_specs([str(file)])).tasks
    assert (whole.count("select"), whole.count("report")) == (0, 130)
    (limited,) = TaskSet(task_specs([f"few={file}:7"])).tasks
    assert limited.count("report") == 7


def test_too_few_documents_to_choose_by(tmp_path: Path) -> None:
    file = questions_file(tmp_path / "q.jsonl", rows=99)
    with pytest.raises(BadInput, match="the task 'q' has 99 documents, too few to choose by"):
        TaskSet(task_specs([str(file)]), choosing=True)
    assert 0.5 / math.sqrt(task_set.FEWEST) < 0.071


QUESTION = {"prompt": "a", "choices": ["b", "c"], "answer": 0}
BAD_QUESTIONS: dict[str, tuple[list[object], str]] = {
    "not an object": ([QUESTION, 3], "line 2 of 'q.jsonl' is not a JSON object with 'prompt'"),
    "not JSON": (["{"], "line 1 of 'q.jsonl' is not a JSON object"),
    "no prompt": ([{**QUESTION, "prompt": None}], "is not a JSON object with 'prompt'"),
    "no choices": ([{**QUESTION, "choices": []}], "has no choices: a list of two texts or more"),
    "one choice": ([{**QUESTION, "choices": ["b"]}], "has no choices"),
    "an empty choice": ([{**QUESTION, "choices": ["b", ""]}], "none of them empty"),
    "choices that are numbers": ([{**QUESTION, "choices": [1, 2]}], "has no choices"),
    "no answer": ([{"prompt": "a", "choices": ["b", "c"]}], "the answer is a choice, or its number from 0 to 1"),
    "an answer beyond": ([{**QUESTION, "answer": 2}], "its number from 0 to 1"),
    "true for an answer": ([{**QUESTION, "answer": True}], "its number from 0 to 1"),
    "another answer": ([{**QUESTION, "answer": "d"}], "the answer is 0 times among the choices"),
    "an answer twice": ([{**QUESTION, "choices": ["b", "b"], "answer": "b"}], "2 times among the choices"),
    "an empty completion": ([{"prompt": "a", "completion": " "}], "has no completion"),
    "both forms": ([QUESTION, {"prompt": "a", "completion": "b"}], "line 2 of 'q.jsonl' has a completion, others"),
    "nothing": ([], "'q.jsonl' holds no questions"),
}


@pytest.mark.parametrize("case", BAD_QUESTIONS)
def test_bad_questions_are_named_with_their_line(case: str, tmp_path: Path) -> None:
    rows, message = BAD_QUESTIONS[case]
    file = tmp_path / "q.jsonl"
    file.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows))
    with pytest.raises(BadInput, match=re.escape(message)) as caught:
        questions(file)
    assert "\n" not in str(caught.value)


BAD_SPECS: dict[str, tuple[list[str], str]] = {
    "no file": (["x.jsonl"], "there is no file 'x.jsonl' of questions"),
    "a limit of nothing": (["arc_easy:0"], "a limit of 1 or more"),
    "a limit that is none": (["arc_easy:many"], "NAME or NAME:LIMIT"),
    "no name": ([""], "NAME or NAME:LIMIT"),
    "twice": (["arc_easy", "arc_easy:10"], "two tasks are called 'arc_easy'"),
}


@pytest.mark.parametrize("case", BAD_SPECS)
def test_bad_words_are_one_sentence(case: str) -> None:
    words, message = BAD_SPECS[case]
    with pytest.raises(BadInput, match=re.escape(message)):
        task_specs(words)


def test_what_is_required_of_tasks() -> None:
    assert required(["a>=0.5", "b >= 60%"], ["a", "b"]) == {"a": 0.5, "b": 0.6}
    for word, message in (
        ("a>0.5", "takes NAME>=SCORE"),
        ("a>=50", "takes NAME>=SCORE"),
        ("c>=0.5", "the tasks are a, b"),
    ):
        with pytest.raises(BadInput, match=message):
            required([word], ["a", "b"])
    with pytest.raises(BadInput, match="there is no --task"):
        required(["a>=0.5"], [])


def test_tasks_that_cannot_be_opened(tmp_path: Path) -> None:
    folder = task_directory(tmp_path / "tasks")
    with pytest.raises(BadInput, match="there is no directory 'nowhere' of tasks"):
        TaskSet(task_specs(["local_choice"]), [str(tmp_path / "nowhere")])
    (folder / "data.json").unlink()
    with pytest.raises(BadInput, match=r"the task 'local_choice' cannot be opened .* whether its data are on this"):
        TaskSet(task_specs(["local_choice"]), [str(folder)])
    text = (folder / "local_choice.yaml").read_text()
    (folder / "local_choice.yaml").write_text(text.replace("aggregation: mean", "aggregation: median"))
    task_directory(tmp_path / "again")
    (tmp_path / "again" / "data.json").rename(folder / "data.json")
    with pytest.raises(BadInput, match="has no score by document"):
        TaskSet(task_specs(["local_choice"]), [str(folder)])


def test_without_the_harness(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(BadInput, match=r"pip install 'isthmus\[tasks\]'"):
        TaskSet(task_specs([str(questions_file(tmp_path / "q.jsonl"))]))


def test_a_document_that_is_there_twice_counts_once(tmp_path: Path) -> None:
    file = questions_file(tmp_path / "q.jsonl", rows=120)
    file.write_text(file.read_text() * 2)
    (task,) = TaskSet(task_specs([str(file)]), choosing=True).tasks
    assert (task.count("select"), task.count("report")) == (60, 60)


def test_examples_in_prompts_are_the_same_for_every_model(tmp_path: Path, model: Any, tokenizer: Any) -> None:
    folder = task_directory(tmp_path / "tasks")
    with (folder / "local_choice.yaml").open("a") as file:
        file.write("num_fewshot: 2\nfewshot_config:\n  sampler: default\n")
    tasks = TaskSet(task_specs(["local_choice"]), [str(folder)])
    seen = []
    for _ in range(2):
        tasks.scores(model, tokenizer, context=CONTEXT)
        (leaf,) = tasks.tasks[0].leaves.values()
        seen.append([instance.args[0] for instance in leaf.instances])
    assert seen[0] == seen[1]
    assert len(set(seen[0])) > 1


def test_local_data_are_read_without_a_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    def refuse(*_: Any, **__: Any) -> Any:
        raise AssertionError("a call")

    folder = task_directory(tmp_path / "tasks")
    for name in ("getaddrinfo", "create_connection"):
        monkeypatch.setattr(socket, name, refuse)
    assert TaskSet(task_specs(["local_choice", str(questions_file(tmp_path / "q.jsonl"))]), [str(folder)]).labels
