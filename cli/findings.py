"""What `check` says of models, in the same words for every command, on stderr."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from rich.markup import escape

from isthmus.checkpoint.checks.finding import Finding
from isthmus.cli.terminal import say

COLOURS = {"blocks": "red", "degrades": "yellow", "notes": "cyan"}
FIRST = 10


def print_findings(findings: Sequence[Finding], first: int | None = None) -> None:
    """One line a finding, the gravest first; beyond the `first` of them only their count."""
    listed = findings if first is None or len(findings) <= first else findings[:first]
    for finding in listed:
        say(f"[{COLOURS[finding.kind]}]{finding.kind}[/]  {escape(str(finding))}")
    counts = Counter(finding.kind for finding in findings[len(listed) :])
    if counts:
        more = ", ".join(f"{count} {kind}" for kind, count in counts.items())
        say(f"[dim]findings[/]  {len(findings) - len(listed)} more ({more}): run 'isthmus check' to see them")
