"""Orthogonal alignment of two independent GPT-2 small in all spaces, whole process, in memory and streamed.

The baseline is measuring the loss of one GPT-2 small on 8,192 tokens, in the same run.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from measurement import measure, record

SCRIPT = "import sys, isthmus; isthmus.align_models(sys.argv[1], sys.argv[2])"
LOSS = """
import sys, torch, isthmus
from isthmus.eval.loss import LossMeter
model = isthmus.load(sys.argv[1])
ids = torch.randint(50257, (8, 1024), generator=torch.Generator().manual_seed(0))
LossMeter(model.config, {"x": ids})(dict(model.state))
"""


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        subprocess.run([sys.executable, Path(__file__).with_name("gpt2_small.py"), work / "a", work / "b"], check=True)
        loss = measure([sys.executable, "-c", LOSS, work / "a"])
        aligned = measure([sys.executable, "-c", SCRIPT, work / "a", work / "b"])
        command = [Path(sys.executable).parent / "isthmus", "align", work / "a", work / "b", "-o", work / "moved"]
        streamed = measure([*command, "--stream"])
    record(
        "align",
        {
            "what": "orthogonal alignment of two random GPT-2 small to convergence, verified, whole process",
            "baseline": "the loss of one GPT-2 small on 8,192 tokens, whole process",
            "streamed": "the same by `isthmus align --stream`, which also saves the moved model",
            "seconds": {
                "align": round(aligned.seconds, 1),
                "streamed": round(streamed.seconds, 1),
                "loss": round(loss.seconds, 1),
            },
            "peak_GB": {
                "align": round(aligned.peak / 1e9, 2),
                "streamed": round(streamed.peak / 1e9, 2),
                "loss": round(loss.peak / 1e9, 2),
            },
            "time_ratio": round(aligned.seconds / loss.seconds, 2),
        },
    )


if __name__ == "__main__":
    main()
