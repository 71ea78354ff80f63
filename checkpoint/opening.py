"""The files of any model: in a directory or on the Hub, a base with an adapter, or a GGUF file."""

from __future__ import annotations

from pathlib import Path

from .adapters.adapted_source import AdaptedSource, AdapterFiles
from .errors import BadInput, IsthmusError, ModelNotFound
from .gguf_source import GgufSource, gguf_name
from .hub import fetch_file
from .listing import Listing, list_files
from .reference import Reference, parse_reference
from .small_files import ADAPTER
from .source import Source
from .weight_files import IN_ORDER


def open_source(reference: Reference) -> Source:
    """The files of a model. An adapter alone stands for its base, which its settings name, with the adapter.

    Raises what `Source` raises, for either of the two.
    """
    if reference.adapter is not None:
        return AdaptedSource(open_source(reference.base), AdapterFiles(reference.adapter))
    listing = list_files(reference)
    file = reference.file or gguf_name(listing, reference.name)
    if file is not None:
        return GgufSource(_local(reference, file, listing), reference, listing)
    if ADAPTER not in listing.files or not set(IN_ORDER).isdisjoint(listing.files):
        return Source(reference, listing)
    adapter = AdapterFiles(reference, listing)
    return AdaptedSource(_named_base(adapter), adapter)


def _local(reference: Reference, file: str, listing: Listing) -> Path:
    """The path of a GGUF file, downloaded if it is on the Hub."""
    if file not in listing.files:
        raise ModelNotFound(f"'{reference.name}' is not there: check the name of the file")
    if reference.directory is not None:
        return reference.directory / file
    return fetch_file(reference, file, listing.revision, listing.files[file].size)


def _named_base(adapter: AdapterFiles) -> Source:
    settings, how = adapter.settings, "name its base, BASE+ADAPTER"
    if settings.base is None:
        raise BadInput(f"'{ADAPTER}' of '{adapter.name}' names no base: {how}")
    revision = f"@{settings.revision}" if settings.revision else ""
    try:
        place = parse_reference(settings.base)
        if place.directory is None and revision:
            place = parse_reference(settings.base + revision)
        if place.directory is not None and not place.directory.is_dir():
            raise ModelNotFound("it is not on this disk")
        return Source(place)
    except IsthmusError as error:
        what = str(error).replace(settings.base, settings.base_name)
        raise ModelNotFound(f"the base of '{adapter.name}' is '{settings.base_name}': {what}; or {how}") from None
