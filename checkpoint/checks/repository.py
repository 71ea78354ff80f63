"""What the repositories say of each other: licences, who may read them, and whether the models share an ancestor."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from ..licences import HUB_LICENCES, OTHER
from ..source import CARD, Source
from ..untrusted_text import plain
from .finding import Finding

NAME = 60  # characters of a licence's own name
_NO_DERIVATIVES, _SHARE_ALIKE, _NON_COMMERCIAL = "no derivatives", "share alike", "non-commercial"


def licence_of(metadata: Mapping[str, Any]) -> str | None:
    """The licence that a card's metadata names, by its identifier on the Hub; ``other (NAME)`` for any other."""
    found = metadata.get("license")
    if isinstance(found, list):
        found = found[0] if len(found) == 1 else None
    if not isinstance(found, str) or not found.strip():
        return None
    name = found.strip().lower()
    if name == OTHER:
        own = metadata.get("license_name")
        name = own.strip().lower() if isinstance(own, str) else ""
        return f"{OTHER} ({plain(name, NAME) or 'unnamed'})"
    return name if name in HUB_LICENCES else f"{OTHER} ({plain(name, NAME)})"


def base_models(metadata: Mapping[str, Any]) -> tuple[str, ...]:
    """The models that a card says its model was made of."""
    found = metadata.get("base_model")
    return tuple(name for name in (found if isinstance(found, list) else [found]) if isinstance(name, str) and name)


def conditions(licence: str) -> frozenset[str]:
    """What a licence asks of those who share a merge, as far as its identifier tells."""
    words = re.findall(r"[a-z0-9.]+", licence)
    words = words[1:] if words[:1] == [OTHER] else words
    found = set()
    if "nd" in words:
        found.add(_NO_DERIVATIVES)
    if "nc" in words or "noncommercial" in licence:
        found.add(_NON_COMMERCIAL)
    if "sa" in words or (words[:1] and words[0] in ("gpl", "agpl", "lgpl", "osl", "eupl")):
        found.add(_SHARE_ALIKE)
    return frozenset(found)


def derived_licence(licences: Sequence[str | None]) -> tuple[str | None, str]:
    """The licence of a merge, or None, and the reason, as a sentence: only parents of one licence decide it."""
    known = sorted({licence for licence in licences if licence})
    if not known:
        return None, "The licence is left open: the parents name none."
    if None in licences:
        return None, f"The licence is left open: one parent is under {known[0]}, the other names none."
    if len(known) > 1:
        return None, f"The licence is left open: the parents are under {' and '.join(known)}."
    if known[0].startswith(OTHER):
        return None, f"The licence is left open: the parents have terms of their own, {known[0]}."
    return known[0], f"All parents are under {known[0]}."


def repository_findings(sources: Sequence[Source], *, alignable: bool = True) -> list[Finding]:
    """Findings on each model, then on the licences of all, then on the ancestry of each with the first.

    `alignable` is whether models of this type can be aligned.
    """
    findings = []
    for source in sources:
        if source.repository.gated:
            advice = "whoever uses the merge has to accept its terms, too; say so in the card"
            findings.append(Finding("notes", f"'{source.name}' is gated", advice, "the Hub"))
        if source.repository.private:
            advice = "its name will stand in the card of the merge; push with --private to keep it"
            findings.append(Finding("notes", f"'{source.name}' is private", advice, "the Hub"))
        if source.card_problem:
            what = f"the card of '{source.name}' {source.card_problem}"
            advice = "its licence and its parents are not known; look at it before you share the merge"
            findings.append(Finding("degrades", what, advice, CARD))
    findings += _licence_findings(sources)
    for source in sources[1:]:
        findings += _ancestry_findings(sources[0], source, alignable)
    return findings


def _licence_findings(sources: Sequence[Source]) -> list[Finding]:
    licences = [(source.name, licence_of(source.metadata)) for source in sources]
    findings = []
    for name, licence in licences:
        if licence and _NO_DERIVATIVES in conditions(licence):
            what, advice = (
                f"'{name}' is under {licence}",
                "it allows no derivatives to be shared: do not publish the merge",
            )
            findings.append(Finding("degrades", what, advice, CARD))
    known = [(name, licence) for name, licence in licences if licence]
    if len({licence for _, licence in known}) > 1:
        listed = ", ".join(f"'{name}' under {licence}" for name, licence in known)
        strict = [licence for _, licence in known if _SHARE_ALIKE in conditions(licence)]
        others = {licence for _, licence in known if conditions(licence) - {_SHARE_ALIKE}}
        conflict = len(set(strict)) > 1 or (strict and others)
        advice = (
            "one asks for its own terms, which the other does not allow: do not publish the merge without permission"
            if conflict
            else "the card leaves the licence open; choose one that all allow"
        )
        findings.append(Finding("degrades" if conflict else "notes", f"the licences differ: {listed}", advice, CARD))
    return findings


def _ancestry_findings(a: Source, b: Source, alignable: bool) -> list[Finding]:
    ids = {side: side.reference.repo_id for side in (a, b)}
    bases = {side: base_models(side.metadata) for side in (a, b)}
    advice = "relatives usually need no alignment" + "; --align auto tries both" * alignable
    for child, parent in ((a, b), (b, a)):
        if ids[parent] and ids[parent] in bases[child]:
            what = f"'{child.name}' was made from '{parent.name}', by its card"
            return [Finding("notes", what, "a merge of the two undoes a part of what it learned", CARD)]
    shared = [name for name in bases[a] if name in bases[b]]
    if shared:
        return [
            Finding(
                "notes", f"'{a.name}' and '{b.name}' were both made from '{shared[0]}', by their cards", advice, CARD
            )
        ]
    return []
