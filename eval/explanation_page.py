"""Pages that say what a merge did: explain.html, a section of report.html. Heat maps are tables, to be read out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..checkpoint.card import letter
from .explanation_tables import heat_maps, swaps_by_name, tables
from .explanation_text import parent_names
from .page_templates import page_environment


def render_explanation(report: Mapping[str, Any]) -> str:
    """The page as HTML text."""
    return (
        page_environment()
        .get_template("explain.html.jinja")
        .render(
            report=report,
            names=parent_names(report),
            letters=[letter(place) for place in range(len(report["endpoints"]))],
            swaps=swaps_by_name(report),
            maps=heat_maps(report),
        )
    )


def weights_section(report: Mapping[str, Any]) -> dict[str, Any]:
    """What report.html says of the weights of a merge: its sentences, tables of layers and kinds, and heat maps."""
    known = {"endpoints": report["endpoints"], "base": report.get("base"), "swaps": None}
    facts = {**report["explanation"], **known}
    return {**facts, "tables": tables(facts), "maps": heat_maps(facts)}
