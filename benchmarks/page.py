"""docs/performance.md, written from the results that are recorded: timings and memory beside those of a peer.

    python page.py

Ratios are those of runs on one machine, one after the other: isthmus over what it is compared with, below 1 is better.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from statistics import median
from typing import Any

from measurement import RESULTS

PAGE = Path(__file__).parents[1] / "docs" / "performance.md"
HEAD = ("task", "isthmus", "compared with", "time, ratio", "memory, ratio", "measured by")
Row = tuple[str, str, str, str, str, str]


def averages() -> Iterator[Row]:
    """Averages, operators and recipes, beside mergekit and beside copying."""
    merge = _result("merge")
    yield _beside_mergekit("average two GPT-2 small, float32", merge, "merge")
    for shape, methods in _result("operators")["methods"].items():
        yield _range(f"{len(methods)} methods on {shape}", methods.values(), "operators")
    smollm2 = _result("smollm2")
    methods = smollm2["methods"]
    yield _range(f"{len(methods)} methods on SmolLM2-135M, with its tokenizer", methods.values(), "smollm2")
    recipes = _result("recipes")["recipes"]
    yield _range(f"{len(recipes)} recipes of layers, stages and vocabularies", recipes.values(), "recipes")
    large = _result("large")
    seconds = large["seconds"]
    ours, peer = f"{seconds['merge']:g} s, {large['peak_GB']:g} GB", f"copying one of them, {seconds['copy']:g} s"
    ratio = _ratio(seconds["merge"], seconds["copy"])
    yield "average two checkpoints of 4 GB", ours, peer, ratio, "", _script("large")


def opening() -> Iterator[Row]:
    """Checks and adapters."""
    check = _result("check")
    seconds, megabytes = check["seconds"], check["MB"]
    name = "same tokenizer file"
    yield (
        "check two GPT-2 small on a Hub on loopback",
        f"{seconds[name]:g} s, {megabytes[name]:g} MB read",
        f"downloading both, {seconds['download']:g} s, {megabytes['download']:g} MB",
        _ratio(seconds[name], seconds["download"]),
        "",
        _script("check"),
    )
    adapters = _result("adapters")
    merged, copy = adapters["merged"], adapters["copy"]
    ours, peer = f"{merged['seconds']:g} s, {merged['peak_GB']:g} GB", f"copying the base, {copy['seconds']:g} s"
    ratio = _ratio(merged["seconds"], copy["seconds"])
    yield "merge two LoRAs of SmolLM2-135M into a model", ours, peer, ratio, "", _script("adapters")


def alignment() -> Iterator[Row]:
    """Alignment in closed form, beside measuring a loss."""
    align = _result("align")
    seconds, peak = align["seconds"], align["peak_GB"]
    peer = f"the loss of one on 8,192 tokens, {seconds['loss']:g} s, {peak['loss']:g} GB"
    for what, key in (("align two GPT-2 small", "align"), ("the same from the disk, and saved", "streamed")):
        ratios = _ratio(seconds[key], seconds["loss"]), _ratio(peak[key], peak["loss"])
        yield what, f"{seconds[key]:g} s, {peak[key]:g} GB", peer, *ratios, _script("align")
    moved = _result("smollm2")["align a moved copy back"]
    ours = f"{moved['seconds']:g} s, {moved['peak_GB']:g} GB"
    yield "align SmolLM2-135M to a copy with all symmetries moved", ours, "", "", "", _script("smollm2")


def training() -> Iterator[Row]:
    """Steps of training, beside plain ones; Muon beside torch's."""
    for name, case in _result("bends")["cases"].items():
        ours, plain = f"{case['own']:.2f} s", f"a plain step, {case['plain']:.2f} s"
        yield name, ours, plain, _ratio(case["own"], case["plain"]), "", _script("bends")
    muon = _result("muon")["seconds"]
    ours, peer = f"{muon['float32']:.3f} s, in float32", f"torch.optim.Muon in bfloat16, {muon['torch']:.2f} s"
    ratio = _ratio(muon["float32"], muon["torch"])
    yield "a step of Muon, 4 layers of width 128", ours, peer, ratio, "", _script("muon")


def larger() -> Iterator[Row]:
    """Models of seven billion parameters, and weights that processes share, beside one process that has them all."""
    billions = _result("seven_billion")
    check, average, size = billions["check"], billions["average"], f"{billions['whole_GB']:g} GB"
    for what, one in ((f"check two checkpoints of {size}", check), (f"average two checkpoints of {size}", average)):
        ours = f"{one['seconds']:g} s, {one['peak_GB']:g} GB"
        peer = f"copying one of them, {billions['copy']:g} s"
        yield what, ours, peer, _ratio(one["seconds"], billions["copy"]), "", _script("seven_billion")
    for what, label in (("bend", "a bend of 153M parameters"), ("alignment", "a learned alignment of them")):
        alone, *others = _result("sharded")[what].items()
        for count, one in others:
            ours = f"{one['seconds']:g} s, {max(one['peak_GB']):g} GB in each"
            peer = f"one process, {alone[1]['seconds']:g} s, {alone[1]['peak_GB'][0]:g} GB"
            ratios = _ratio(one["seconds"], alone[1]["seconds"]), f"{one['memory_ratio']:.2f}"
            yield f"{label}, shared by {count} processes", ours, peer, *ratios, _script("sharded")


def planning() -> Iterator[Row]:
    """What `--plan` foresees, beside what then happens."""
    for name, one in _result("plan")["commands"].items():
        yield name, "", "what then happens", f"{one['time_ratio']:.2f}", f"{one['memory_ratio']:.2f}", _script("plan")


SECTIONS = {
    "Averages and operators": averages,
    "Before a merge": opening,
    "Alignment": alignment,
    "Training": training,
    "Larger models": larger,
    "What `--plan` foresees": planning,
}


def page() -> str:
    """The page as Markdown."""
    first = _result("align")
    versions = ", ".join(f"{name} {version}" for name, version in first["versions"].items())
    lines = [
        "# Performance",
        "",
        "Timings are of whole processes unless a step is named, and ratios are isthmus over what stands beside it,",
        "measured in the same run on the same machine: below 1 is faster, or smaller. `make bench` measures all again,",
        "and writes this page from `benchmarks/results/`; every script says at its beginning what it measures.",
        "",
        f"{first['machine']}; {versions};",
        "mergekit 0.1.5, with the same torch and transformers.",
    ]
    for title, rows in SECTIONS.items():
        lines += ["", f"## {title}", "", _line(HEAD), _line(("---", "---", "---", "---:", "---:", "---"))]
        lines += [_line(row) for row in rows()]
    lines += [
        "",
        "What merges lose and gain in nats is on [the first page](../README.md#what-it-gets), and in",
        "[how it works](how-it-works.md).",
    ]
    return "\n".join(lines) + "\n"


def _result(name: str) -> dict[str, Any]:
    result: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    return result


def _beside_mergekit(what: str, measured: Mapping[str, Any], script: str) -> Row:
    seconds, peak = measured["seconds"], measured["peak_GB"]
    ours, peer = (f"{seconds[tool]:g} s, {peak[tool]:g} GB" for tool in ("isthmus", "mergekit"))
    ratios = f"{measured['time_ratio']:.2f}", f"{measured['memory_ratio']:.2f}"
    return what, ours, f"mergekit, {peer}", *ratios, _script(script)


def _range(what: str, measured: Iterable[Mapping[str, Any]], script: str) -> Row:
    measured = list(measured)
    time, memory = (sorted(one[key] for one in measured) for key in ("time_ratio", "memory_ratio"))
    ratios = (f"{all_[0]:.2f} to {all_[-1]:.2f}, median {median(all_):.2f}" for all_ in (time, memory))
    return what, "", "mergekit, each", *ratios, _script(script)


def _ratio(ours: float, peer: float) -> str:
    return f"{ours / peer:.2f}"


def _script(name: str) -> str:
    return f"`bench_{name}.py`"


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
