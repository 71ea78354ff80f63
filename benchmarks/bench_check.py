"""`isthmus check` of two GPT-2 small on a Hub on loopback, whole process; the baseline is downloading them.

The tokenizers are as large as GPT-2's: once the same file on the Hub, once files that were saved differently.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from itertools import product
from pathlib import Path

from measurement import Cost, best, record

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from hub_server import HubServer

TOKENS = 50_257
FILES = ("config.json", "generation_config.json", "tokenizer.json", "model.safetensors")
DOWNLOAD = f"""
import sys
from huggingface_hub import hf_hub_download
for name in sys.argv[1:]:
    for file in {FILES}:
        hf_hub_download(name, file)
"""


def tokenizer(indent: int | None) -> bytes:
    """50,257 tokens: 256 letters, and what merges of two of the first tokens make."""
    tokens = {chr(0x100 + letter): letter for letter in range(256)}
    merges = []
    for first, second in product(list(tokens), repeat=2):
        if len(tokens) < TOKENS:
            merges.append(f"{first} {second}")
            tokens[first + second] = len(tokens)
    model = {"type": "BPE", "vocab": tokens, "merges": merges}
    return json.dumps({"model": model, "added_tokens": []}, indent=indent).encode()


def main() -> None:
    hub = HubServer()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        subprocess.run([sys.executable, Path(__file__).with_name("gpt2_small.py"), work / "a", work / "b"], check=True)
        for side in "ab":
            for kind, indent in (("same", None), ("other", 1 if side == "b" else None)):
                hub.add(f"user/{side}-{kind}", work / side).files["tokenizer.json"] = tokenizer(indent)
        os.environ |= {"HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
        program = Path(sys.executable).parent / "isthmus"
        costs: dict[str, Cost] = {}
        traffic = {}
        weights = {}

        def run(name: str, command: list[object]) -> None:
            os.environ["HF_HOME"] = str(work / f"cache-{name}")
            hub.traffic = 0
            hub.sent.clear()
            costs[name] = best(command, runs=1)  # a second run would find what the first has fetched
            traffic[name] = hub.traffic
            weights[name] = hub.bytes_sent(".safetensors")

        for round_ in range(3):
            run(f"same-{round_}", [program, "check", "user/a-same", "user/b-same"])
            run(f"other-{round_}", [program, "check", "user/a-other", "user/b-other"])
        run("download", [sys.executable, "-c", DOWNLOAD, "user/a-same", "user/b-same"])
    fastest = {kind: min(costs[f"{kind}-{round_}"].seconds for round_ in range(3)) for kind in ("same", "other")}
    record(
        "check",
        {
            "what": "isthmus check of two GPT-2 small on loopback, whole process, cold cache, best of 3",
            "baseline": "downloading both, whole process",
            "seconds": {
                "same tokenizer file": round(fastest["same"], 2),
                "tokenizer saved differently": round(fastest["other"], 2),
                "download": round(costs["download"].seconds, 2),
            },
            "MB": {
                "same tokenizer file": round(traffic["same-0"] / 1e6, 3),
                "tokenizer saved differently": round(traffic["other-0"] / 1e6, 3),
                "download": round(traffic["download"] / 1e6, 1),
            },
            "bytes of weight files, their headers": {"same": weights["same-0"], "other": weights["other-0"]},
            "time_ratio": round(fastest["same"] / costs["download"].seconds, 3),
        },
    )


if __name__ == "__main__":
    main()
