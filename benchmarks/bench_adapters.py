"""Two LoRAs of SmolLM2-135M merged into a model and into an adapter, beside copying their base (the baseline), and a
fine-tune extracted at several energies: seconds, peak memory, and what is lost in nats per token.

The base is that of `smollm2.py`, in the directory that is named, or made in one that is removed at the end; the LoRAs
have rank 16 on all linear maps, and random numbers. The fine-tune is the embedded one on docstrings.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from measurement import Cost, best, measure, record
from smollm2 import make_base

PROGRAM = Path(sys.executable).parent / "isthmus"
EMBEDDED = Path(__file__).parents[1] / "lab" / "checkpoints"
ADAPTER = """
import sys, torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM
base, place, seed = sys.argv[1:]
torch.manual_seed(int(seed))
settings = LoraConfig(task_type="CAUSAL_LM", r=16, target_modules="all-linear")
model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), settings)
for parameter in model.parameters():
    if parameter.requires_grad:
        parameter.data.add_(torch.randn(parameter.shape) * 0.005)
model.save_pretrained(place)
"""
COPY = "import shutil, sys; shutil.copytree(*sys.argv[1:], dirs_exist_ok=True)"


def shown(cost: Cost, base: int) -> dict[str, float]:
    return {
        "seconds": round(cost.seconds, 1),
        "peak_GB": round(cost.peak / 1e9, 3),
        "of the base in float32": round(cost.peak / base, 2),
    }


def extracted(energy: float, work: Path) -> dict[str, object]:
    models = (EMBEDDED / "docs", "--base", EMBEDDED / "adamw-1")
    out, text = work / f"lora-{energy}", ("--data", "stdlib:docs", "--data", "stdlib:code")
    measure([PROGRAM, "extract", *models, "-o", out, "--overwrite", "--energy", energy, *text])
    report = json.loads((out / "isthmus.json").read_text())
    ranks = report["adapter"]["ranks"].values()
    return {
        "ranks": [min(ranks), max(ranks)],
        "lost": round(report["lost"], 4),
        "stderr": round(report["lost_stderr"], 4),
    }


def main(work: Path) -> None:
    if not (work / "base").exists():
        make_base(work / "base")
    base = (work / "base" / "model.safetensors").stat().st_size
    for name, seed in (("first", "1"), ("second", "2")):
        subprocess.run([sys.executable, "-c", ADAPTER, work / "base", work / name, seed], check=True)
    models = [f"{work / 'base'}+{work / name}" for name in ("first", "second")]
    plain = (*models, "-o", work / "out", "--overwrite", "--align", "none", "--t", "0.5")
    record(
        "adapters",
        {
            "what": __doc__.split(":")[0].replace("\n", " "),
            "baseline": "copying the base, 538 MB in float32",
            "copy": shown(best([sys.executable, "-c", COPY, work / "base", work / "copy"]), base),
            "merged": shown(best([PROGRAM, "merge", *plain]), base),
            "merged as an adapter": shown(best([PROGRAM, "merge", *plain, "--as-lora", "exact"], runs=1), base),
            "extracted at an energy of": {str(energy): extracted(energy, work) for energy in (0.9, 0.99, 0.999)},
        },
    )


if __name__ == "__main__":
    if sys.argv[1:]:
        main(Path(sys.argv[1]).absolute())
    else:
        with tempfile.TemporaryDirectory() as folder:
            main(Path(folder))
