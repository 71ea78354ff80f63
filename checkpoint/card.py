"""The model card (README.md) of a merged model, from its report alone: no path of the machine, no user, no token."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def render_card(report: Mapping[str, Any], name: str, table: Any, sentences: Any) -> str:
    """The card as Markdown with the Hub's metadata.

    `name` is the model's title, `table` and `sentences` what `isthmus.eval.summary` makes of the report.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("isthmus", "checkpoint"), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    columns, rows = table
    return environment.get_template("card.md.jinja").render(
        report=report,
        name=name,
        columns=columns,
        rows=rows,
        sentences=sentences,
        parents=[end["ref"].split("@")[0].split(":")[0] for end in report["endpoints"] if end["revision"] is not None],
    )
