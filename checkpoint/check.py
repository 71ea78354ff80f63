"""Can these models be merged? From configurations, tokenizer files and headers alone; no weight is read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from isthmus.checkpoint.config import build_config, read_facts, schema_of
from isthmus.checkpoint.errors import IncompatibleModels
from isthmus.checkpoint.loading import match_names, stored_tensors
from isthmus.checkpoint.model import Families
from isthmus.checkpoint.reference import parse_reference
from isthmus.checkpoint.source import Source

if TYPE_CHECKING:
    from transformers import PretrainedConfig

LABELS = {
    "num_hidden_layers": "number of layers",
    "hidden_size": "width",
    "num_attention_heads": "number of heads",
    "vocab_size": "vocabulary size",
    "max_position_embeddings": "context length",
}
# What a configuration says that has no bearing on the function of the weights.
IRRELEVANT = frozenset(
    [
        "_name_or_path",
        "architectures",
        "dtype",
        "torch_dtype",
        "transformers_version",
        "use_cache",
        "return_dict",
        "output_attentions",
        "output_hidden_states",
        "id2label",
        "label2id",
        "problem_type",
        "chunk_size_feed_forward",
        "is_encoder_decoder",
        "initializer_range",
        "attn_pdrop",
        "embd_pdrop",
        "resid_pdrop",
        "task_specific_params",
        "pad_token_id",
        "bos_token_id",
        "eos_token_id",
        "tie_word_embeddings",
        "n_ctx",
        "gradient_checkpointing",
        "reorder_and_upcast_attn",
    ]
)


@dataclass(frozen=True)
class Finding:
    """One thing found: it `blocks` a merge, `degrades` it, or is a note; what, in which model, and what to do."""

    kind: Literal["blocks", "degrades", "notes"]
    what: str
    advice: str

    def __str__(self) -> str:
        return f"{self.what}: {self.advice}"


@dataclass(frozen=True)
class CheckResult:
    """What `check` found between models, the first of which is the reference for the others."""

    models: tuple[str, ...]
    findings: tuple[Finding, ...]

    @property
    def mergeable(self) -> bool:
        """Whether nothing blocks."""
        return not any(finding.kind == "blocks" for finding in self.findings)

    def require(self) -> None:
        """Raise IncompatibleModels with the first thing that blocks, if anything does."""
        blocking = [finding for finding in self.findings if finding.kind == "blocks"]
        if blocking:
            more = f" (and {len(blocking) - 1} more: run 'isthmus check')" if len(blocking) > 1 else ""
            raise IncompatibleModels(f"{blocking[0]}{more}")

    def to_dict(self) -> dict[str, object]:
        """The result as JSON-ready data."""
        return {
            "schema": 1,
            "command": "check",
            "models": list(self.models),
            "mergeable": self.mergeable,
            "findings": [asdict(finding) for finding in self.findings],
        }


def check(*references: str | Path, families: Families | None = None) -> CheckResult:
    """Compare two or more models, all with the first, from headers and small files.

    `families` are the architectures that can be aligned, by model type; another one degrades to plain averaging.

    Raises ModelNotFound, CorruptCheckpoint or BadInput when a model cannot be examined at all.
    """
    sources = [Source(parse_reference(reference)) for reference in references]
    facts = [read_facts(source) for source in sources]
    findings: list[Finding] = []
    for source, said in zip(sources, facts, strict=True):
        findings += _own_findings(source, said, families)
    for source, said in zip(sources[1:], facts[1:], strict=True):
        if _relevant(said) != _relevant(facts[0]):
            a, b = build_config(facts[0], sources[0].name), build_config(said, source.name)
            findings += _config_findings(sources[0].name, a, source.name, b)
        findings += _tokenizer_findings(sources[0], source)
    return CheckResult(tuple(source.name for source in sources), tuple(findings))


def _relevant(facts: Mapping[str, Any]) -> dict[str, Any]:
    """What can make a difference, `tie_word_embeddings` too."""
    return {key: value for key, value in facts.items() if key not in IRRELEVANT - {"tie_word_embeddings"}}


def _own_findings(source: Source, facts: Mapping[str, Any], families: Families | None) -> list[Finding]:
    findings = []
    kind = facts["model_type"]
    repair = "repair or replace this checkpoint"
    if families is not None and kind not in families:
        repair = f"models of type '{kind}' are only read when their files use transformers' own names"
        findings.append(
            Finding(
                "degrades",
                f"'{source.name}' is of type '{kind}', whose symmetries are not known",
                f"only --align none is possible; alignment is supported for: {', '.join(sorted(families))}",
            )
        )
    stored = stored_tensors(source)
    if stored is None:
        advice = "its tensors can only be checked after the download; safetensors would be checked before"
        return [*findings, Finding("notes", f"'{source.name}' has only pickled weights", advice)]
    if any(not file.endswith(".safetensors") for file, _ in stored.values()):
        findings.append(
            Finding("notes", f"'{source.name}' has only pickled weights", "they are read without executing them")
        )
    _, problems = match_names(stored, schema_of(facts, source.name, families), source.name)
    return findings + [Finding("blocks", p, repair) for p in problems]


def _config_findings(name_a: str, a: PretrainedConfig, name_b: str, b: PretrainedConfig) -> list[Finding]:
    if a.model_type != b.model_type:
        what = f"'{name_a}' is of type '{a.model_type}', '{name_b}' of type '{b.model_type}'"
        return [Finding("blocks", what, "only models of one architecture can be merged")]
    findings = []
    public = {own: standard for standard, own in a.attribute_map.items()}
    fields_a, fields_b = a.to_dict(), b.to_dict()
    for key in sorted(fields_a.keys() | fields_b.keys()):
        mine, other = fields_a.get(key), fields_b.get(key)
        if mine == other or key in IRRELEVANT or key.startswith("summary_"):
            continue
        label = LABELS.get(public.get(key, key), key)
        what = f"the {label} differs: {mine} in '{name_a}', {other} in '{name_b}'"
        if key == "layer_norm_epsilon":
            findings.append(Finding("degrades", what, f"the merge takes the value of '{name_a}'"))
        else:
            findings.append(Finding("blocks", what, "only models of one shape and function can be merged"))
    if a.tie_word_embeddings != b.tie_word_embeddings:
        tied = name_a if a.tie_word_embeddings else name_b
        findings.append(Finding("notes", f"only '{tied}' ties its output to its embedding", "the merge will be untied"))
    return findings


def _vocabulary(source: Source) -> tuple[dict[str, int], list[str]] | None:
    """Token → id, added tokens included, and the merges as strings; None without tokenizer files."""
    if "tokenizer.json" in source.files:
        content = source.json("tokenizer.json")
        model = content.get("model", {})
        raw = model.get("vocab", {})
        vocabulary = dict(raw) if isinstance(raw, dict) else {entry[0]: index for index, entry in enumerate(raw)}
        vocabulary |= {entry["content"]: entry["id"] for entry in content.get("added_tokens", [])}
        merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model.get("merges", [])]
        return vocabulary, merges
    if "vocab.json" in source.files:
        lines = (
            source.path("merges.txt").read_text(encoding="utf-8").splitlines() if "merges.txt" in source.files else []
        )
        return source.json("vocab.json"), [line for line in lines if line and not line.startswith("#version")]
    return None


def _tokenizer_findings(a: Source, b: Source) -> list[Finding]:
    first, second = _vocabulary(a), _vocabulary(b)
    if first is None or second is None:
        if first is second:
            return [Finding("notes", f"neither '{a.name}' nor '{b.name}' has a tokenizer", "losses cannot be measured")]
        bare, other = (a, b) if first is None else (b, a)
        what = f"'{bare.name}' has no tokenizer, so its token ids cannot be compared"
        return [Finding("degrades", what, f"the tokenizer of '{other.name}' is taken for both")]
    if first[0] != second[0]:
        differing = sorted(t for t in first[0].keys() | second[0].keys() if first[0].get(t) != second[0].get(t))
        token = json.dumps(differing[0], ensure_ascii=False)
        what = (
            f"the tokenizers differ in {len(differing)} tokens, for instance {token} is {first[0].get(differing[0])} "
            f"in '{a.name}' and {second[0].get(differing[0])} in '{b.name}'"
        )
        return [
            Finding(
                "blocks",
                what,
                "the rows of the embeddings would not mean the same; merge models of one tokenizer",
            )
        ]
    if first[1] != second[1]:
        return [
            Finding(
                "degrades",
                f"the merge rules of '{b.name}' differ from those of '{a.name}'",
                f"those of '{a.name}' are taken",
            )
        ]
    return []
