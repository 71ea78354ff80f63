"""The report of a merge: what isthmus.json holds, assembled from what was found out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from typing import Any

from ..checkpoint.checks.repository import derived_licence
from ..checkpoint.inputs import Inputs
from ..checkpoint.loading import Checkpoint
from ..checkpoint.optimizer_evidence import Evidence, relation
from ..checkpoint.reference import parse_reference
from ..eval.spectrum import PathSpectrum, SpectrumReport
from ..eval.text import Blocks
from .measure import Measured, unmeasured
from .plans import MergePlan
from .recipes.recipe import Recipe


@dataclass(frozen=True)
class Record:
    """What is known of a merge when it is done, for its report."""

    plan: MergePlan
    recipe: Recipe | None
    inputs: Inputs
    text: Sequence[Blocks]
    dtype: str
    command: str
    trained_by: Sequence[Evidence]
    alignment: Mapping[str, Any]
    t: float | None = None
    training: Mapping[str, Any] = field(default_factory=dict)
    soup: Mapping[str, Any] | None = None
    measured: Measured | None = None
    verdict: SpectrumReport | None = None
    along: PathSpectrum | None = None
    restored: Mapping[str, float | bool] | None = None
    plane: Mapping[str, Any] | None = None
    vocabulary: Mapping[str, Any] | None = None

    def report(self, seconds: float) -> dict[str, Any]:
        """The report, JSON-ready, of a merge that took some seconds."""
        base = int(self.recipe.operator.needs_base) if self.recipe else 0
        ends, licences = self.inputs.members[base:], self.inputs.licences
        losses = self.measured.member_losses() if self.measured else [{} for _ in ends]
        return {
            "schema": 1,
            "command": "merge",
            "endpoints": _endpoints(ends, losses, self.trained_by, licences[base:]),
            "optimizers": _optimizers(self.trained_by),
            "alignment": {"asked": self.plan.alignment, **self.alignment},
            **(self._of_path() if self.recipe is None else self._of_operator(self.recipe)),
            **(self.measured.report() if self.measured else unmeasured(self.t)),
            "spectrum": asdict(self.verdict) if self.verdict else None,
            "plane": self.plane,
            "vocabulary": self.vocabulary,
            "findings": [asdict(finding) for finding in self.inputs.findings],
            **_texts_and_licence(self.text, licences),
            "reproduce": self.command,
            "settings": self._settings(),
            "seconds": round(seconds, 3),
            "versions": {name: version(name) for name in ("isthmus", "torch", "transformers")},
        }

    def _of_path(self) -> dict[str, Any]:
        return {
            "path": {"kind": "linear", "bends": 0, "steps": 0, **self.training},
            "restored_spectrum": self.restored,
            "path_spectrum": _path_spectrum(self.along) if self.along else None,
        }

    def _of_operator(self, recipe: Recipe) -> dict[str, Any]:
        base = self.inputs.first if recipe.operator.needs_base else None
        return {
            "path": {"kind": "none", "bends": 0, "steps": 0},
            "base": {"ref": base.name, "revision": base.revision, "on_hub": _on_hub(base)} if base else None,
            "method": recipe.to_dict(),
            "soup": self.soup,
        }

    def _settings(self) -> dict[str, Any]:
        plan = self.plan
        if self.recipe is not None:
            return {"soup": plan.soup, "seed": plan.seed, "dtype": self.dtype}
        return {
            "objective": plan.objective,
            "interior": plan.interior,
            "t": plan.t,
            "seed": plan.seed,
            "dtype": self.dtype,
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


def _texts_and_licence(text: Sequence[Blocks], licences: Sequence[str | None]) -> dict[str, Any]:
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
    }


def _path_spectrum(along: PathSpectrum) -> dict[str, Any]:
    return {
        "verdict": along.verdict,
        "broken_at": along.broken_at,
        "points": [{"t": t, "excess": excess, "position": position} for t, excess, position in along.points],
    }
