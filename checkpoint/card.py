"""The model card (README.md) of a merged model, from its report alone: no path of the machine, no user, no token."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

VERDICTS = {
    "preserved": "the endpoints share one kind of spectrum, and the merge keeps it",
    "transition": "the endpoints have different spectra (different optimizers leave different ones), and the merge lies between them",
    "contracted": "the merge's singular values are smaller than either endpoint's: averaging cancelled weights that were not aligned",
    "inflated": "the merge's singular values are larger than either endpoint's",
}


def render_card(report: Mapping[str, Any], name: str) -> str:
    """The card as Markdown with the Hub's metadata; `name` is the model's title."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(loader=PackageLoader("isthmus", "checkpoint"), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["nats"] = lambda value: "–" if value is None else f"{value:.3f}"
    template = environment.get_template("card.md.jinja")
    return template.render(report=report, name=name, verdicts=VERDICTS, parents=[e["ref"] for e in report["endpoints"] if _on_hub(e)])


def _on_hub(endpoint: Mapping[str, Any]) -> bool:
    return endpoint["revision"] is not None
