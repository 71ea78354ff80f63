"""A plain average of two GPT-2 small, whole process; the baseline is mergekit's linear merge.

mergekit is installed into a virtual environment of its own, with the same torch and transformers.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from measurement import best, record

MERGEKIT = "mergekit==0.1.5"
ROOT = Path(__file__).parents[1]
VENV = ROOT / ".build" / "mergekit"


def install() -> Path:
    """mergekit-yaml, installed when it is not there yet."""
    program = VENV / "bin" / "mergekit-yaml"
    if not program.exists():
        subprocess.run([sys.executable, "-m", "venv", VENV], check=True)
        pins = [
            line for line in (ROOT / "constraints.txt").read_text().split() if line.startswith(("torch=", "transf"))
        ]
        subprocess.run([VENV / "bin" / "pip", "install", "--quiet", *pins, MERGEKIT], check=True)
    return program


def main() -> None:
    program = install()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        # In a process of its own: the peak of a child counts what its parent holds when it is started.
        subprocess.run([sys.executable, Path(__file__).with_name("gpt2_small.py"), work / "a", work / "b"], check=True)
        models = "".join(f"  - model: {work / name}\n    parameters: {{weight: 0.5}}\n" for name in "ab")
        (work / "recipe.yml").write_text(f"merge_method: linear\ndtype: float32\nmodels:\n{models}")
        mergekit = best([program, work / "recipe.yml", work / "theirs", "--allow-crimes"])
        merge = ["merge", work / "a", work / "b", "-o", work / "ours", "--align", "none", "--t", "0.5", "--overwrite"]
        isthmus = best([Path(sys.executable).parent / "isthmus", *merge])
        from safetensors.torch import load_file

        ours, theirs = (load_file(work / name / "model.safetensors") for name in ("ours", "theirs"))
        worst = max((ours[name] - theirs[name]).abs().max().item() for name in ours)
        assert worst < 1e-6, "the two disagree"
    record(
        "merge",
        {
            "what": "plain average of two GPT-2 small, whole process, best of 3",
            "baseline": MERGEKIT,
            "seconds": {"isthmus": round(isthmus.seconds, 2), "mergekit": round(mergekit.seconds, 2)},
            "peak_GB": {"isthmus": round(isthmus.peak / 1e9, 2), "mergekit": round(mergekit.peak / 1e9, 2)},
            "time_ratio": round(isthmus.seconds / mergekit.seconds, 3),
            "memory_ratio": round(isthmus.peak / mergekit.peak, 3),
            "largest_difference": worst,
        },
    )


if __name__ == "__main__":
    main()
