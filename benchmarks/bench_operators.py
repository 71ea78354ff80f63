"""Every method that mergekit also has, from the same recipe, on a GPT-2 small and a Llama, whole process, in turns.

Only methods and shapes (`gpt2`, `llama`) that are named as arguments are measured again; the other rows stay. The
models are made in a directory that is removed at the end, or in that of the environment variable MODELS, where they
stay. Times are the fastest of RUNS runs; with `more` among the arguments, of these and of those that are recorded.

The outputs of both tools are compared. Where entries are drawn at random (DARE, DELLA), the two draw different ones, so
these methods are compared twice: with all entries kept, and with half of them kept, by properties that hold for any
draw. Where mergekit is coarse (float32 of angles, quartiles of a sample), its exact result is compared.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench_merge import MERGEKIT, install
from measurement import RESULTS, Cost, measure, record

WEIGHTS = (0.5, 0.3, 0.7)
RUNS = int(os.environ.get("RUNS", "3"))
APART = 1e-5
Row = dict[str, Any]
PLAIN = ("linear", "karcher", "task_arithmetic", "ties", "model_stock")
MORE = ("multislerp", "breadcrumbs", "breadcrumbs_ties", "sce", "ram", "ramplus_tl")
ONE_MODEL = ("nearswap", "arcee_fusion")  # and its base
DRAWN = ("dare_linear", "dare_ties", "della", "della_linear")
ANGLES = ("karcher", "nuslerp", "multislerp")
SHAPES = {"gpt2": ("GPT-2 small", ("gpt2_small.py", "--family")), "llama": ("Llama, 124M", ("random_llama.py",))}
ALL_ENTRIES = (  # quartiles of all entries
    "import mergekit.merge_methods.arcee_fusion as fusion, mergekit.scripts.run_yaml as script; "
    "fusion._QUANTILE_SAMPLE_SIZE = 2**40; script.main()"
)
WITHOUT_BASE = ("linear", "karcher", "multislerp", "nuslerp")


def recipe(work: Path, method: str, models: int, density: float) -> str:
    """The recipe of one method for so many models."""
    names = [work / name for name in "abc"[:models]]
    settings = {
        "linear": lambda w: f"weight: {w}",
        "task_arithmetic": lambda w: f"weight: {w}",
        "ties": lambda w: f"weight: {w}, density: {density}",
        "dare_linear": lambda w: f"weight: {w}, density: {density}",
        "dare_ties": lambda w: f"weight: {w}, density: {density}",
        "della": lambda w: f"weight: {w}, density: {density}, epsilon: 0.1",
        "della_linear": lambda w: f"weight: {w}, density: {density}, epsilon: 0.1",
        "breadcrumbs": lambda w: f"weight: {w}, density: {density}, gamma: 0.02",
        "breadcrumbs_ties": lambda w: f"weight: {w}, density: {density}, gamma: 0.02",
        "nuslerp": lambda w: f"weight: {w}",
        "multislerp": lambda w: f"weight: {w}",
    }
    lines = [f"dtype: float32\nmerge_method: {method}\nmodels:"]
    for name, weight in zip(names, WEIGHTS, strict=False):
        own = f", parameters: {{{settings[method](weight)}}}" if method in settings else ""
        lines.append(f"  - {{model: {name}{own}}}")
    if method == "slerp":
        lines.append(f"base_model: {names[0]}\nparameters: {{t: [0.2, 0.7]}}")
    elif method not in WITHOUT_BASE:
        lines.append(f"base_model: {work / 'base'}")
    shared = {"sce": "{select_topk: 0.4}", "nearswap": "{t: 0.01}", "ramplus_tl": "{r: 0.3, alpha: 0.5}"}
    if method in shared:
        lines.append(f"parameters: {shared[method]}")
    return "\n".join(lines) + "\n"


@dataclass(frozen=True)
class Usage(Cost):
    """With the time of all processors together, which other processes on the machine hardly change."""

    processors: float


def usage(command: Sequence[object]) -> Usage:
    """What a run of a command costs."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    cost = measure(command)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    processors = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Usage(cost.seconds, cost.peak, processors)


def run(work: Path, program: Path) -> tuple[Usage, Usage]:
    """mergekit and isthmus on the recipe that lies there."""
    theirs = [program, work / "recipe.yml", work / "theirs", "--allow-crimes", "--no-copy-tokenizer"]
    ours = [Path(sys.executable).parent / "isthmus", "merge", work / "recipe.yml", "-o", work / "ours"]
    runs = []
    for _ in range(RUNS):
        for name in ("ours", "theirs"):  # isthmus reads what it overwrites, to see whether anyone has changed it
            shutil.rmtree(work / name, ignore_errors=True)
        runs.append((usage(ours), usage(theirs)))
    mine, other = (
        Usage(min(u.seconds for u in of_one), max(u.peak for u in of_one), min(u.processors for u in of_one))
        for of_one in zip(*runs, strict=True)
    )
    return mine, other


def compared(what: str, work: Path) -> object:
    """What a function of this script finds, in a process of its own: a child's peak counts what its parent holds."""
    process = subprocess.run([sys.executable, __file__, what, work], check=True, capture_output=True, text=True)
    return json.loads(process.stdout)


def difference(work: Path) -> dict[str, float]:
    """The two results: the largest difference, against the largest entry of the tensor, and how many entries are apart.

    Entries are apart where they differ by more than 1e-5 of that: TIES keeps exactly its share, and which of several
    entries of equal magnitude it keeps is arbitrary. The largest difference is that of all others.
    """
    from safetensors.torch import load_file

    ours, theirs = (load_file(work / name / "model.safetensors") for name in ("ours", "theirs"))
    assert ours.keys() == theirs.keys(), "the two write other tensors"
    apart, largest = 0, 0.0
    for name, mine in ours.items():
        relative = (mine - theirs[name]).abs() / theirs[name].abs().max()
        apart += int((relative > APART).sum())
        largest = max(largest, relative[relative <= APART].max().item())
    return {"largest": largest, "entries_apart": apart}


def drawn(work: Path) -> dict[str, float]:
    """Of one task vector, half dropped: the share that each tool kept, and its sum of magnitudes over the whole one."""
    import torch
    from safetensors.torch import load_file

    shares = {}
    base, model = (load_file(work / name / "model.safetensors") for name in ("base", "a"))
    for tool in ("ours", "theirs"):
        merged = load_file(work / tool / "model.safetensors")
        counts = [(merged[name] != base[name]).double().mean().item() * base[name].numel() for name in base]
        moved, before = (
            torch.stack([(state[name] - base[name]).abs().sum(dtype=torch.float64) for name in base]).sum()
            for state in (merged, model)
        )
        shares[f"{tool} kept"] = round(sum(counts) / sum(tensor.numel() for tensor in base.values()), 4)
        shares[f"{tool} magnitude"] = round((moved / before).item() / WEIGHTS[0], 4)
    return shares


KINDS = (
    ("linear", 2, 0.4),
    ("slerp", 2, 0.4),
    ("nuslerp", 2, 0.4),
    *((method, 3, 0.4) for method in (*PLAIN, *MORE)),
    *((method, 1, 0.4) for method in ONE_MODEL),
    *((method, *case) for method in DRAWN for case in ((3, 1.0), (1, 0.5))),
)


def summary(ours: Usage, theirs: Usage, before: Row | None) -> Row:
    """The row of a method: its costs, or the smaller times and the larger peaks of these and those of a row before."""
    tools = {"isthmus": ours, "mergekit": theirs}
    seconds = {tool: round(cost.seconds, 2) for tool, cost in tools.items()}
    processors = {tool: round(cost.processors, 2) for tool, cost in tools.items()}
    peaks = {tool: round(cost.peak / 1e9, 2) for tool, cost in tools.items()}
    if before is not None:
        seconds = {tool: min(seconds[tool], before["seconds"][tool]) for tool in tools}
        processors = {tool: min(processors[tool], before["processor_seconds"][tool]) for tool in tools}
        peaks = {tool: max(peaks[tool], before["peak_GB"][tool]) for tool in tools}
    return {
        "runs": RUNS + (before["runs"] if before else 0),
        "seconds": seconds,
        "processor_seconds": processors,
        "peak_GB": peaks,
        "time_ratio": round(seconds["isthmus"] / seconds["mergekit"], 3),
        "processor_ratio": round(processors["isthmus"] / processors["mergekit"], 3),
        "memory_ratio": round(peaks["isthmus"] / peaks["mergekit"], 3),
    }


def costs(work: Path, program: Path, wanted: list[str], before: dict[str, Row]) -> dict[str, Row]:
    """The cost of every method, or of those wanted, on the models `base`, `a`, `b` and `c` in a directory."""
    rows: dict[str, Row] = {}
    for method, models, density in KINDS:
        if wanted and method not in wanted:
            continue
        (work / "recipe.yml").write_text(recipe(work, method, models, density))
        ours, theirs = run(work, program)
        name = f"{method}, {models} models, density {density:g}" if method in DRAWN else f"{method}, {models}"
        row = summary(ours, theirs, before.get(name))
        what = "drawn" if method in DRAWN and density < 1 else "difference"
        if method in ANGLES:  # their float32 is coarse where models are close: compare with their float64
            text = recipe(work, method, models, density).replace("dtype: float32", "dtype: float64\nout_dtype: float32")
            (work / "exact.yml").write_text(text)
            measure([program, work / "exact.yml", work / "theirs", "--allow-crimes", "--no-copy-tokenizer"])
        if method == "arcee_fusion":
            options = [work / "recipe.yml", work / "theirs", "--allow-crimes", "--no-copy-tokenizer"]
            measure([program.with_name("python"), "-c", ALL_ENTRIES, *options])
        row[what] = compared(what, work)
        rows[name] = row
        print(method, models, row, flush=True)
    return rows


def models_in(work: Path, shape: str) -> Path:
    """The directory of the models of a shape, which are made where they are not there yet."""
    script, *options = SHAPES[shape][1]
    directory = work / shape
    if not directory.exists():
        directory.mkdir()
        command = [sys.executable, Path(__file__).with_name(script), *options]
        subprocess.run([*command, *(directory / name for name in ("base", *"abc"))], check=True)
    return directory


def main(wanted: list[str]) -> None:
    program = install()
    rows: dict[str, dict[str, Row]] = {name: {} for name, _ in SHAPES.values()}
    if wanted:
        rows |= json.loads((RESULTS / "operators.json").read_text())["methods"]
    methods = [name for name in wanted if name not in (*SHAPES, "more")]
    with tempfile.TemporaryDirectory() as folder:
        for shape in [name for name in wanted if name in SHAPES] or SHAPES:
            directory = models_in(Path(os.environ.get("MODELS", folder)), shape)
            of_shape = rows[SHAPES[shape][0]]
            of_shape |= costs(directory, program, methods, of_shape if "more" in wanted else {})
    what = {"what": __doc__.split("\n")[0], "baseline": MERGEKIT}
    record("operators", {**what, "methods": rows})


if __name__ == "__main__":
    functions = {"drawn": drawn, "difference": difference}
    if sys.argv[1:2] and sys.argv[1] in functions:
        print(json.dumps(functions[sys.argv[1]](Path(sys.argv[2]))))
    else:
        main(sys.argv[1:])
