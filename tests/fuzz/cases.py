"""One case: a seed says what is damaged, in which models, and which command reads it then."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from random import Random

from fuzz.models import FORMS
from fuzz.mutations import change

from isthmus.checkpoint.manifest import sealed

MODEL_FILES = (
    "config.json", "config.json", "config.json", "generation_config.json", "tokenizer.json", "tokenizer.json",
    "tokenizer_config.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json",
    "merges.txt", "chat_template.jinja", "model.safetensors", "model.safetensors", "model.safetensors.index.json",
    "pytorch_model.bin", "pytorch_model.bin", "README.md", "recipe.json", "trainer_state.json", "training_args.bin",
    "optimizer.pt", "isthmus.json", "model-00001-of",
)  # fmt: skip
ON_MODELS = (
    "check {a} {b}",
    "check {a} {b}",
    "check {a} {b} --json -",
    "check {a} {b} {a}",
    "merge {a} {b} -o out --align none --t 0.5",
    "merge {a} {b} -o out --align none --t 0.5 --dtype {dtype}",
    "merge {a} {b} -o out --align none --t 0.5 --json -",
    "merge {a} {b} -o out --align none --data text.txt --tokens 32",
    "merge {a} {b} -o out --align {align} --data text.txt --tokens 32 --t 0.3",
    "merge {a} {b} -o out --method {method} --base {a}",
    "merge {a} {b} -o out --method {plain}",
    "merge {a} {b} -o out --method linear --weight 0.3 --weight 0.7 --data text.txt --tokens 32",
    "align {a} {b} -o out --method {align}",
    "spectrum {a} {b} --json -",
    "ensemble {a} {b} --data text.txt --tokens 32 --align none -o out",
)  # fmt: skip
TRAINING = ".path.isthmus-training"
ON_OUTPUTS = {
    "merged": ("push merged user/new --dry-run", "push merged user/new --dry-run --edited-card --json -",
    "check merged a",
               "merge merged a -o out --align none --t 0.5"),
    "path": ("merge a b -o out --path path --data text.txt --tokens 32 --align none", "check path a",
             "ensemble a b --path path --at 0.5 --data text.txt --tokens 32 --align none"),
    "together": ("load_ensemble together",),
    TRAINING: ("path a b -o path --overwrite --align none --data text.txt --tokens 32 --steps 1 --batch 1",),
}  # fmt: skip
ON_TEXTS = (
    "merge a b -o out --align none --data {data} --tokens 32",
    "ensemble a b --align none --data {data} --tokens 32",
    "path a b -o out --align none --data {data} --tokens 32 --steps 1 --batch 1",
)
ON_RECIPES = ("merge {recipe} -o out", "merge {recipe} -o out --json -")
NAMES = (b"\xff\xfe", b"a\nb", b"x" * 255, b"config.json\n", b"-rf", b"\x1b[31m", b" ", b"[red]x", b"'\"",
"é\u202e".encode(),
         b"model.safetensors.index.json", b"pytorch_model.bin.index.json", b"a\\b", b"{{x}}",
         b"\xed\xa0\x80")  # fmt: skip


@dataclass(frozen=True)
class Case:
    """What a seed stands for: the arguments of the command line, and what was damaged, in words."""

    seed: int
    arguments: tuple[str, ...]
    damage: str


def make_case(seed: int, pristine: Path, folder: Path) -> Case:
    """Lay out the case of a seed in `folder`, an empty directory."""
    random = Random(seed)
    shutil.copytree(pristine, folder, dirs_exist_ok=True, symlinks=True)
    area = random.choices(["models", "outputs", "texts", "recipes", "names", "targets"], [66, 14, 6, 6, 6, 2])[0]
    if area == "models":
        return _damaged_models(seed, random, folder)
    if area == "outputs":
        name = random.choice(list(ON_OUTPUTS))
        files = sorted(path for path in (folder / name).rglob("*") if path.is_file() and path.suffix != ".html")
        file = random.choice(files)
        damage = f"{name}/{file.name}: {change(file, random)}"
        if name == "merged" and random.random() < 0.6 and _sealed_again(folder / name):
            damage += ", and sealed again"
        return Case(seed, tuple(random.choice(ON_OUTPUTS[name]).split()), damage)
    if area == "texts":
        file = random.choice(["text.txt", "text.jsonl", "texts/0.txt"])
        damage = f"{file}: {change(folder / file, random)}"
        return Case(seed, tuple(random.choice(ON_TEXTS).format(data=file.partition("/")[0]).split()), damage)
    if area == "recipes":
        file = random.choice(["ties.yml", "slices.yml"])
        damage = f"{file}: {change(folder / file, random)}"
        return Case(seed, tuple(random.choice(ON_RECIPES).format(recipe=file).split()), damage)
    if area == "names":
        return _odd_names(seed, random, folder)
    target = random.choice(
        ["missing/x.json", "a", "/dev/full", "x" * 300, "a\udcffb.json", "a\nb.json", "", "[red].json"]
    )
    command = random.choice(["check a b", "spectrum a b", "merge a b -o out --align none --t 0.5"])
    return Case(seed, (*command.split(), "--json", target), f"--json {target[:20]!r}")


def _sealed_again(directory: Path) -> bool:
    """Write the hashes of the files as they are now into a report that can be read, as whoever changed them could."""
    report = directory / "isthmus.json"
    if any(path.is_fifo() for path in directory.rglob("*")):
        return False
    try:
        content = json.loads(report.read_bytes())
        report.write_text(json.dumps(sealed(content, directory), ensure_ascii=False), encoding="utf-8")
    except (OSError, ValueError, AttributeError, RecursionError):
        return False
    return True


def _damaged_models(seed: int, random: Random, folder: Path) -> Case:
    form = random.choices(FORMS, [6, 2, 3, 2, 1])[0]
    a, b = ("a", "b") if form == "plain" else (f"{form}-a", f"{form}-b")
    sides = random.choice([(b,), (b,), (a,), (a, b)])
    files = [
        name
        for wanted in MODEL_FILES
        for name in sorted(path.name for path in (folder / b).iterdir())
        if name.startswith(wanted)
    ]
    said = []
    for file in random.sample(files, random.choice([1, 1, 1, 1, 2])):
        where = random.getrandbits(32)
        for side in sides:  # both models alike
            if (folder / side / file).is_file():
                said.append(f"{side}/{file}: {change(folder / side / file, Random(where))}")
    command = random.choice(ON_MODELS).format(
        a=a,
        b=b,
        dtype=random.choice(["float16", "bfloat16"]),
        align=random.choice(["orthogonal", "permutation"]),
        method=random.choice(["task_arithmetic", "ties", "dare_ties", "model_stock"]),
        plain=random.choice(["linear", "slerp", "karcher"]),
    )
    if "ensemble" not in command and random.random() < 0.5:
        command += " -q"
    arguments = tuple(command.split())
    if random.random() < 0.12 and "a" in arguments:  # over the network
        arguments = tuple(f"user/{word}" if word in (a, b) else word for word in arguments)
    return Case(seed, arguments, "; ".join(said))


def _odd_names(seed: int, random: Random, folder: Path) -> Case:
    name = random.choice(NAMES)
    written = os.fsdecode(name)
    kind = random.choice(
        ["a file beside", "the model", "the output", "the text", "a text inside", "a long path", "a label"]
    )
    command = ["merge", "a", "b", "-o", "out", "--align", "none", "--t", "0.5"]
    if kind == "a file beside":
        with contextlib.suppress(OSError):
            (folder / "b" / written).write_bytes(b"{}")
        command = random.choice([command, ["check", "a", "b"], ["push", "merged", "user/new", "--dry-run"]])
        if command[0] == "push":
            (folder / "merged" / written).write_bytes(b"{}")
    elif kind == "the model":
        (folder / "b").rename(folder / written)
        command = [
            "./" + written if word == "b" else word
            for word in random.choice([command, ["check", "a", "b"], ["spectrum", "b"]])
        ]
    elif kind == "the output":
        command[4] = "./" + written
    elif kind in ("the text", "a text inside"):
        place = folder / "texts" if kind == "a text inside" else folder
        (folder / "text.txt").rename(place / written)
        text = "texts" if kind == "a text inside" else "./" + written
        command = ["merge", "a", "b", "-o", "out", "--align", "none", "--data", text, "--tokens", "32"]
    elif kind == "a long path":
        long = random.choice(
            ["x" * 300, "./" + "x" * 300, "/".join(["x" * 200] * 30), "é" * 200, "./a\udcff" + "x" * 300]
        )
        place = random.choice([2, 4])
        command[place] = long
        written = long[:20]
        if random.random() < 0.3:
            command = ["merge", "a", "b", "-o", "out", "--align", "none", "--data", long, "--tokens", "32"]
    else:
        command = ["merge", "a", "b", "-o", "out", "--align", "none", "--data", f"{written}=text.txt", "--tokens", "32"]
    return Case(seed, tuple(command), f"{kind} is called {written[:40]!r}")
