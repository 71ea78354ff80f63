"""The metadata at the head of an untrusted model card: its flat entries, read event by event.

Nothing is built that the text does not spell out: aliases are refused (a few lines of them can stand for gigabytes),
nested entries are skipped, every value stays text.
"""

from __future__ import annotations

import yaml

from .size_limits import FRONT_MATTER

NESTING, EVENTS = 32, 200_000
NULLS = frozenset({"", "~", "null", "Null", "NULL"})
_MARK = "---"


def front_matter(card: str) -> dict[str, str | list[str]] | None:
    """The entries of a card's metadata whose values are text or lists of text, by key; empty if there is no metadata.

    None for metadata that is not YAML, longer than `FRONT_MATTER`, nested deeper than `NESTING`, or with aliases.
    """
    lines = card.removeprefix("\ufeff")[: FRONT_MATTER + 1].split("\n")
    if lines[0].rstrip() != _MARK:
        return {}
    end = next((number for number, line in enumerate(lines[1:], 1) if line.rstrip() == _MARK), None)
    if end is None:
        return None
    try:
        return _entries("\n".join(lines[1:end]))
    except (yaml.YAMLError, RecursionError, ValueError):
        return None


def _entries(text: str) -> dict[str, str | list[str]] | None:
    """The keys of the top level with the texts directly below them; None for what `front_matter` refuses."""
    entries: dict[str, str | list[str]] = {}
    loader = getattr(yaml, "CBaseLoader", yaml.BaseLoader)
    depth, key, nested, items = 0, None, False, list[str]()
    for count, event in enumerate(yaml.parse(text, Loader=loader)):
        if count > EVENTS or depth > NESTING:
            return None
        if isinstance(event, yaml.AliasEvent):
            return None
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth == 1 and not isinstance(event, yaml.MappingStartEvent):
                return None
            if depth == 2 and key is None:
                return None
            items = [] if depth == 2 else items
            nested = depth > 2 or isinstance(event, yaml.MappingStartEvent)
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
            if depth == 1 and key is not None:
                if not nested:
                    entries[key] = items
                key = None
        elif isinstance(event, yaml.ScalarEvent):
            unquoted = event.plain_implicit if hasattr(event, "plain_implicit") else event.implicit[0]
            value = "" if unquoted and event.value in NULLS else event.value
            if depth == 1 and key is None:
                key = event.value
            elif depth == 1 and key is not None:
                entries[key], key = value, None
            elif depth == 2:
                items.append(value)
    return entries
