"""The optimizer that trained a model: from its files, from its weights, or as the user says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from ..align.families import family
from ..checkpoint.optimizer_evidence import Evidence, canonical_name, conclude
from ..eval.fingerprint import Fingerprint, fingerprint, judge
from ..eval.spectrum import Spectrum, singular_values

if TYPE_CHECKING:
    from transformers import PretrainedConfig

    from ..align.symmetry import Family


def fingerprint_of(state: Mapping[str, Tensor], config: PretrainedConfig, spectrum: Spectrum) -> Fingerprint:
    """The fingerprint of a state as it is stored; `spectrum` is its spectrum in canonical form.

    Raises UnsupportedFamily.
    """
    table = family(config)
    hidden = (table.piece(state, name) for name in table.matrices)
    queries, outputs = _attention_maps(table)
    embedding = singular_values(table.piece(state, table.embedding))
    return fingerprint(spectrum, hidden, embedding, queries=queries, outputs=outputs)


def _attention_maps(table: Family) -> tuple[set[str], set[str]]:
    """The matrices that make queries and keys, and those that take the attention's outputs to the residual stream.

    All have an axis of heads with a space inside them. Outputs are writers, and values share their space.
    """
    inside = {
        name: {axis.spaces[-1] for axis in table.pieces[name].axes if len(axis.spaces) > 1} for name in table.matrices
    }
    outputs = {name for name, _ in table.writers if inside.get(name)}
    values = set().union(*(inside[name] for name in outputs))
    return {name for name, spaces in inside.items() if spaces - values}, outputs


def optimizer_of(documented: Sequence[Evidence], measured: Fingerprint | None, stated: str | None = None) -> Evidence:
    """The optimizer of a model: the one that the user `stated`, else the one that its files and its weights agree on.

    Weights count only where the files do not say that the model is a merge.
    """
    if stated is not None:
        return Evidence(canonical_name(stated) or stated.lower(), "stated", "the user says so")
    merged = any(evidence.confidence == "unknown" for evidence in documented)
    return conclude(documented, judge(measured) if measured is not None and not merged else None)
