"""A process that runs cases one after the other, and says of each how it ended. Seeds come in as lines, answers go out.

A case that hangs, that takes too much memory or that ends the process is noticed by who started it (`fuzz.watch`).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import resource
import shutil
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from memory import peak, reset_peak

if TYPE_CHECKING:
    from fuzz.cases import Case

MEMORY = 2 * 10**9
CEILING = 6 * 2**30  # of a worker's data: what asks for more gets a MemoryError, and the machine goes on
COMMON = {
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_XET": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "NO_COLOR": "1",
}


def main() -> None:
    """Answer every line of stdin, a seed, by two lines of JSON on what stdout was: what the case is, how it ended."""
    parser = argparse.ArgumentParser()
    parser.add_argument("pristine", type=Path)
    parser.add_argument("scratch", type=Path)
    asked = parser.parse_args()
    answers = os.fdopen(os.dup(1), "w")
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 1)
    from hub_server import HubServer

    hub = HubServer()
    os.environ |= {
        **COMMON,
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(asked.scratch / "hf"),
        "HOME": str(asked.scratch / "home"),
    }
    from fuzz.cases import make_case
    from fuzz.models import build
    from shortened import shorten

    shorten()
    if not asked.pristine.exists():
        asked.pristine.mkdir()
        build(asked.pristine)
    resource.setrlimit(resource.RLIMIT_DATA, (CEILING, CEILING))
    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        folder = asked.scratch / "case"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        hub.reset()
        shutil.rmtree(asked.scratch / "hf", ignore_errors=True)
        case = make_case(int(line), asked.pristine, folder)
        described = {"seed": case.seed, "command": " ".join(case.arguments), "damage": case.damage}
        print(json.dumps(described), file=answers, flush=True)
        print(json.dumps({**described, **run(case, folder, hub)}), file=answers, flush=True)
    os._exit(0)


def run(case: Case, folder: Path, hub: Any) -> dict[str, Any]:
    """Run one case, and look what it left."""
    for word in case.arguments:
        if word.startswith("user/") and (folder / word[5:]).is_dir():
            hub.add(word, folder / word[5:])
    before, home = contents(folder), contents(folder.parent / "home")
    reset_peak()
    began = time.monotonic()
    code, out, err = call(case.arguments, folder)
    answer: dict[str, Any] = {
        "code": code,
        "err": err[-4000:],
        "seconds": round(time.monotonic() - began, 2),
        "peak": peak(),
    }
    answer["defects"] = [*defects(case, code, out, err, answer["peak"]), *left(case, code, folder, before, home)]
    return answer


def call(arguments: tuple[str, ...], folder: Path) -> tuple[int | str, str, str]:
    """The exit code and both streams of the command line, run in this process from `folder`."""
    from isthmus.cli import main

    files = [folder.parent / "stdout", folder.parent / "stderr"]
    saved = [os.dup(1), os.dup(2)]
    for number, file in enumerate(files, start=1):
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(descriptor, number)
        os.close(descriptor)
    sys.argv = ["isthmus", *arguments]
    os.chdir(folder)
    code: int | str = 0
    try:
        if arguments[0] == "load_ensemble":
            code = load(arguments[1])
        else:
            main()
    except SystemExit as ending:
        code = ending.code if isinstance(ending.code, int) else int(ending.code is not None)
    except BaseException as error:
        import traceback

        traceback.print_exc()
        code = f"{type(error).__name__}: {error}"[:300]
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os.chdir(folder.parent)
        for number, descriptor in enumerate(saved, start=1):
            os.dup2(descriptor, number)
            os.close(descriptor)
    return code, *(file.read_text(encoding="utf-8", errors="replace") for file in files)  # type: ignore[return-value]


def load(name: str) -> int:
    """The library's own function, and the exit code of what it raises."""
    from isthmus.checkpoint.errors import IsthmusError
    from isthmus.merge.ensembles import load_ensemble

    try:
        load_ensemble(name)
    except IsthmusError as error:
        print(f"isthmus: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def defects(case: Case, code: int | str, out: str, err: str, peak: int) -> list[str]:
    """What is wrong with how a command ended."""
    found = []
    if isinstance(code, str) or "Traceback" in err:
        found.append("traceback")
    if "something unforeseen" in err:
        found.append("unforeseen")
    if peak > MEMORY or "out of memory" in err:
        found.append("memory")
    if code == 1 and "unforeseen" not in err and "--json" not in case.arguments:
        found.append("exit code 1")
    if code not in (0, 1, 2, 3) and not isinstance(code, str):
        found.append(f"exit code {code}")
    lines = err.rstrip("\n").split("\n")
    if code == 2 and not (lines[-1].startswith("isthmus: ") and ("-q" not in case.arguments or len(lines) == 1)):
        found.append("more than a sentence")
    if code in (0, 3) and case.arguments[-1] == "-" and strict(out) is None:
        found.append("stdout is not JSON")
    return found


def left(case: Case, code: int | str, folder: Path, before: dict[str, str], home: dict[str, str]) -> list[str]:
    """What is wrong with what a command left on the disk."""
    found, after = [], contents(folder)
    outputs = {
        word for place, word in enumerate(case.arguments) if place and case.arguments[place - 1] in ("-o", "--json")
    }
    ours = {str(Path(word)) for word in outputs if word}
    if "path" in ours:  # a training that is gone on with
        ours.add(".path.isthmus-training")
    for name in sorted(before.keys() | after.keys()):
        if before.get(name) != after.get(name) and not any(name == own or name.startswith(own + "/") for own in ours):
            found.append(f"changed outside: {name[:60]!a}")
            break
    if contents(folder.parent / "home") != home:
        found.append("changed the home directory")
    out = folder / "out"
    if code != 0:
        if out.exists() and case.arguments[0] != "path" and "--json" not in case.arguments:
            found.append("an output in spite of an error")
    elif (out / "config.json").exists():
        found += output_defects(out)
    return found


def output_defects(out: Path) -> list[str]:
    """Whether transformers opens what was written, and its weights are finite."""
    import torch
    from safetensors.torch import load_file
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        config = AutoConfig.from_pretrained(out)
        AutoModelForCausalLM.from_pretrained(out, config=config)
    except BaseException as error:
        return [f"the output cannot be opened ({type(error).__name__}: {str(error)[:100]})"]
    for file in out.glob("*.safetensors"):
        for tensor in load_file(file).values():
            if tensor.is_floating_point() and not torch.isfinite(tensor).all():
                return ["the output is not finite"]
    if (out / "isthmus.json").exists() and strict((out / "isthmus.json").read_text()) is None:
        return ["isthmus.json is not JSON"]
    return []


def strict(text: str) -> Any:
    """What a JSON text holds; None where it is none by the letter, as with NaN."""

    def refuse(constant: str) -> None:
        raise ValueError(constant)

    try:
        return json.loads(text, parse_constant=refuse)
    except ValueError:
        return None


def contents(folder: Path) -> dict[str, str]:
    """Every file below a folder with a digest of what it holds."""
    found = {}
    for root, folders, files in os.walk(folder):
        for name in [*folders, *files]:
            path = Path(root, name)
            plain = path.is_file() and not path.is_symlink()
            digest = hashlib.md5(path.read_bytes()).hexdigest() if plain else "other"
            found[str(path.relative_to(folder))] = digest
    return found


if __name__ == "__main__":
    main()
