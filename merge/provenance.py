"""Which optimizers trained the endpoints: what their files say, what their weights show, or what the user says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from ..align.families import family
from ..checkpoint.optimizer_evidence import Evidence, conclude
from ..checkpoint.optimizer_names import canonical_name
from ..eval.fingerprint import Fingerprint, fingerprint, judge
from ..eval.spectrum import Spectrum, singular_values

if TYPE_CHECKING:
    from transformers import PretrainedConfig


def fingerprint_of(state: Mapping[str, Tensor], config: PretrainedConfig, spectrum: Spectrum) -> Fingerprint:
    """The fingerprint of a state as it is stored, of which `spectrum` is measured in canonical form.

    Raises UnsupportedFamily.
    """
    table = family(config)
    hidden = (table.piece(state, name) for name in table.matrices)
    return fingerprint(spectrum, hidden, singular_values(table.piece(state, table.embedding)))


def optimizer_of(said: Sequence[Evidence], found: Fingerprint | None, asked: str | None = None) -> Evidence:
    """The optimizer of a model: as the user `asked` to have it, else what its files and its weights agree on.

    The weights of a model that is itself a merge tell of none.
    """
    if asked is not None:
        return Evidence(canonical_name(asked) or asked.lower(), "stated", "the user says so")
    merged = any(evidence.confidence == "unknown" for evidence in said)
    return conclude(said, judge(found) if found is not None and not merged else None)
