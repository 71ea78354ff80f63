"""explain.html: an explanation as one self-contained page, its heat maps as tables that any reader can read out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..checkpoint.card import letter
from .explanation_text import heat_maps, parent_names, swaps_by_name
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
