"""Can these models be merged? From configurations, tokenizer files and headers alone; no weight is downloaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from .base_of_classifiers import base_finding, classifier_facts, is_base_of_classifiers
from .checks.configuration import configuration_findings
from .checks.cost import Cost, cost_findings, cost_of
from .checks.diagnosis import Diagnosis, diagnose
from .checks.files import file_findings
from .checks.finding import Finding
from .checks.labels import label_findings
from .checks.repository import licence_of, repository_findings
from .checks.tokenizers import tokenizer_findings
from .checks.weights import own_findings, pair_findings
from .config import vocabulary_rows
from .errors import IncompatibleModels
from .labels import naming_model
from .layers import as_deep_as
from .model import Families
from .one_vocabulary import facts_of
from .opening import open_source
from .optimizer_evidence import DOCUMENTS, SMALL, Evidence, conclude, file_evidence, relation
from .reference import parse_reference
from .small_files import ADAPTER, CONFIGURATION, GENERATION, PROCESSOR_TEMPLATE, SETTING_FILES, is_template
from .source import WEIGHT_INDEXES, Source
from .task import classifier_task
from .trial_loading import opening_finding
from .vocabulary import Growth

ORDER = ("blocks", "degrades", "notes")
READ = (CONFIGURATION, ADAPTER, GENERATION, PROCESSOR_TEMPLATE, *SETTING_FILES, *WEIGHT_INDEXES, *DOCUMENTS)


@dataclass(frozen=True)
class CheckResult:
    """What `check` found between models, the first of which is the reference for the others.

    `growth` says of every other model how its vocabulary and that of the first grew apart, None where they did not.
    `provenance` is what the files of every model say of its optimizer, `licences` what their cards
    name. `cost` is None when they cannot be merged. `sources` are the files that were looked at.
    """

    models: tuple[str, ...]
    revisions: tuple[str | None, ...]
    findings: tuple[Finding, ...]
    growth: tuple[Growth | None, ...]
    provenance: tuple[tuple[Evidence, ...], ...]
    licences: tuple[str | None, ...]
    cost: Cost | None = None
    sources: tuple[Source, ...] = field(default=(), repr=False, compare=False)

    @property
    def mergeable(self) -> bool:
        """Whether nothing blocks."""
        return not any(finding.kind == "blocks" for finding in self.findings)

    @property
    def diagnosis(self) -> Diagnosis | None:
        """Why a merge may write gibberish; None where nothing points to it."""
        return diagnose(self.findings)

    def require(self) -> None:
        """Raise IncompatibleModels with the first thing that blocks, if anything does."""
        blocking = [finding for finding in self.findings if finding.kind == "blocks"]
        if blocking:
            more = f" (and {len(blocking) - 1} more: run 'isthmus check')" if len(blocking) > 1 else ""
            raise IncompatibleModels(f"{blocking[0]}{more}")

    def to_dict(self) -> dict[str, object]:
        """The result as JSON-ready data."""
        cost = None if self.cost is None else {**asdict(self.cost), "download_seconds": round(self.cost.seconds, 1)}
        return {
            "schema": 1,
            "command": "check",
            "models": list(self.models),
            "revisions": list(self.revisions),
            "mergeable": self.mergeable,
            "findings": [asdict(finding) for finding in self.findings],
            "diagnosis": None if self.diagnosis is None else str(self.diagnosis),
            "optimizers": [asdict(conclude(said)) for said in self.provenance],
            "cost": cost,
        }


def check(
    *references: str | Path,
    families: Families | None = None,
    opened: bool = True,
    sources: Sequence[Source] | None = None,
    head: int | None = None,
    base: bool = False,
    moves: bool = False,
) -> CheckResult:
    """Compare two or more models, all with the first, from headers and small files.

    `families` are the architectures that can be aligned, by model type; another one degrades to plain averaging. Of
    more than two models, a vocabulary that grew blocks: an operator merges rows that all models have. With `opened`,
    transformers builds every model once, without memory for weights: a plain average
    leaves that to its output, for transformers takes seconds to import. `sources` are the models' files where they are
    open already. `head` is the place of the classifier whose head all take, None where heads are merged. With `base`,
    the first is what the others were trained from: a language model may be that of classifiers. With `moves`, layers
    will move, and models may have different numbers of them.

    Raises ModelNotFound, CorruptCheckpoint or BadInput when a model cannot be examined at all.
    """
    sources = list(sources or open_sources(references))
    facts = [facts_of(source, families) for source in sources]
    findings: list[Finding] = []
    first = facts[0]
    if base and is_base_of_classifiers(facts):
        first = classifier_facts(first, facts[1])
        findings.append(base_finding(sources[0].name, [source.name for source in sources[1:]]))
    weights, other_kinds = [], set()
    for source, said in zip(sources, facts, strict=True):
        own, tensors = own_findings(source, said, families)
        if opened and not _blocking(own):  # what fits its files is no larger than they are
            own += filter(None, [opening_finding(source, said, families, generation=source is sources[0])])
        findings += own
        if tensors.contents is None and _blocking(own):
            other_kinds.add(source)
        weights.append(tensors)
    alignable = weights[0].aligns
    growth: list[Growth | None] = []
    apart: list[Finding] = []
    for source, said, tensors in zip(sources[1:], facts[1:], weights[1:], strict=True):
        compared = as_deep_as(said, first) if moves else said
        differing = configuration_findings(sources[0].name, first, source.name, compared, families)
        apart += differing
        if not {sources[0], source}.isdisjoint(other_kinds):  # there may be no vocabulary to compare
            growth.append(None)
            continue
        rows = [vocabulary_rows(f, s.name) for f, s in ((facts[0], sources[0]), (said, source))]
        found, grown = tokenizer_findings(sources[0], rows[0], source, rows[1], opened=opened)
        findings += found
        growth.append(grown)
        if grown and len(sources) > 2:
            findings.append(two_vocabularies(sources[0].name, source.name, grown))
        if not any(finding.kind == "blocks" and finding.cause != "positions" for finding in (*differing, *found)):
            findings += pair_findings(sources[0], weights[0], source, tensors)
    if not any(finding.kind == "blocks" for finding in apart):
        apart += _label_findings(sources, facts, head, base=first is not facts[0])
    findings = apart + findings  # a difference explains what is wrong with tensors
    for source, said in zip(sources, facts, strict=True):
        if source not in other_kinds:
            findings += file_findings(source, said, vocabulary_rows(said, source.name))
    findings += repository_findings(sources, alignable=alignable)
    provenance = tuple(tuple(file_evidence(source.parts[0])) for source in sources)
    findings += _optimizer_findings(sources, provenance)
    cost = None
    if not any(finding.kind == "blocks" for finding in findings):
        cost = cost_of(sources, facts, families, aligned=alignable)
        findings += cost_findings(cost)
    return CheckResult(
        tuple(source.name for source in sources),
        tuple(source.revision for source in sources),
        tuple(sorted(dict.fromkeys(findings), key=lambda finding: ORDER.index(finding.kind))),
        tuple(growth),
        provenance,
        tuple(licence_of(source.metadata) for source in sources),
        cost,
        tuple(sources),
    )


def _label_findings(
    sources: Sequence[Source], facts: Sequence[Mapping[str, Any]], head: int | None, *, base: bool
) -> list[Finding]:
    """What differs between the labels of classifiers, all against the one that names them; `base`: but the first."""
    names, every = [source.name for source in sources[base:]], facts[base:]
    tasks = {classifier_task(one["model_type"], one.get("architectures")) for one in every}
    owner = 0 if len(tasks) > 1 else naming_model(every, names, None if head is None else head - base)
    findings = []
    for place, other in enumerate(every):
        if place != owner:
            findings += label_findings(names[owner], every[owner], names[place], other, head=head is not None)
    return findings


def two_vocabularies(name_a: str, name_b: str, growth: Growth) -> Finding:
    """What is said where an operator meets a vocabulary that grew."""
    what = f"'{name_a}' and '{name_b}' share {growth.shared} rows of the vocabulary, and one has more"
    advice = "give all models one vocabulary (--vocabulary union), or merge two along a path (leave --method out)"
    return Finding("blocks", what, advice, "config.json")


def _blocking(findings: Sequence[Finding]) -> bool:
    """Whether any finding blocks."""
    return any(finding.kind == "blocks" for finding in findings)


def _optimizer_findings(sources: Sequence[Source], provenance: Sequence[Sequence[Evidence]]) -> list[Finding]:
    found = [conclude(said) for said in provenance]
    if relation([evidence.optimizer for evidence in found]) != "cross-optimizer":
        return []
    listed = ", ".join(f"'{s.name}' by {e.optimizer} ({e.why})" for s, e in zip(sources, found, strict=True))
    advice = "their spectra differ, and a path passes from one kind to the other; the report will say so"
    return [Finding("notes", f"they were trained by different optimizers: {listed}", advice, "their files")]


def open_sources(references: Sequence[str | Path]) -> list[Source]:
    """The models' files, listed, and the small ones that will be read, fetched: all models at once."""

    def opened(reference: str | Path) -> Source:
        source = open_source(parse_reference(reference))
        for part in source.parts:
            names = [name for name in part.files if name in READ or is_template(name)]
            part.fetch(name for name in names if (part.files[name].size or 0) <= SMALL)
        return source

    with ThreadPoolExecutor(len(references) or 1) as pool:
        return list(pool.map(opened, references))
