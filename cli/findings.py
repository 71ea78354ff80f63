"""What `check` says of models, in the same words for every command, on stderr."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from ..checkpoint.checks.finding import Finding
from .terminal import say

COLOURS = {"blocks": "red", "degrades": "yellow", "notes": "cyan"}
FIRST = 10


def print_findings(findings: Sequence[Finding]) -> None:
    """One line a finding, the gravest first; beyond the first `FIRST` of them only their count."""
    for finding in findings[:FIRST]:
        say((finding.kind, COLOURS[finding.kind]), "  ", str(finding))
    counts = Counter(finding.kind for finding in findings[FIRST:])
    if counts:
        more = ", ".join(f"{count} {kind}" for kind, count in counts.items())
        say((f"and {len(findings) - FIRST} more ({more}): 'isthmus check --json -' shows them all", "dim"))
