"""Ensembles judged by tasks: document by document what averaging the members' probabilities by hand gives."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import pytest
import torch
from classifiers import labelled, saved_classifier
from conftest import EMBEDDED, Outcome
from tasks import WORDS, by_the_harness, questions_file, task_directory
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, BertConfig, BertForMaskedLM

from isthmus.eval.tasks.questions import questions
from isthmus.merge.ensembles import EnsembleResult, ensemble
from isthmus.merge.plans import EnsemblePlan

CLI = Callable[..., Outcome]
PAIR = (EMBEDDED / "docs", EMBEDDED / "code")
CONTEXT, WRITTEN = 64, 6
QUICK: dict[str, Any] = {"data": ("stdlib:docs:heldout",), "tokens": 256, "context": CONTEXT, "align": "none"}
SHORT = ("--data", "stdlib:docs:heldout", "--tokens", 256, "--context", CONTEXT, "--align", "none")


class ByHand:
    """Members as transformers opens them, and the log of the mean of their probabilities (or of their logits)."""

    def __init__(self, models: Sequence[Path], average: str = "probabilities"):
        self.members = [AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval() for model in models]
        self.tokenizer, self.average = AutoTokenizer.from_pretrained(models[0]), average

    @torch.no_grad()
    def log_probs(self, ids: Sequence[int]) -> Tensor:
        """Of the token after every one of `ids`: (length, vocabulary), float64."""
        logits = [member(torch.tensor([list(ids)])).logits[0].double() for member in self.members]
        if self.average == "logits":
            return torch.log_softmax(sum(logits) / len(logits), -1)
        return torch.log(sum(torch.softmax(one, -1) for one in logits) / len(logits))

    def log_likelihood(self, prompt: str, continuation: str) -> float:
        """Σ log p of the tokens of a continuation."""
        before, whole = self.tokenizer(prompt).input_ids, self.tokenizer(prompt + continuation).input_ids
        log_probs = self.log_probs(whole)
        return sum(float(log_probs[place - 1, whole[place]]) for place in range(len(before), len(whole)))

    def written(self, prompt: str) -> str:
        """The likeliest next token, again and again."""
        ids = list(self.tokenizer(prompt).input_ids)
        start = len(ids)
        for _ in range(WRITTEN):
            ids.append(int(self.log_probs(ids)[-1].argmax()))
        return str(self.tokenizer.decode(ids[start:]))


def task_of_likelihoods(directory: Path, rows: Sequence[dict[str, str]]) -> Path:
    """A directory with the task `likelihoods`, whose score of a document is its log-likelihood."""
    directory.mkdir()
    (directory / "data.json").write_text("\n".join(map(json.dumps, rows)))
    (directory / "scored.py").write_text("def score(document, results):\n    return {'nats': results[0][0]}\n")
    (directory / "likelihoods.yaml").write_text(
        f"""
task: likelihoods
dataset_path: json
dataset_kwargs: {{data_files: {{test: {directory / "data.json"}}}}}
test_split: test
output_type: loglikelihood
doc_to_text: "{{{{prompt}}}}"
doc_to_target: "{{{{continuation}}}}"
target_delimiter: ""
process_results: !function scored.score
metric_list: [{{metric: nats, aggregation: mean, higher_is_better: true}}]
"""
    )
    return directory


def task_of_writing(directory: Path, rows: Sequence[dict[str, str]]) -> Path:
    """A directory with the task `writing`: a document is right where exactly its answer is written."""
    directory.mkdir()
    (directory / "data.json").write_text("\n".join(map(json.dumps, rows)))
    (directory / "writing.yaml").write_text(
        f"""
task: writing
dataset_path: json
dataset_kwargs: {{data_files: {{test: {directory / "data.json"}}}}}
test_split: test
output_type: generate_until
doc_to_text: "{{{{prompt}}}}"
doc_to_target: "{{{{answer}}}}"
generation_kwargs: {{until: ["<never>"], do_sample: false, max_gen_toks: {WRITTEN}}}
metric_list: [{{metric: exact_match, aggregation: mean, higher_is_better: true}}]
"""
    )
    return directory


def scores_of(result: EnsembleResult, task: str, kind: str = "ensemble") -> list[float]:
    """What a model scores on every document."""
    place = [row["kind"] for row in result.report["models"]].index(kind)
    values: list[float] = result.task_scores[place].per_block[task].tolist()
    return values


@pytest.mark.parametrize("average", ["probabilities", "logits"])
def test_log_likelihoods_are_those_by_hand(tmp_path: Path, average: Any) -> None:
    rows = [
        {"prompt": f"# {number}: {first}," * (1 + number % 3), "continuation": f"\n    {second}: pass  # {first}\n"}
        for number, (first, second) in enumerate(zip(WORDS, reversed(WORDS), strict=True))
    ]
    folder = task_of_likelihoods(tmp_path / "tasks", rows)
    plan = EnsemblePlan(**QUICK, tasks=["likelihoods"], task_path=[str(folder)], average=average)
    result = ensemble(PAIR, plan)
    both, first = ByHand(PAIR, average), ByHand(PAIR[:1])
    expected = [both.log_likelihood(row["prompt"], row["continuation"]) for row in rows]
    assert scores_of(result, "likelihoods") == pytest.approx(expected, abs=2e-3)
    alone = [first.log_likelihood(row["prompt"], row["continuation"]) for row in rows]
    assert scores_of(result, "likelihoods", "member") == pytest.approx(alone, abs=2e-3)
    assert min(abs(one - other) for one, other in zip(expected, alone, strict=True)) > 2e-2


def test_answers_are_those_by_hand(tmp_path: Path) -> None:
    file = questions_file(tmp_path / "q.jsonl", rows=24)
    result = ensemble(PAIR, EnsemblePlan(**QUICK, tasks=[str(file)]))
    both, expected = ByHand(PAIR), []
    for row in questions(file):
        prompt = row["prompt"].rstrip()
        end = row["prompt"][len(prompt) :]  # goes to what follows, as in the harness
        likelihoods = [both.log_likelihood(prompt, f"{end} {choice}") for choice in row["choices"]]
        normalized = [value / len(choice) for value, choice in zip(likelihoods, row["choices"], strict=True)]
        expected.append(float(normalized.index(max(normalized)) == row["answer"]))
    assert scores_of(result, "q") == expected
    assert 0 < fmean(expected) < 1


def test_it_writes_the_likeliest_token_of_the_mean(tmp_path: Path) -> None:
    """Prompts of several lengths, in one batch; every second answer is what the ensemble writes, others are not."""
    both = ByHand(PAIR)
    rows = []
    for number, word in enumerate(WORDS):
        prompt = f"# {number}\n{word} " * (1 + number % 4)
        written = both.written(prompt)
        rows.append({"prompt": prompt, "answer": written if number % 2 == 0 else f"{written}!"})
    folder = task_of_writing(tmp_path / "tasks", rows)
    result = ensemble(PAIR, EnsemblePlan(**QUICK, tasks=["writing"], task_path=[str(folder)]))
    assert scores_of(result, "writing") == [1.0, 0.0] * (len(WORDS) // 2)
    assert scores_of(result, "writing", "member") != scores_of(result, "writing")


def test_for_people_and_for_programs(tmp_path: Path, isthmus: CLI) -> None:
    tasks, file = task_directory(tmp_path / "tasks"), questions_file(tmp_path / "[i]own.jsonl", rows=30)
    words = ("--task", f"{file}:20", "--task", "local_choice", "--task-path", tasks)
    outcome = isthmus("ensemble", *PAIR, *SHORT, *words, "--json", "-", "-o", tmp_path / "both")
    assert outcome.code == 0, outcome.err
    report = json.loads(outcome.out)
    assert report["tasks"] == [
        {"label": "[i]own", "metric": "acc_norm", "report_documents": 20, "select_documents": 0},
        {"label": "local_choice", "metric": "acc_norm", "report_documents": 24, "select_documents": 0},
    ]
    assert "lm_eval" in report["versions"]
    rows = {row["name"]: row["tasks"]["local_choice"] for row in report["models"]}
    by_document = {}
    for model in PAIR:
        expected = by_the_harness(model, ["local_choice"], CONTEXT, [str(tasks)])["local_choice"]
        by_document[model.name] = expected["documents"]["acc_norm"]
        assert rows[model.name] == {
            "score": pytest.approx(expected["acc_norm,none"]),
            "stderr": pytest.approx(expected["acc_norm_stderr,none"]),
        }
    result = ensemble(PAIR, EnsemblePlan(**QUICK, tasks=["local_choice"], task_path=[str(tasks)]))
    own, merge = scores_of(result, "local_choice"), scores_of(result, "local_choice", "merge")
    shown = rows["ensemble of all 2"]
    assert shown["score"] == pytest.approx(fmean(own))
    for name, others in (("gain", max(by_document.values(), key=fmean)), ("over_merge", merge)):
        differences = [one - other for one, other in zip(own, others, strict=True)]
        assert shown[name] == pytest.approx(fmean(differences))
        assert shown[f"{name}_stderr"] == pytest.approx(stdev(differences) / len(own) ** 0.5)
    assert rows["merge"].keys() == rows["soup"].keys() == {"score", "stderr", "gain", "gain_stderr"}
    score, gain = f"{100 * shown['score']:.1f}", f"{100 * shown['gain']:+.1f}"
    assert f"local_choice: the ensemble scores {score} ± {100 * shown['stderr']:.1f} % (acc_norm, 24" in outcome.err
    assert f"{gain} ± {100 * shown['gain_stderr']:.1f} points against the best member" in outcome.err
    assert "[i]own, % (acc_norm)" in outcome.err
    table = outcome.err.split("local_choice, % (acc_norm)")[1].splitlines()
    for name, row in rows.items():
        parts = [name, f"{100 * row['score']:.1f} ± {100 * row['stderr']:.1f}"]
        parts += [f"{100 * row['gain']:+.1f} ± {100 * row['gain_stderr']:.1f}"] if "gain" in row else []
        assert " ".join(next(line for line in table if line.startswith(name)).split()) == " ".join(parts)
    saved = (tmp_path / "both" / "isthmus.json").read_text()
    assert json.loads(saved)["models"] == report["models"]
    assert str(tmp_path) not in saved


def test_a_merge_says_the_same_of_the_same_documents(tmp_path: Path, isthmus: CLI) -> None:
    file = questions_file(tmp_path / "q.jsonl", rows=30)
    words = (*SHORT, "--task", f"own={file}:20", "--json", "-")
    merged = isthmus("merge", *PAIR, "-o", tmp_path / "out", *words, "--t", "0.5", "--no-spectrum")
    together = isthmus("ensemble", *PAIR, *words)
    assert (merged.code, together.code) == (0, 0), merged.err + together.err
    of_merge, of_ensemble = json.loads(merged.out), json.loads(together.out)
    rows = {row["name"]: row["tasks"]["own"] for row in of_ensemble["models"]}
    assert [rows["docs"], rows["code"]] == [end["tasks"]["own"] for end in of_merge["endpoints"]]
    baseline = of_merge["baselines"]["ensemble"]["tasks"]["own"]
    assert {key: rows["ensemble of all 2"][key] for key in baseline} == baseline


def test_no_tasks(isthmus: CLI) -> None:
    outcome = isthmus("ensemble", *PAIR, *SHORT, "--json", "-")
    report = json.loads(outcome.out)
    assert report["tasks"] == []
    assert all("tasks" not in row for row in report["models"])
    assert "lm_eval" not in report["versions"]
    assert "score" not in outcome.err


REFUSED: dict[str, tuple[tuple[Any, ...], str]] = {
    "without text": (("--task", "Q"), "a loss needs text: add --data"),
    "a path and no task": ((*SHORT, "--task-path", "D"), "--task-path is for --task: name a task of it, or leave"),
    "no such directory": ((*SHORT, "--task", "Q", "--task-path", "nowhere"), "there is no directory 'nowhere'"),
    "no such file": ((*SHORT, "--task", "x.jsonl"), "there is no file 'x.jsonl' of questions"),
    "one name for two": ((*SHORT, "--task", "Q", "--task", "Q"), "two tasks are called 'q'"),
    "a limit of nothing": ((*SHORT, "--task", "own=Q:0"), "a limit of 1 or more"),
    "the report onto the questions": ((*SHORT, "--task", "Q", "--json", "Q"), "the questions"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_makes_no_sense_is_refused(case: str, tmp_path: Path, isthmus: CLI) -> None:
    words, message = REFUSED[case]
    file = questions_file(tmp_path / "q.jsonl", rows=8)
    content = file.read_bytes()
    given = [{"Q": str(file), "D": str(tmp_path)}.get(word, word) for word in words]
    outcome = isthmus("ensemble", *PAIR, *given)
    assert (outcome.code, message in outcome.error) == (2, True), outcome.err
    assert outcome.error.count("\n") == 1
    assert file.read_bytes() == content


@pytest.mark.parametrize("command", ["merge", "compare"])
def test_other_commands_keep_the_questions(command: str, tmp_path: Path, isthmus: CLI) -> None:
    file = questions_file(tmp_path / "q.jsonl", rows=8)
    content = file.read_bytes()
    outcome = isthmus(command, *PAIR, "-o", tmp_path / "out", *SHORT[:6], "--task", file, "--json", file)
    assert (outcome.code, "the questions" in outcome.error) == (2, True), outcome.err
    assert file.read_bytes() == content


def test_models_that_write_no_text_are_asked_nothing(tmp_path: Path, isthmus: CLI) -> None:
    file, sizes = questions_file(tmp_path / "q.jsonl", rows=8), {"hidden_size": 32, "num_attention_heads": 4}
    for seed, name in enumerate("ab"):
        torch.manual_seed(seed)
        config = BertConfig(vocab_size=2048, num_hidden_layers=2, intermediate_size=64, **sizes)
        BertForMaskedLM(config).save_pretrained(tmp_path / name)
        for small in ("tokenizer.json", "tokenizer_config.json"):
            (tmp_path / name / small).write_bytes((PAIR[0] / small).read_bytes())
    outcome = isthmus("ensemble", tmp_path / "a", tmp_path / "b", *SHORT, "--task", file)
    assert (outcome.code, outcome.error.count("\n")) == (2, 1), outcome.err
    assert "--task asks language models, and 'a' writes no text: leave it out" in outcome.error
    models = [saved_classifier(tmp_path / f"classifier-{name}", seed=seed) for seed, name in enumerate("ab")]
    data = labelled(tmp_path / "x.jsonl")
    outcome = isthmus("ensemble", *models, "--data", data, "--tokens", 400, "--task", file)
    assert outcome.code == 2
    assert "ensembles are made of language models" in outcome.error
