"""The report of a merge: what isthmus.json holds, assembled from what was found out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import Any

from ..align.universe import Universe
from ..checkpoint.checks.finding import Finding
from ..checkpoint.checks.repository import derived_licence
from ..checkpoint.group import Group
from ..checkpoint.loading import Checkpoint
from ..checkpoint.optimizer_evidence import Evidence, relation
from ..checkpoint.reference import parse_reference
from ..eval.spectrum import PathSpectrum, SpectrumReport
from ..eval.text import Blocks
from .candidate import Candidate
from .measure import Among, Measured, unmeasured
from .recipe import Recipe


@dataclass(frozen=True)
class Settings:
    """What was asked for, as it is repeated in the report."""

    align: str
    objective: str
    interior: float
    t: float | None
    seed: int
    dtype: str
    command: str


def merge_record(
    endpoints: Sequence[Checkpoint],
    trained_by: Sequence[Evidence],
    licences: Sequence[str | None],
    chosen: Candidate | None,
    measured: Measured | None,
    text: Sequence[Blocks],
    settings: Settings,
    *,
    t: float,
    seconds: float,
    verdict: SpectrumReport | None = None,
    along: PathSpectrum | None = None,
    restored: Mapping[str, float | bool] | None = None,
    plane: Mapping[str, Any] | None = None,
    tried: Mapping[str, float] | None = None,
    vocabulary: Mapping[str, Any] | None = None,
    findings: Sequence[Finding] = (),
) -> dict[str, Any]:
    """The report, JSON-ready. `chosen` is None for a plain average, `measured` where there was no text."""
    losses = measured.endpoint_losses() if measured else [{} for _ in endpoints]
    asked = asdict(settings)
    return {
        "schema": 1,
        "command": "merge",
        "endpoints": _endpoints(endpoints, losses, trained_by, licences),
        "optimizers": _optimizers(trained_by),
        "alignment": {"asked": asked.pop("align"), **_alignment(chosen, tried or {})},
        "path": {"kind": "linear", "bends": 0, "steps": 0, **(chosen.training if chosen else {})},
        **(measured.report() if measured else unmeasured(t)),
        "spectrum": asdict(verdict) if verdict else None,
        "restored_spectrum": restored,
        "plane": plane,
        "vocabulary": vocabulary,
        "path_spectrum": _path_spectrum(along) if along else None,
        "findings": [asdict(finding) for finding in findings],
        **_ending(text, licences, asked, seconds),
    }


@dataclass(frozen=True)
class GroupSettings:
    """What was asked for of a merge of any number of models, as it is repeated in the report."""

    align: str
    soup: str
    seed: int
    dtype: str
    command: str


def group_record(
    group: Group,
    recipe: Recipe,
    trained_by: Sequence[Evidence],
    universe: Universe | None,
    measured: Among | None,
    text: Sequence[Blocks],
    settings: GroupSettings,
    *,
    seconds: float,
    verdict: SpectrumReport | None = None,
    tried: Mapping[str, float] | None = None,
    chosen: Mapping[str, Any] | None = None,
    plane: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The report of a merge by an operator, JSON-ready; `universe` is None where nothing but the operator was run,
    `measured` where there was no text.
    """
    ends = group.members[recipe.operator.needs_base :]
    losses = measured.endpoint_losses() if measured else [{} for _ in ends]
    asked = asdict(settings)
    base = group.members[0] if recipe.operator.needs_base else None
    method = universe.alignments[0].method if universe and universe.alignments else "none"
    return {
        "schema": 1,
        "command": "merge",
        "endpoints": _endpoints(ends, losses, trained_by, group.licences[recipe.operator.needs_base :]),
        "base": {"ref": base.name, "revision": base.revision, "on_hub": _on_hub(base)} if base else None,
        "method": recipe.to_dict(),
        "soup": chosen,
        "optimizers": _optimizers(trained_by),
        "alignment": {
            "asked": asked.pop("align"),
            "method": method,
            "score": universe.scores[-1] if universe else 0.0,
            "rounds": len(universe.scores) - 1 if universe else 0,
            "max_log_prob_error": universe.max_log_prob_error if universe else 0.0,
            "tried": dict(tried or {}),
        },
        "path": {"kind": "none", "bends": 0, "steps": 0},
        **(measured.report() if measured else unmeasured(None)),
        "spectrum": asdict(verdict) if verdict else None,
        "plane": plane,
        "vocabulary": None,
        "findings": [asdict(finding) for finding in group.findings],
        **_ending(text, group.licences, asked, seconds),
    }


def _endpoints(
    endpoints: Sequence[Checkpoint],
    losses: Sequence[Mapping[str, float]],
    trained_by: Sequence[Evidence],
    licences: Sequence[str | None],
) -> list[dict[str, Any]]:
    return [
        {
            "ref": side.name,
            "revision": side.revision,
            "on_hub": _on_hub(side),
            "license": own,
            "loss": loss,
            "optimizer": evidence.optimizer,
            "optimizer_evidence": evidence.why,
        }
        for side, loss, evidence, own in zip(endpoints, losses, trained_by, licences, strict=True)
    ]


def _on_hub(side: Checkpoint) -> bool:
    return parse_reference(side.reference).directory is None


def _optimizers(trained_by: Sequence[Evidence]) -> dict[str, Any]:
    return {
        "relation": relation([evidence.optimizer for evidence in trained_by]),
        "confidence": [evidence.confidence for evidence in trained_by],
    }


def _ending(
    text: Sequence[Blocks], licences: Sequence[str | None], asked: dict[str, Any], seconds: float
) -> dict[str, Any]:
    """What every report ends with: texts, licence, how to make it again, how long it took."""
    licence, reason = derived_licence(licences)
    return {
        "data": [
            {
                "label": part.label,
                "fit_tokens": part.fit.numel(),
                "select_tokens": part.select.numel(),
                "report_tokens": part.report.numel(),
            }
            for part in text
        ],
        "license": licence,
        "license_reason": reason,
        "reproduce": asked.pop("command"),
        "settings": asked,
        "seconds": round(seconds, 3),
        "versions": {name: version(name) for name in ("isthmus", "torch", "transformers")},
    }


def _path_spectrum(along: PathSpectrum) -> dict[str, Any]:
    return {
        "verdict": along.verdict,
        "broken_at": along.broken_at,
        "points": [{"t": t, "excess": excess, "position": position} for t, excess, position in along.points],
    }


def _alignment(chosen: Candidate | None, tried: Mapping[str, float]) -> Mapping[str, Any]:
    if chosen is None:
        return {"method": "none", "score": 0.0, "max_log_prob_error": 0.0, "seconds": 0.0}
    found = chosen.aligned
    return {
        "method": found.alignment.method,
        "score": found.alignment.score,
        "max_log_prob_error": found.max_log_prob_error,
        "seconds": round(chosen.seconds, 3),
        "learning": chosen.learning,
        "tried": dict(tried),
    }
