"""The main job: check → load → align → path → merge point → spectrum → gates → a result that can be saved."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from isthmus.align.families import FAMILIES, family
from isthmus.align.pipeline import Aligned, align_states
from isthmus.checkpoint.errors import BadInput, GateRefused, UnsupportedFamily
from isthmus.checkpoint.loading import Checkpoint
from isthmus.checkpoint.pair import open_pair
from isthmus.eval.barrier import Profile, profile
from isthmus.eval.loss import Losses, LossMeter, ensemble_losses, per_block
from isthmus.eval.samples import Sample, samples
from isthmus.eval.spectrum import MAX_EXCESS, SAME_KIND, Spectrum, SpectrumReport, compare_spectra
from isthmus.eval.text import Blocks, blocks, corpus
from isthmus.merge.path import LinearPath
from isthmus.merge.point import Objective, choose_t, grid, neighbours
from isthmus.merge.progress import Progress
from isthmus.merge.spectra import spectrum

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedTokenizerBase

Align = Literal["auto", "none", "permutation", "orthogonal"]
SPECTRUM_TS = (0.0, 0.25, 0.5, 0.75, 1.0)


@dataclass(frozen=True)
class Gates:
    """What a merge must satisfy to be saved. `None` and False ask for nothing."""

    max_barrier: float | None = None
    require_spectrum: bool = False
    require_gain: bool = False


@dataclass(frozen=True)
class Merge:
    """A merged model, not yet saved: `state` (float32, computed when looked up), `config`, the report, the figures' data.

    `report` is what goes into isthmus.json. `curves`, `spectra` and `samples` feed report.html.
    """

    state: Mapping[str, Tensor]
    config: PretrainedConfig
    dtype: torch.dtype
    files: dict[str, Path]
    report: dict[str, Any]
    curves: dict[str, Profile]
    spectra: dict[float, Spectrum]
    samples: tuple[Sample, ...]

    def save(self, directory: str | Path, *, overwrite: bool = False) -> None:
        """Write the model, the report and the model card: whole, or not at all.

        Raises BadInput for an output that exists, IsthmusError when the disk does not take it.
        """
        from isthmus.merge.output import save

        save(self, Path(directory), overwrite=overwrite)


@dataclass(frozen=True)
class _Candidate:
    """One alignment, the path it gives, and what was measured on the select text."""

    aligned: Aligned
    select: Profile | None
    seconds: float

    @property
    def path(self) -> LinearPath:
        return LinearPath(self.aligned.a, self.aligned.b)


def merge(
    a: str | Path | Checkpoint,
    b: str | Path | Checkpoint,
    *,
    data: Sequence[str] = (),
    align: Align = "auto",
    t: float | None = None,
    objective: Objective = "mean",
    interior: float = 0.1,
    gates: Gates = Gates(),  # noqa: B008
    tokens: int = 8192,
    measure_spectrum: bool | None = None,
    max_excess: float = MAX_EXCESS,
    same_kind: float = SAME_KIND,
    dtype: torch.dtype | None = None,
    device: str = "auto",
    seed: int = 0,
    progress: Progress | None = None,
) -> Merge:
    """Merge two checkpoints on the straight line between them, after alignment, where the loss is lowest.

    `data` are corpora as `--data` takes them (`isthmus.eval.text.corpus`); each gives `tokens` tokens to select and as many to
    report on. Without, no loss is measured, and `t` and `align` have to be given. `t=None` chooses the t in
    [interior, 1 − interior] with the lowest `objective` on the select text. `dtype` is what the result is saved in: by default
    the endpoints' own when they share one, else float32. `measure_spectrum=None` measures it unless the merge is a plain average
    without data.

    Raises IncompatibleModels before any weight is read; GateRefused, with nothing saved, when a gate refuses; BadInput,
    CorruptCheckpoint, AlignmentError.
    """
    began = time.monotonic()
    progress = progress or Progress()
    _require_sense(data, align, t, interior, gates)
    progress.stage("checking")
    first, second = open_pair(a, b, families=FAMILIES)
    if align not in ("none", "auto") and first.config.model_type not in FAMILIES:
        family(first.config)  # raises with the list of the supported ones
    device = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    dtype = dtype or (first.dtype if first.dtype == second.dtype else torch.float32)
    text = _read_text(data, first, second, tokens, seed, progress)
    methods = _methods(align, first.config)
    if data or methods != ["none"]:
        first, second = (replace(x, state=dict(x.state)) for x in (first, second))

    candidates = [_candidate(method, first, second, text, device, seed, progress) for method in methods]
    chosen = min(candidates, key=lambda c: c.select.barrier if c.select else 0.0)  # the first among equals
    if t is not None:
        point = t
    else:
        assert chosen.select is not None
        chosen = _refined(chosen, text, device, objective, interior, progress)
        point = choose_t(chosen.select, objective=objective, interior=interior)  # type: ignore[arg-type]

    state = chosen.path(point)
    curves, loss_report = _measure_report(chosen, first, second, point, dtype, text, device, progress)
    if gates.max_barrier is not None and loss_report["barrier"] > gates.max_barrier:
        raise GateRefused(
            f"refused: the barrier is {loss_report['barrier']:.3f} nats, above --max-barrier {gates.max_barrier:g}; nothing was saved"
        )
    if gates.require_gain and loss_report["merge_point"]["gain"] <= 0:
        raise GateRefused(
            f"refused: the merge is worse than the better endpoint by {-loss_report['merge_point']['gain']:.3f} ± "
            f"{loss_report['merge_point']['gain_stderr']:.3f} nats (--require-gain); nothing was saved"
        )

    plain = not data and methods == ["none"]
    spectra: dict[float, Spectrum] = {}
    verdict: SpectrumReport | None = None
    if (measure_spectrum or gates.require_spectrum or (measure_spectrum is None and not plain)) and (
        first.config.model_type in FAMILIES or gates.require_spectrum
    ):
        spectra = _spectra(chosen, point, progress)
        verdict = compare_spectra(spectra[0.0], spectra[point], spectra[1.0], max_excess=max_excess, same_kind=same_kind)
        if gates.require_spectrum and verdict.verdict in ("contracted", "inflated"):
            raise GateRefused(
                f"refused: the spectrum is {verdict.verdict} (excess {verdict.excess:.3f} nats, at most {max_excess:g}; "
                "--require-spectrum); nothing was saved"
            )

    told: tuple[Sample, ...] = ()
    if text:
        progress.stage("writing samples")
        told = samples(
            {"A": (first.state, first.config), "B": (second.state, second.config), "merge": (state, chosen.aligned.config)},
            _tokenizer(first, second),
            {part.label: part.report for part in text},
            seed=seed,
        )
    report: dict[str, Any] = {
        "schema": 1,
        "command": "merge",
        "endpoints": [
            {"ref": x.name, "revision": x.revision, "loss": loss, "optimizer": None, "optimizer_evidence": None}
            for x, loss in zip((first, second), loss_report.pop("endpoint_losses"), strict=True)
        ],
        "alignment": {
            "method": chosen.aligned.alignment.method,
            "asked": align,
            "score": chosen.aligned.alignment.score,
            "max_log_prob_error": chosen.aligned.max_log_prob_error,
            "seconds": round(chosen.seconds, 3),
        },
        "path": {"kind": "linear", "bends": 0, "steps": 0},
        **loss_report,
        "spectrum": _spectrum_json(verdict),
        "data": [
            {
                "label": part.label,
                "fit_tokens": part.fit.numel(),
                "select_tokens": part.select.numel(),
                "report_tokens": part.report.numel(),
            }
            for part in text
        ],
        "settings": {"objective": objective, "interior": interior, "t": t, "seed": seed, "dtype": str(dtype).removeprefix("torch.")},
        "seconds": round(time.monotonic() - began, 3),
        "versions": {name: version(name) for name in ("isthmus", "torch", "transformers")},
    }
    files = first.files if any(name.startswith(("tokenizer", "vocab")) for name in first.files) else second.files | first.files
    return Merge(state, chosen.aligned.config, dtype, files, report, curves, spectra, told)


def _require_sense(data: Sequence[str], align: str, t: float | None, interior: float, gates: Gates) -> None:
    if not data and t is None:
        raise BadInput("without text no loss can be measured: add --data (for instance --data stdlib:docs), or give --t")
    if not data and align == "auto":
        raise BadInput("without text alignments cannot be compared: add --data, or say --align none or --align orthogonal")
    if not data and (gates.max_barrier is not None or gates.require_gain):
        raise BadInput("--max-barrier and --require-gain need a loss: add --data")
    if t is not None and not 0 <= t <= 1:
        raise BadInput(f"t is a point of the path, between 0 and 1; got {t}")
    if not 0 <= interior < 0.5:
        raise BadInput(f"--interior is a share of the path below 0.5; got {interior}")


def _methods(align: Align, config: PretrainedConfig) -> list[Literal["none", "permutation", "orthogonal"]]:
    if align != "auto":
        return [align]
    try:
        family(config)
    except UnsupportedFamily:
        return ["none"]
    return ["none", "orthogonal"]


def _tokenizer(first: Checkpoint, second: Checkpoint) -> PreTrainedTokenizerBase:
    try:
        return first.tokenizer()
    except BadInput:
        return second.tokenizer()


def _read_text(
    data: Sequence[str], first: Checkpoint, second: Checkpoint, tokens: int, seed: int, progress: Progress
) -> tuple[Blocks, ...]:
    if not data:
        return ()
    progress.stage("reading text", len(data))
    tokenizer = _tokenizer(first, second)
    context = int(first.config.max_position_embeddings)
    parts: list[Blocks] = []
    for spec in data:
        part = blocks(corpus(spec), tokenizer, context=context, select_tokens=tokens, report_tokens=tokens, seed=seed)
        if part.label in {other.label for other in parts}:
            raise BadInput(f"two texts have the label '{part.label}': name them, as in --data first=a.txt --data second=b.txt")
        highest = max(int(p.max()) for p in (part.select, part.report))
        if highest >= first.config.vocab_size:
            raise BadInput(
                f"the tokenizer gives the id {highest}, beyond the vocabulary of {first.config.vocab_size}: it belongs to another model"
            )
        parts.append(part)
        progress.advance()
    return tuple(parts)


def _candidate(
    method: Literal["none", "permutation", "orthogonal"],
    first: Checkpoint,
    second: Checkpoint,
    text: tuple[Blocks, ...],
    device: str,
    seed: int,
    progress: Progress,
) -> _Candidate:
    began = time.monotonic()
    if method == "none":
        aligned = align_states(first.state, second.state, first.config, "none") if text else _lazily(first, second)
    else:
        progress.stage(f"aligning ({method})")
        aligned = align_states(
            first.state, second.state, first.config, method, seed=seed, on_sweep=lambda *_: progress.advance()
        )
    seconds = time.monotonic() - began
    if not text:
        return _Candidate(aligned, None, seconds)
    parts = {part.label: part.select for part in text}
    ts = grid()
    progress.stage(f"choosing: the path, align {method}", len(ts) * sum(map(len, parts.values())))
    meter = LossMeter(aligned.config, parts, device=device, on_blocks=progress.advance)
    return _Candidate(aligned, profile(LinearPath(aligned.a, aligned.b), meter, ts), seconds)


def _lazily(first: Checkpoint, second: Checkpoint) -> Aligned:
    """Unaligned states that stay on disk until a tensor is looked up."""
    from isthmus.align.alignment import Alignment

    return Aligned(first.state, second.state, first.config, Alignment("none", {}, 0.0), 0.0)


def _refined(
    chosen: _Candidate, text: tuple[Blocks, ...], device: str, objective: Objective, interior: float, progress: Progress
) -> _Candidate:
    """The candidate with the profile on select measured half-way around its best point, too."""
    assert chosen.select is not None
    best = choose_t(chosen.select, objective=objective, interior=interior)
    closer = neighbours(chosen.select, best, interior)
    parts = {part.label: part.select for part in text}
    progress.stage("choosing t", len(closer) * sum(map(len, parts.values())))
    meter = LossMeter(chosen.aligned.config, parts, device=device, on_blocks=progress.advance)
    return replace(chosen, select=chosen.select.with_points((t, meter(chosen.path(t))) for t in closer))


def _rounded(state: Mapping[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """The state as it will be read back from disk."""
    return {name: state[name].to(dtype).float() for name in state}


def _measure_report(
    chosen: _Candidate,
    first: Checkpoint,
    second: Checkpoint,
    point: float,
    dtype: torch.dtype,
    text: tuple[Blocks, ...],
    device: str,
    progress: Progress,
) -> tuple[dict[str, Profile], dict[str, Any]]:
    """Everything that is shown, on the report text alone: profiles before and after alignment, merge, average, ensemble."""
    if not text:
        empty = {"profile": [], "barrier": None, "barrier_before_alignment": None, "naive_profile": [], "baselines": {}}
        return {}, {"endpoint_losses": [{}, {}], **empty, "merge_point": {"t": point, "loss": None, "excess": None, "gain": None, "gain_stderr": None}}
    parts = {part.label: part.report for part in text}
    count = sum(map(len, parts.values()))
    ts = sorted({*grid(), round(point, 6)})
    aligned_differs = chosen.aligned.alignment.method != "none"
    progress.stage("measuring on the report text", count * (len(ts) * (1 + aligned_differs) + 3))
    meter = LossMeter(first.config, parts, device=device, on_blocks=progress.advance)
    naive = profile(LinearPath(first.state, second.state), meter, ts)
    members = [meter.token_losses(first.state), meter.token_losses(second.state)]
    ensemble = ensemble_losses(members)
    aligned_meter = LossMeter(chosen.aligned.config, parts, device=device, on_blocks=progress.advance)
    measured = profile(chosen.path, aligned_meter, ts) if aligned_differs else naive
    merged = per_block(aligned_meter.token_losses(_rounded(chosen.path(point), dtype)))

    ends = [per_block(member) for member in members]
    better = min(ends, key=lambda losses: losses.mean)
    gain = better - merged
    excess = merged - measured.start.mixed(measured.end, point)
    numbers = {
        "endpoint_losses": [{label: losses.label_mean(label) for label in parts} for losses in ends],
        "profile": _profile_json(measured),
        "naive_profile": _profile_json(naive),
        "barrier": measured.barrier,
        "barrier_before_alignment": naive.barrier,
        "merge_point": {
            "t": point,
            "loss": merged.mean,
            "stderr": merged.stderr,
            "losses": {label: merged.label_mean(label) for label in parts},
            "excess": excess.mean,
            "gain": gain.mean,
            "gain_stderr": gain.stderr,
        },
        "baselines": {
            "naive_average": _loss_json(naive.at(0.5)),
            "ensemble": _loss_json(ensemble),
        },
    }
    return {"naive": naive, "aligned": measured}, numbers


def _loss_json(losses: Losses) -> dict[str, Any]:
    return {
        "loss": losses.mean,
        "stderr": losses.stderr,
        "losses": {label: losses.label_mean(label) for label in losses.per_block},
    }


def _profile_json(measured: Profile) -> list[dict[str, float]]:
    return [
        {"t": t, "loss": losses.mean, "stderr": losses.stderr, "excess": measured.excess(t).mean}
        for t, losses in measured.points
    ]


def _spectra(chosen: _Candidate, point: float, progress: Progress) -> dict[float, Spectrum]:
    ts = sorted({*SPECTRUM_TS, point})
    progress.stage("measuring the spectrum", len(ts))
    found = {}
    for t in ts:
        found[t] = spectrum(chosen.path(t), chosen.aligned.config)
        progress.advance()
    return found


def _spectrum_json(verdict: SpectrumReport | None) -> dict[str, Any] | None:
    if verdict is None:
        return None
    content = asdict(verdict)
    for row in content["matrices"]:
        row["stable_rank"] = list(row["stable_rank"])
    return content | {"matrices": list(content["matrices"])}

