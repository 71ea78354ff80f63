"""report.html: one self-contained page to look at and to explore, without a server."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from ..checkpoint.card import letter
from .explanation_page import weights_section
from .page_templates import page_environment
from .sentences import sentences
from .spectrum import log_histogram, stable_rank
from .summary import loss_table, profiles, unit

if TYPE_CHECKING:
    from .samples import Sample
    from .spectrum import Spectrum

BINS = 24


def render_report(
    report: Mapping[str, Any], spectra: Mapping[float, Spectrum] | None = None, samples: Sequence[Sample] = ()
) -> str:
    """The page as HTML text, from the report of a merge, a path or a plane; what was not measured is left out."""
    environment = page_environment()
    environment.filters["nats"] = lambda value: "–" if value is None else f"{value:.3f}"
    merged = report["command"] != "plane"
    columns, rows = loss_table(report) if merged else ((), ())
    plane = report.get("plane")
    names = list(next(iter(spectra.values()))) if spectra else []
    return environment.get_template("report.html.jinja").render(
        report=report,
        title=_listed([end["ref"] for end in report["endpoints"]]),
        letters=[letter(place) for place in range(len(report["endpoints"]))],
        columns=columns,
        rows=rows,
        unit=unit(report),
        sentences=sentences(report) if merged else (),
        samples=samples,
        made_of=weights_section(report) if report.get("explanation") else None,
        page=page_data(report, spectra or {}),
        plane_range=f"{_range(plane)} {unit(report)}" if plane else "",
        kinds=list(dict.fromkeys(name.rpartition(".")[2] for name in names)),
    )


def page_data(report: Mapping[str, Any], spectra: Mapping[float, Spectrum]) -> dict[str, Any]:
    """What the page's script draws, JSON-ready: profiles, the merge, the ensemble, spectra, the plane."""
    page: dict[str, Any] = {"profiles": [], "spectra": None, "plane": report.get("plane"), "unit": unit(report)}
    if report["command"] != "plane":
        page["merge"] = report["merge_point"]
        page["ensemble"] = report["baselines"].get("ensemble")
        page["profiles"] = [{"kind": kind, "name": name, "points": rows} for kind, name, rows in profiles(report)]
    if spectra:
        ts = sorted(spectra)
        page["spectra"] = {
            "t": ts,
            "along": report["path_spectrum"]["points"],
            "matrices": {
                name: _matrix([spectra[t][name] for t in ts])
                for name in spectra[ts[0]]
                if any(spectra[t][name].numel() for t in ts)  # a zero matrix has no spectrum
            },
        }
    return page


def _matrix(values: Sequence[torch.Tensor]) -> dict[str, Any]:
    logs = torch.cat(list(values)).log10().float()
    edges = torch.linspace(float(logs.quantile(0.005)), float(logs.max()) + 1e-4, BINS + 1)
    return {
        "edges": [round(edge, 3) for edge in edges.tolist()],
        "shares": [[round(share, 4) for share in log_histogram(sigma, edges)] for sigma in values],
        "stable_rank": [round(stable_rank(sigma), 2) for sigma in values],
    }


def _listed(names: Sequence[str]) -> str:
    return f"{', '.join(names[:-1])} and {names[-1]}" if len(names) > 1 else names[0]


def _range(plane: Mapping[str, Any]) -> str:
    losses = [loss for row in plane["loss"] for loss in row if loss is not None]
    return f"losses from {min(losses):.2f} to {max(losses):.2f}"
