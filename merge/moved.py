"""`isthmus align`: B, moved next to A, as a model on disk."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..align.alignment import LOOKING, Method
from ..align.families import FAMILIES, family
from ..checkpoint.config import schema_of
from ..checkpoint.errors import BadInput
from ..checkpoint.manifest import REPORT, sealed
from ..checkpoint.pair import open_pair
from ..checkpoint.path_conflicts import Place, model_places, require_apart
from ..checkpoint.saving import (
    atomic_directory,
    require_free,
    save_small_files,
    write_json,
)
from ..checkpoint.shards import save_weights
from ..checkpoint.trial_loading import preloaded_transformers, require_opens
from ..eval.text import Blocks, labelled_blocks, text_places
from .candidate import ACTIVATION_TOKENS, Chooser
from .climb import climb
from .learn import LearnPlan
from .pipeline import pick_device
from .progress import Progress

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from ..align.alignment import Alignment
    from ..checkpoint.loading import Checkpoint

SELECT_TOKENS = 8192


def align_and_save(
    a: str | Path,
    b: str | Path,
    output: Path,
    *,
    method: Method = "orthogonal",
    data: Sequence[str] = (),
    learn: LearnPlan = LearnPlan(),  # noqa: B008
    reference: Path | None = None,
    dtype: torch.dtype | None = None,
    device: str = "auto",
    stream: bool = False,
    seed: int = 0,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Align B to A and write the moved B, with alignment.safetensors and isthmus.json, to `output`; returns the report.

    ``activations``, ``combined`` and ``learned`` look at text, `data` as `--data` takes it; ``learned`` follows
    `learn`, and is kept beside `output` while it goes on, and resumed. With `stream`, for models larger than memory,
    layers are read when it is their turn (``permutation`` and ``orthogonal``). `reference` also gets A, in the form
    that B was moved next to (where B was rotated, the canonical form).

    Raises what `isthmus.align.pipeline.align_states` and `isthmus.checkpoint.saving.atomic_directory` raise.
    """
    progress = progress or Progress()
    began = time.monotonic()
    inputs = model_places((a, b)) + text_places(data)
    targets = [Place.of(what, path) for what, path in (("the output", output), ("--reference", reference)) if path]
    for target in targets:
        require_free(target.path, overwrite=overwrite, inputs=inputs)
    require_apart(targets, inputs)
    needs_text = method == "learned" or method in LOOKING
    if needs_text and not data:
        raise BadInput(f"--method {method} looks at what the models do with text: add --data")
    progress.stage("checking")
    pair = open_pair(a, b, families=FAMILIES)
    progress.findings(pair.findings)
    text: tuple[Blocks, ...] = ()
    if needs_text:
        progress.stage("reading text")
        context = int(pair.first.config.max_position_embeddings)
        text = labelled_blocks(
            data,
            pair.tokenizer(),
            context=context,
            vocabulary=int(pair.first.config.vocab_size),
            fit_tokens=max(ACTIVATION_TOKENS, learn.training.tokens(len(data), context) if method == "learned" else 0),
            select_tokens=SELECT_TOKENS if method == "learned" else 0,
            report_tokens=0,
            seed=seed,
        )
    chooser = Chooser(pair.first, pair.second, text, device=pick_device(device), seed=seed, progress=progress)
    kept, learning = None, None
    if stream:
        if pair.growth is not None:
            raise BadInput("--stream is for models of one vocabulary: here, one of them has more")
        aligned = chooser.align(method, stream=True)
    elif method == "learned":
        found, kept = climb(chooser, method, learn, [part.label for part in text], output, known=True)
        aligned, learning = found.aligned, found.learning
    else:
        aligned = chooser.align(method)
    first, second = pair.whole
    moved, base, error = aligned.b, aligned.a, aligned.max_log_prob_error
    if pair.growth is not None:
        moved, base = aligned.alignment.apply(second.state, family(second.config)), first.state
        error = aligned.alignment.verify(second.state, moved, second.config, seed=seed)
        if reference is not None:
            base = aligned.alignment.reference(first.state, family(first.config))
    report = {
        "schema": 1,
        "command": "align",
        "endpoints": [{"ref": x.name, "revision": x.revision} for x in (first, second)],
        "method": aligned.alignment.method,
        "asked": method,
        "learning": learning,
        "score": aligned.alignment.score,
        "max_log_prob_error": error,
        "findings": [asdict(finding) for finding in pair.findings],
        "seconds": round(time.monotonic() - began, 3),
    }
    progress.stage("saving")
    with ExitStack() as outputs:  # neither is published where one of them cannot be written
        directory = outputs.enter_context(atomic_directory(output, overwrite=overwrite, inputs=inputs))
        digests = _save_model(directory, moved, aligned.alignment, second, dtype, output.name)
        aligned.alignment.save(directory / "alignment.safetensors")
        report = sealed(report, directory, digests)
        write_json(directory / REPORT, report)
        if reference is not None:
            directory = outputs.enter_context(atomic_directory(reference, overwrite=overwrite, inputs=inputs))
            digests = _save_model(directory, base, aligned.alignment, first, dtype, reference.name)
            ends = [{"ref": first.name, "revision": first.revision}]
            origin = {"schema": 1, "command": "align", "endpoints": ends, "method": aligned.alignment.method}
            write_json(directory / REPORT, sealed(origin, directory, digests))
    if kept is not None:
        kept.remove()
    return report


def _save_model(
    directory: Path,
    state: Mapping[str, Tensor],
    alignment: Alignment,
    source: Checkpoint,
    dtype: torch.dtype | None,
    name: str,
) -> dict[str, str]:
    kept = dtype or source.dtype
    facts = alignment.facts(source.facts)
    maker = f"'{source.name}' after {alignment.method} alignment"
    shapes, stored = source.as_stored(schema_of(facts, source.name, FAMILIES).shapes, state)
    with preloaded_transformers(facts):
        digests = save_weights(directory, shapes, stored, kept, maker=maker)
        save_small_files(directory, facts, source.files, kept)
    require_opens(directory, name)
    return digests
