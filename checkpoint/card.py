"""The model card (README.md) of a merged model, written from its report alone: no local path, no user, no token."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from .checks.repository import HUB_LICENCES
from .reference import GGUF
from .task import AUTO_CLASSES, CLASSIFIERS, MASKED, TEXTS
from .untrusted_text import code, fence, markdown, plain, plain_lines

if TYPE_CHECKING:
    from huggingface_hub import ModelCardData
    from jinja2 import Environment

LONGEST = 4000  # characters of a sentence, and of a line of the command
FIGURE = "path.png"


def render_card(report: Mapping[str, Any], name: str, table: Any, sentences: Any, *, repo_id: str | None = None) -> str:
    """The card as Markdown with the Hub's metadata.

    `name` is the title of the model, `table` and `sentences` come from `isthmus.eval`, `repo_id` is its future
    place on the Hub, if that is known. The card shows `FIGURE` if losses were measured.
    """
    environment = _environment()
    columns, rows = table
    reproduce = plain_lines(report["reproduce"], LONGEST)
    kind, base, soup = report["path"]["kind"], report.get("base"), report.get("soup") or {}
    chosen = "\n".join(plain_lines(line, LONGEST) for line in soup.get("recipe", ()))
    body = environment.get_template("card.md.jinja").render(
        report=report,
        ends=report["endpoints"],
        letters=[letter(place) for place in range(len(report["endpoints"]))],
        base=base,
        name=name,
        path="the straight line" if kind == "linear" else f"a {kind} with trained bends",
        columns=columns,
        rows=rows,
        sentences=sentences,
        figure=FIGURE,
        model=repo_id or name,
        reproduce=reproduce,
        fence=fence(reproduce),
        revision=_revision,
        optimizer=lambda end: f"{end['optimizer'] or 'unknown'} ({end['optimizer_evidence']})",
        local=_local(report),
        masked=report["task"] == MASKED,
        classifies=report["task"] in CLASSIFIERS,
        example="A text to classify.",
        adapter=report.get("adapter"),
        opening=_opening(report),
        chosen=chosen,
        chosen_fence=fence(chosen),
        chosen_command=plain_lines(soup.get("command", ""), LONGEST),
    )
    return f"---\n{metadata(report, name).to_yaml()}\n---\n{body}\n"


def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("isthmus", "checkpoint"), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"md": markdown, "quoted": _quoted, "sentence": partial(markdown, limit=LONGEST)}
    return environment


def render_adapter_card(report: Mapping[str, Any], name: str) -> str:
    """The card of an adapter that was extracted from a model, as `render_card` makes that of a merge."""
    environment = _environment()
    reproduce = plain_lines(report["reproduce"], LONGEST)
    adapter, base = report["adapter"], report["base"]
    body = environment.get_template("adapter_card.md.jinja").render(
        report=report,
        name=name,
        end=report["endpoints"][0],
        base=base,
        opening=_opening({**report, "adapter": {**adapter, "base": base}}),
        adapter=adapter,
        lowest=min(adapter["ranks"].values(), default=0),
        highest=max(adapter["ranks"].values(), default=0),
        model=name,
        reproduce=reproduce,
        fence=fence(reproduce),
        revision=_revision,
        local=_local(report, "adapter"),
    )
    return f"---\n{_adapter_metadata(report).to_yaml()}\n---\n{body}\n"


def _adapter_metadata(report: Mapping[str, Any]) -> ModelCardData:
    from huggingface_hub import ModelCardData

    parents = [_repository(report["base"])] if report["base"]["on_hub"] else []
    return ModelCardData(
        base_model=list(filter(None, parents)) or None,
        base_model_relation="adapter" if any(parents) else None,
        library_name="peft",
        license=report["license"] if report["license"] in HUB_LICENCES else None,
        pipeline_tag=report["task"],
        tags=["lora", "isthmus"],
    )


def letter(place: int) -> str:
    """The letter of an endpoint by its place from 0: A, B, ...; from the 27th on a number."""
    return chr(ord("A") + place) if place < 26 else str(place + 1)


def metadata(report: Mapping[str, Any], name: str) -> ModelCardData:
    """The part of a card that the Hub reads: parents, licence, losses and perplexities as evaluation results."""
    from huggingface_hub import EvalResult, ModelCardData

    masked, classifies = report["task"] == MASKED, report["task"] in CLASSIFIERS
    accuracies = report["merge_point"].get("accuracies") or {}
    unit = "hidden token" if masked else "text" if report["task"] == TEXTS else "label" if classifies else "token"
    results = [
        EvalResult(
            task_type=report["task"],
            dataset_type=plain(label),
            dataset_name=plain(label),
            metric_type=kind,
            metric_name=f"loss, nats per {unit}" if kind == "loss" else kind,
            metric_value=round(_metric(kind, loss, accuracies.get(label)), 4),
        )
        for label, loss in (report["merge_point"].get("losses") or {}).items()
        for kind in (("loss", "accuracy") if classifies else ("loss",) if masked else ("loss", "perplexity"))
    ]
    results += [
        EvalResult(
            task_type=report["task"],
            dataset_type=plain(task["label"]),
            dataset_name=plain(task["label"]),
            metric_type=task["metric"],
            metric_name=task["metric"],
            metric_value=round(report["merge_point"]["tasks"][task["label"]]["score"], 4),
        )
        for task in report.get("tasks", ())
    ]
    repositories = [_repository(part) for part in _parts(report) if part["on_hub"]]
    parents = list(dict.fromkeys(filter(None, repositories)))
    under = (report.get("adapter") or {}).get("base")
    if under is not None:  # the Hub shows an adapter below the one model that it is for
        parents = [name for name in parents if name == _repository(under)]
    return ModelCardData(
        base_model=parents or None,
        base_model_relation=("adapter" if under else "merge") if parents else None,
        library_name="peft" if under else "transformers",
        license=report["license"] if report["license"] in HUB_LICENCES else None,
        pipeline_tag=report["task"],
        tags=["merge", "isthmus"],
        model_name=plain(name) if results else None,
        eval_results=results or None,
    )


def _metric(kind: str, loss: float, accuracy: float | None) -> float:
    return accuracy if kind == "accuracy" and accuracy is not None else math.exp(loss) if kind == "perplexity" else loss


def _parts(report: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The directories and repositories of all models: of an adapted one, its base and its adapter."""
    under = (report.get("adapter") or {}).get("base")
    ends = [*report["endpoints"], *filter(None, [report.get("base"), under])]
    return [part for end in ends for part in end.get("parts", [end])]


def _revision(end: Mapping[str, Any]) -> str:
    revisions = [part["revision"] for part in end.get("parts", [end])]
    return " + ".join(code(revision[:12]) if revision else "a local directory" for revision in revisions)


def _repository(end: Mapping[str, Any]) -> str | None:
    """The repository of an endpoint; None if the Hub does not accept its name."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    name = str(end["ref"]).partition("@")[0].partition(":")[0]
    try:
        validate_repo_id(name)
    except HFValidationError:
        return None
    return name


def _quoted(text: object) -> str:
    """Text on one line in double quotes, escaped as in JSON."""
    return json.dumps(plain(text), ensure_ascii=False)


def _opening(report: Mapping[str, Any]) -> list[str]:
    """The lines of Python that open the base of an adapter as the adapter needs it; none for a model."""
    adapter = report.get("adapter")
    if not adapter:
        return []
    base, name = adapter["base"], AUTO_CLASSES[report["task"]]
    place, _, inside = str(base["ref"]).partition(":") if base["on_hub"] else (str(base["ref"]), "", "")
    if not base["on_hub"] and place.endswith(GGUF):
        place, inside = ".", place
    folder, _, file = inside.rpartition("/") if inside.endswith(GGUF) else (inside, "", "")
    given = {"revision": base["revision"], "subfolder": folder or None, "gguf_file": file or None}
    options = "".join(f", {key}={_quoted(value)}" for key, value in given.items() if value)
    lines = [
        "from peft import PeftModel",
        f"from transformers import {name}",
        "",
        f"base = {name}.from_pretrained({_quoted(place.partition('@')[0])}{options})",
    ]
    return [*lines, f"base.resize_token_embeddings({adapter['rows']})"] if adapter["rows"] else lines


def _local(report: Mapping[str, Any], what: str = "merge") -> str:
    """A sentence on the models in the command that are local directories; empty if there are none."""
    local = list(dict.fromkeys(code(f"./{part['ref']}") for part in _parts(report) if not part["on_hub"]))
    if not local:
        return ""
    names = " and ".join(filter(None, [", ".join(local[:-1]), local[-1]]))
    return f"{names} {'are' if local[1:] else 'is'} on the disk of whoever made the {what}."
