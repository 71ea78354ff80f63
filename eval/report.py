"""report.html: one self-contained page, figures inside, made for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from isthmus.eval.figures import loss_figure, spectra_figure, svg
from isthmus.eval.summary import loss_table, sentences

if TYPE_CHECKING:
    from isthmus.eval.barrier import Profile
    from isthmus.eval.samples import Sample
    from isthmus.eval.spectrum import Spectrum


def render_report(
    report: Mapping[str, Any],
    curves: Mapping[str, Profile],
    spectra: Mapping[float, Spectrum],
    samples: Sequence[Sample],
) -> str:
    """The page as HTML text. Figures are left out where nothing was measured for them."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    figures = {}
    if curves:
        point = report["merge_point"]
        baselines = {"ensemble of A and B": report["baselines"]["ensemble"]["loss"]}
        drawn = loss_figure(curves, (point["t"], point["loss"], point["stderr"]), baselines)
        figures["loss"] = svg(drawn, "Loss along the path")
    if spectra:
        drawn = spectra_figure(spectra, _shown(list(next(iter(spectra.values())))))
        figures["spectra"] = svg(drawn, "Singular values along the path")
    environment = Environment(
        loader=PackageLoader("isthmus", "eval"),
        undefined=StrictUndefined,
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["nats"] = lambda value: "–" if value is None else f"{value:.3f}"
    columns, rows = loss_table(report)
    return environment.get_template("report.html.jinja").render(
        report=report, columns=columns, rows=rows, sentences=sentences(report), figures=figures, samples=samples
    )


def _shown(names: list[str]) -> list[str]:
    """One matrix of every third of the model: a query, an output and an MLP matrix where those are the kinds."""
    return [names[len(names) // 6], names[len(names) // 2], names[-2]]
