"""The tensors of a model against its configuration, and of two models against each other, by headers alone.

If two models are both on this disk, the distance between them is measured on a sample of their weights.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from ..adapters.adapted_source import AdaptedSource
from ..adapters.adapted_weights import AdaptedWeights, adapter_layers, beside, require_rows
from ..config import read_facts, schema_of, without_table
from ..config_limits import require_tensors
from ..errors import BadInput
from ..gguf_source import GgufSource
from ..lazy_state import LazyState
from ..model import Families, Schema
from ..one_vocabulary import UnifiedSource, facts_of
from ..reference import GGUF
from ..rows import in_blocks
from ..small_files import ADAPTER
from ..source import WEIGHT_FILES, Source
from ..task import MASKED
from ..tensor_inventory import TensorInventory, inventory_of, stored_tensors
from ..untrusted_text import plain
from .finding import Cause, Finding
from .kind import headless_findings, kind_findings, masked_finding, tensor_findings
from .labels import classifier_finding
from .rounding import rounding_findings

SAMPLED_MATRICES = 8
SAMPLED_ROWS = 256
RELATED, GAP = 0.5, 0.3  # of the distance between independent models
IN_LAYER = 4  # matrices of a layer that are looked at
_LAYER = re.compile(r"\.(\d+)\.")


@dataclass(frozen=True)
class Weights:
    """The tensors of a model by its headers (`contents`); None if it is pickled on the Hub, or cannot be merged.

    `aligns` says whether models of its type can be aligned. Of an adapted model the tensors are those of its base, and
    `adapted` makes its own of them.
    """

    contents: TensorInventory | None
    aligns: bool = True
    adapted: Callable[[Schema, Mapping[str, Tensor]], AdaptedWeights] | None = field(default=None, repr=False)

    @property
    def dtypes(self) -> tuple[str, ...]:
        """The dtypes of its tensors, by their names in safetensors."""
        return self.contents.dtypes if self.contents is not None else ()


def own_findings(source: Source, facts: Mapping[str, Any], families: Families | None) -> tuple[list[Finding], Weights]:
    """Findings about one model alone, and its tensors; `facts` are those of its config.json, adapted if it is."""
    if isinstance(source, UnifiedSource):
        return own_findings(source.inner, facts_of(source.inner, families), families)
    if isinstance(source, AdaptedSource):
        return _adapted_findings(source, facts, families)
    findings = kind_findings(source, facts, families)
    if any(finding.kind == "blocks" for finding in findings):
        return findings, Weights(None)
    if isinstance(source, GgufSource):
        findings.append(_gguf_finding(source))
    what = without_table(facts, source.name, families)
    aligns = what is None
    if what is not None:
        advice = f"only --align none is possible; alignment is supported for: {', '.join(sorted(families or ()))}"
        findings.append(Finding("degrades", what, advice, "config.json"))
    stored = stored_tensors(source)
    names = source.weights.files
    if source.weights.ignored:
        others = ", ".join(f"'{name}'" for name in source.weights.ignored)
        what = f"'{source.name}' is read from '{source.weights.index or names[0]}', and {others} beside it is not read"
        advice = "transformers reads the same file; remove the files of an earlier save"
        findings.append(Finding("notes", what, advice, names[0]))
    if any(not name.endswith(".safetensors") for name in names):
        advice = "they are read without executing them; safetensors would be safer and faster"
        if stored is None:
            advice = "its tensors can only be checked after the download; safetensors could be checked before"
        findings.append(Finding("notes", f"'{source.name}' has only pickled weights", advice, names[0]))
    if stored is None:
        return findings, Weights(None, aligns)
    require_tensors(facts, len(stored), source.name)
    contents = inventory_of(source, stored, facts, families)
    where = source.weights.where
    if contents.wrappers:
        words = " and ".join(f"'{plain(word, 40)}'" for word in contents.wrappers)
        what = f"the tensors of '{source.name}' have {words} in their names, as left by a wrapper around the model"
        advice = "they are read without it, and the merge has the usual names"
        findings.append(Finding("notes", what, advice, where))
    obstacles = tensor_findings(source.name, contents.naming.foreign, where)
    if obstacles:
        return findings + obstacles, Weights(None, aligns)
    missing = [name for name in contents.schema.shapes if name not in contents.naming.by_name()]
    problems = contents.problems
    if len(problems) == bool(missing):
        obstacles = headless_findings(source.name, facts, missing, contents.schema)
        findings, problems = findings + obstacles, () if missing and obstacles else problems
    findings += problems
    if contents.schema.task == MASKED:
        findings.append(masked_finding(source.name))
    findings += filter(None, [classifier_finding(source.name, facts)])
    if not contents.problems:
        findings += _tied_findings(source, contents, where)
    source.require_unchanged(names)
    return findings, Weights(contents, aligns)


def _gguf_finding(source: GgufSource) -> Finding:
    count, total = sum(source.quantized.values()), sum(source.types.values())
    if not count:
        return Finding("notes", f"'{source.name}' is GGUF", "transformers reads it; none of it is quantized", GGUF)
    kinds = ", ".join(sorted(source.quantized))
    what = f"'{source.name}' is GGUF, and {count} of its {total} tensors are quantized ({kinds})"
    return Finding("degrades", what, "they are dequantized to float32: what rounding took from them stays lost", GGUF)


def _adapted_findings(
    source: AdaptedSource, facts: Mapping[str, Any], families: Families | None
) -> tuple[list[Finding], Weights]:
    """Findings about the base, and about an adapter that does not fit it."""
    base, adapter = read_facts(source.base), source.adapter
    findings, weights = own_findings(source.base, base, families)
    if any(finding.kind == "blocks" for finding in findings):
        return findings, weights
    if weights.contents is not None and not weights.contents.schema.classifies:
        findings += filter(None, [classifier_finding(source.name, facts)])
    file = adapter.weights.files[0]
    advice = "peft merges it into the base, module by module, and every module is verified"
    findings.append(Finding("notes", f"'{adapter.name}' is an adapter ({adapter.settings.kind})", advice, ADAPTER))
    named = adapter.settings.base
    revision = adapter.settings.revision
    if named is not None and revision and source.base.revision and not _is_revision(source.base, revision):
        what = f"'{adapter.name}' was trained on revision {plain(revision, 40)} of '{adapter.settings.base_name}'"
        advice = f"it is applied to {source.base.revision[:12]}: name that revision of the base, BASE@REVISION+ADAPTER"
        findings.append(Finding("degrades", what, advice, ADAPTER))
    if named is not None and not _is_named(source.base, named):
        what = f"'{adapter.name}' was trained on '{adapter.settings.base_name}', and is applied to '{source.base.name}'"
        advice = "an adapter changes the weights that it was trained beside: take its own base, or one that equals it"
        findings.append(Finding("degrades", what, advice, ADAPTER))
    if adapter.tensor_infos() is None:
        advice = "whether it fits its base can only be checked after the download; safetensors could be checked before"
        findings.append(Finding("notes", f"'{adapter.name}' has only pickled weights", advice, file))
        return findings, weights
    try:
        layers = adapter_layers(facts, source)
        if weights.contents is not None:
            before, after = weights.contents.schema, schema_of(facts, source.name, families)
            require_rows(layers, before, after, source, beside(source, facts, before, after))
    except BadInput as error:
        what, _, advice = str(error).partition(": ")
        blocked = replace(weights, contents=None)  # what it would make of the base is not known
        return [*findings, Finding("blocks", what, advice or "update peft, or make the adapter again", file)], blocked

    def adapted(schema: Schema, state: Mapping[str, Tensor]) -> AdaptedWeights:
        return AdaptedWeights.of(base, schema, state, source, families)

    return findings, replace(weights, adapted=adapted)


def _is_revision(base: Source, revision: str) -> bool:
    return revision in (base.reference.revision, base.revision)


def _is_named(base: Source, named: str) -> bool:
    """Whether the settings of an adapter name a base: by its id, or as a directory of its name."""
    named, repository = named.rstrip("/"), base.reference.repo_id
    if repository is not None and named.count("/") == 1 and not named.startswith((".", "~")):
        return named == repository
    return named.rpartition("/")[2] == (repository or base.reference.name).rpartition("/")[2]


def _tied_findings(source: Source, contents: TensorInventory, where: str) -> list[Finding]:
    """Tied tensors that are stored separately: transformers unties them if they differ."""
    stored = contents.naming.by_name()
    twice = [target for target, first in contents.schema.tied.items() if target in stored and first in stored]
    if not twice:
        return []
    what = f"'{source.name}' stores '{twice[0]}' beside the tensor that its config.json ties it to"
    if not all(source.is_local(name) for name in source.weights.files):
        advice = "if they differ, which shows after the download, the merge will be untied"
        return [Finding("notes", what, advice, where)]
    if contents.with_ties_resolved(source).schema.tied:
        return []
    advice = "they differ, so transformers loads both, and the merge will be untied"
    return [Finding("notes", what, advice, where)]


def pair_findings(a: Source, weights_a: Weights, b: Source, weights_b: Weights) -> list[Finding]:
    """Findings about different dtypes, and about the distance between the weights if both are on this disk."""
    findings = []
    if weights_a.dtypes and weights_b.dtypes and weights_a.dtypes != weights_b.dtypes:
        dtypes_a, dtypes_b = ("/".join(weights.dtypes) for weights in (weights_a, weights_b))
        what = f"'{a.name}' is stored in {dtypes_a}, '{b.name}' in {dtypes_b}"
        findings.append(
            Finding("notes", what, "the merge is saved in float32, or in the dtype of --dtype", WEIGHT_FILES[0])
        )
    apart = distance(a, weights_a, b, weights_b)
    if apart is None:
        return findings
    share = f"{apart:.2f} of the distance between independent models"
    if apart == 0 and _same_vectors(a, weights_a, b, weights_b):
        what, advice = f"'{a.name}' and '{b.name}' hold the same weights", "there is nothing to merge"
    elif (mixed := _by_layer(a, weights_a, b, weights_b)) is not None:
        return [*findings, mixed]
    elif apart < RELATED:
        what = f"'{a.name}' and '{b.name}' are relatives: {share}"
        advice = "they usually need no alignment" + "; --align auto tries with and without" * weights_a.aligns
    else:
        what = f"'{a.name}' and '{b.name}' were trained independently: {share}"
        advice = "without alignment their average would be destroyed"
        advice += (
            "; --align auto aligns them" if weights_a.aligns else ", and isthmus cannot align models of this type yet"
        )
        if weights_a.contents is not None:
            advice += weights_a.contents.schema.limits
    strangers = apart >= RELATED
    cause: Cause | None = None
    if strangers:
        cause = "adapters" if _adapt_one_base(a, b) else "base"
    if cause == "adapters":
        what = f"'{a.name}' and '{b.name}' have one base, and what was added to it is as large as itself: {share}"
        advice = "an adapter this large has diverged, or is scaled wrongly: look at its lora_alpha and its losses alone"
    if strangers and len(layers := distances_by_layer(a, weights_a, b, weights_b)) > 1:
        what += f", and at least {min(layers.values()):.2f} in every layer"
    findings.append(Finding("notes", what, advice, WEIGHT_FILES[0], cause))
    return findings if strangers or apart == 0 else findings + _rounding(a, weights_a, b, weights_b)


def _adapt_one_base(a: Source, b: Source) -> bool:
    """Whether one of two models is an adapter of the other, or both are adapters of one base."""
    return len(a.parts) + len(b.parts) > 2 and a.parts[0].identity == b.parts[0].identity


def _rounding(a: Source, weights_a: Weights, b: Source, weights_b: Weights) -> list[Finding]:
    pair = _pair(a, weights_a, b, weights_b)
    if pair is None:
        return []
    states, names = pair
    sampled = names[:: max(1, len(names) // SAMPLED_MATRICES)]
    rows = [(_first_rows(states[0], name), _first_rows(states[1], name)) for name in sampled]
    return rounding_findings((a.name, b.name), (weights_a.dtypes, weights_b.dtypes), rows, WEIGHT_FILES[0])


def distance(a: Source, weights_a: Weights, b: Source, weights_b: Weights) -> float | None:
    """‖A − B‖ / √(‖A‖² + ‖B‖²) on a sample: 0 for equal weights, 1 for orthogonal ones, such as independent models.

    The sample is the first `SAMPLED_ROWS` rows of about `SAMPLED_MATRICES` matrices, evenly spread among those with the
    same shape in both, in float64. None if a model is not on this disk, is pickled, or is all zero or not finite.
    """
    pair = _pair(a, weights_a, b, weights_b)
    if pair is None:
        return None
    states, names = pair
    return _share(states, names[:: max(1, len(names) // SAMPLED_MATRICES)])


def distances_by_layer(a: Source, weights_a: Weights, b: Source, weights_b: Weights) -> dict[int, float]:
    """The distance of every layer, by its number, on the first rows of some matrices of each; as for `distance`.

    Empty where there is none, or where names have no numbers.
    """
    pair = _pair(a, weights_a, b, weights_b)
    if pair is None:
        return {}
    states, names = pair
    layers: dict[int, list[str]] = {}
    for name in names:
        number = _LAYER.search(name)
        if number is not None:
            layers.setdefault(int(number[1]), []).append(name)
    shares = {
        layer: _share(states, within[:: max(1, len(within) // IN_LAYER)]) for layer, within in sorted(layers.items())
    }
    return {layer: share for layer, share in shares.items() if share is not None}


def _same_vectors(a: Source, weights_a: Weights, b: Source, weights_b: Weights) -> bool:
    """Whether two models agree in the first rows of all their tensors: a sample may miss what differs."""
    pair = _pair(a, weights_a, b, weights_b)
    assert pair is not None, "they have a distance"
    states = pair[0]
    if isinstance(a, UnifiedSource) and isinstance(b, UnifiedSource) and a.own_rows != b.own_rows:
        return False
    return states[0].keys() == states[1].keys() and all(
        torch.equal(*(_first_rows(state, name) for state in states)) for name in states[0]
    )


def _by_layer(a: Source, weights_a: Weights, b: Source, weights_b: Weights) -> Finding | None:
    """A finding if two models are relatives in some layers, and strangers in others."""
    layers = distances_by_layer(a, weights_a, b, weights_b)
    near = [layer for layer, share in layers.items() if share < RELATED]
    far = [layer for layer in layers if layer not in near]
    if not near or not far or min(layers[one] for one in far) - max(layers[one] for one in near) < GAP:
        return None
    what = (
        f"'{a.name}' and '{b.name}' are relatives in {_ranges(near)} (at most "
        f"{max(layers[layer] for layer in near):.2f} of the distance between independent models), and strangers in "
        f"{_ranges(far)} (at least {min(layers[layer] for layer in far):.2f})"
    )
    advice = "layers of one were replaced or moved, and averaging those destroys the merge: look at how both were made"
    return Finding("degrades", what, advice, WEIGHT_FILES[0], "layers")


def _ranges(layers: Sequence[int]) -> str:
    """Numbers of layers in words: layers 0 to 3, 7."""
    runs: list[list[int]] = []
    for layer in layers:
        if runs and layer == runs[-1][-1] + 1:
            runs[-1].append(layer)
        else:
            runs.append([layer])
    shown = [str(run[0]) if len(run) == 1 else f"{run[0]} to {run[-1]}" for run in runs]
    return f"layer{'s' * (len(layers) > 1)} {', '.join(shown)}"


def _pair(
    a: Source, weights_a: Weights, b: Source, weights_b: Weights
) -> tuple[list[Mapping[str, Tensor]], list[str]] | None:
    """Two states and the matrices that have the same shape in both; None if one is not on this disk, or pickled."""
    states, shapes = [], []
    for source, weights in ((a, weights_a), (b, weights_b)):
        contents = weights.contents
        if contents is None or contents.problems:
            return None
        for part in source.parts:
            if not all(part.is_local(file) and file.endswith(".safetensors") for file in part.weights.files):
                return None
        state: Mapping[str, Tensor] = contents.state(source.parts[0])
        if weights.adapted is not None:
            state = weights.adapted(contents.with_ties_resolved(source.parts[0]).schema, state).state
        states.append(state)
        shapes.append(contents.schema.shapes)
    both = set.intersection(*map(set, states))  # a state would read a tensor to say that it has it
    same = (name for name, shape in shapes[0].items() if len(shape) == 2 and shapes[1].get(name) == shape)
    return states, [name for name in same if name in both]


def _share(states: Sequence[Mapping[str, Tensor]], names: Iterable[str]) -> float | None:
    difference = total = 0.0
    for name in names:
        rows_a, rows_b = (_first_rows(state, name).double() for state in states)
        difference += (rows_a - rows_b).square().sum().item()
        total += (rows_a.square().sum() + rows_b.square().sum()).item()
    share = math.sqrt(difference / total) if total > 0 else math.nan
    return share if math.isfinite(share) else None


def _first_rows(state: Mapping[str, Tensor], name: str) -> Tensor:
    if isinstance(state, LazyState):
        return state.first_rows(name, SAMPLED_ROWS)
    rows: list[Tensor] = []
    for block in in_blocks(state, name):
        rows.append(block)
        if block.ndim == 0 or sum(map(len, rows)) >= SAMPLED_ROWS:
            break
    return rows[0] if rows[0].ndim == 0 else torch.cat(rows)[:SAMPLED_ROWS]
