"""What repositories and cards say: licences, who may read the models, and whether they share an ancestor."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from ..source import CARD, Source
from ..untrusted_text import plain
from .finding import Finding

# The licence identifiers of the Hub, by https://huggingface.co/docs/hub/repositories-licenses (2026).
_LISTED = """
    afl-3.0 agpl-3.0 apache-2.0 apple-amlr apple-ascl artistic-2.0 bigcode-openrail-m bigscience-bloom-rail-1.0
    bigscience-openrail-m bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear bsl-1.0 c-uda cc cc-by-2.0 cc-by-2.5
    cc-by-3.0 cc-by-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nc-nd-3.0 cc-by-nc-nd-4.0 cc-by-nc-sa-2.0
    cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cc-by-nd-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc0-1.0 cdla-permissive-1.0
    cdla-permissive-2.0 cdla-sharing-1.0 creativeml-openrail-m deepfloyd-if-license ecl-2.0 epl-1.0 epl-2.0
    etalab-2.0 eupl-1.1 eupl-1.2 fair-noncommercial-research-license gemma gfdl gpl gpl-2.0 gpl-3.0
    grok2-community h-research intel-research isc lgpl lgpl-2.1 lgpl-3.0 lgpl-lr llama2 llama3 llama3.1 llama3.2
    llama3.3 llama4 lppl-1.3c mit mpl-2.0 ms-pl ncsa odbl odc-by ofl-1.1 openmdw-1.0 openmdw-1.1 openrail
    openrail++ osl-3.0 pddl postgresql unknown unlicense wtfpl zlib
"""
HUB_LICENCES = frozenset(_LISTED.split())
OTHER = "other"
NAME = 60  # characters of the name of an unlisted licence
_NO_DERIVATIVES, _SHARE_ALIKE, _NON_COMMERCIAL = "no derivatives", "share alike", "non-commercial"


def licence_of(metadata: Mapping[str, Any]) -> str | None:
    """The licence in a card's metadata: its identifier on the Hub, ``other (NAME)``, or None if there is none."""
    licence = metadata.get("license")
    if isinstance(licence, list):
        licence = licence[0] if len(licence) == 1 else None
    if not isinstance(licence, str) or not licence.strip():
        return None
    name = licence.strip().lower()
    if name == OTHER:
        custom = metadata.get("license_name")
        name = custom.strip().lower() if isinstance(custom, str) else ""
        return f"{OTHER} ({plain(name, NAME) or 'unnamed'})"
    return name if name in HUB_LICENCES else f"{OTHER} ({plain(name, NAME)})"


def base_models(metadata: Mapping[str, Any]) -> tuple[str, ...]:
    """The models from which a model was made, according to its card: their ids, not the paths that peft writes."""
    bases = metadata.get("base_model")
    names = (name for name in (bases if isinstance(bases, list) else [bases]) if isinstance(name, str) and name)
    return tuple(name for name in names if name.count("/") < 2 and not name.startswith((".", "~", "/")))


def conditions(licence: str) -> frozenset[str]:
    """The conditions of a licence for sharing a merge, as far as its identifier shows them."""
    words = re.findall(r"[a-z0-9.]+", licence)
    words = words[1:] if words[:1] == [OTHER] else words
    terms = {
        _NO_DERIVATIVES: "nd" in words,
        _NON_COMMERCIAL: "nc" in words or "noncommercial" in licence,
        _SHARE_ALIKE: "sa" in words or (words[:1] and words[0] in ("gpl", "agpl", "lgpl", "osl", "eupl")),
    }
    return frozenset(term for term, holds in terms.items() if holds)


def derived_licence(licences: Sequence[str | None]) -> tuple[str | None, str]:
    """The licence of a merge, or None, and the reason as a sentence. It is set only if all parents have the same."""
    named = sorted({licence for licence in licences if licence})
    if not named:
        return None, "The licence is left open: the parents name none."
    if None in licences:
        return None, f"The licence is left open: one parent is under {named[0]}, the other names none."
    if len(named) > 1:
        return None, f"The licence is left open: the parents are under {' and '.join(named)}."
    if named[0].startswith(OTHER):
        return None, f"The licence is left open: the parents have terms of their own, {named[0]}."
    return named[0], f"All parents are under {named[0]}."


def repository_findings(sources: Sequence[Source], *, alignable: bool = True) -> list[Finding]:
    """Findings about each model, then about all licences, then about the common ancestry of each with the first.

    `alignable` says whether models of this type can be aligned.
    """
    findings = []
    for source in sources:
        if source.repository.gated:
            advice = "users of the merge have to accept its terms, too; say so in the card"
            findings.append(Finding("notes", f"'{source.name}' is gated", advice, "the Hub"))
        if source.repository.private:
            advice = "the card of the merge will name it; push with --private to keep it private"
            findings.append(Finding("notes", f"'{source.name}' is private", advice, "the Hub"))
        if source.card_problem:
            what = f"the card of '{source.name}' {source.card_problem}"
            advice = "its licence and its parents are unknown; read it before you share the merge"
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
            advice = "it allows no derivatives to be shared: do not publish the merge"
            findings.append(Finding("degrades", f"'{name}' is under {licence}", advice, CARD))
    named = [(name, licence) for name, licence in licences if licence]
    if len({licence for _, licence in named}) > 1:
        listed = ", ".join(f"'{name}' under {licence}" for name, licence in named)
        strict = [licence for _, licence in named if _SHARE_ALIKE in conditions(licence)]
        others = {licence for _, licence in named if conditions(licence) - {_SHARE_ALIKE}}
        conflict = len(set(strict)) > 1 or (strict and others)
        advice = (
            "one requires its own terms, which the other does not allow: do not publish the merge without permission"
            if conflict
            else "the card leaves the licence open; choose one that all parents allow"
        )
        findings.append(Finding("degrades" if conflict else "notes", f"the licences differ: {listed}", advice, CARD))
    return findings


def _ancestry_findings(a: Source, b: Source, alignable: bool) -> list[Finding]:
    ids = {side: side.reference.repo_id for side in (a, b)}
    bases = {side: base_models(side.metadata) for side in (a, b)}
    advice = "relatives usually need no alignment" + "; --align auto tries with and without" * alignable
    for child, parent in ((a, b), (b, a)):
        if ids[parent] and ids[parent] in bases[child]:
            what = f"'{child.name}' was made from '{parent.name}', according to its card"
            return [Finding("notes", what, "a merge of the two undoes a part of what it learned", CARD)]
    shared = [name for name in bases[a] if name in bases[b]]
    if shared:
        what = f"'{a.name}' and '{b.name}' were both made from '{shared[0]}', according to their cards"
        return [Finding("notes", what, advice, CARD)]
    return []
