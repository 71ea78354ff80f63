"""Recipes of several models' layers, in stages, and of two vocabularies, by isthmus and by mergekit, whole process.

On a GPT-2-like and a Llama-like model of random weights. Only kinds that are named as arguments are measured again; the
other rows stay. The two results are opened by transformers, which must miss no tensor, expect no other and warn of
nothing, and their weights are compared; rows of a vocabulary by the text of tokens.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from bench_merge import MERGEKIT, ROOT, install
from measurement import RESULTS, Cost, measure, record

RUNS = 1
LAYERS, WIDTH, VOCABULARY = 6, 384, 1024
EMBEDDED = ROOT / "lab" / "checkpoints" / "docs"
KINDS = ("passthrough that doubles layers", "layers with those of another place", "two stages", "union of vocabularies")


def models(work: Path) -> None:
    """Three models of both families with the embedded tokenizer; in `d` and `e` with tokens of their own."""
    import torch
    from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

    for family in ("gpt2", "llama"):
        for seed, (name, added) in enumerate({"a": [], "b": [], "c": [], "d": ["<d>"], "e": ["<e>", "<f>"]}.items()):
            facts = {"vocab_size": VOCABULARY + len(added), "bos_token_id": 0, "eos_token_id": 0}
            torch.manual_seed(seed)
            model = (
                GPT2LMHeadModel(GPT2Config(n_layer=LAYERS, n_embd=WIDTH, n_head=6, n_positions=128, **facts))
                if family == "gpt2"
                else LlamaForCausalLM(
                    LlamaConfig(
                        num_hidden_layers=LAYERS,
                        hidden_size=WIDTH,
                        intermediate_size=3 * WIDTH,
                        num_attention_heads=6,
                        num_key_value_heads=3,
                        max_position_embeddings=128,
                        **facts,
                    )
                )
            )
            tokenizer = AutoTokenizer.from_pretrained(EMBEDDED)
            tokenizer.add_tokens(added, special_tokens=True)
            model.save_pretrained(work / family / name)
            tokenizer.save_pretrained(work / family / name)


def recipe(kind: str, place: Path) -> str:
    """A recipe of one kind for the models in a directory."""
    a, b, c, d, e = (place / name for name in "abcde")
    half = LAYERS // 2
    if kind == "passthrough that doubles layers":
        return f"""
merge_method: passthrough
dtype: float32
slices:
- sources: [{{model: {a}, layer_range: [0, {LAYERS}]}}]
- sources: [{{model: {b}, layer_range: [0, {LAYERS}]}}]
  parameters: {{scale: [{{filter: mlp, value: 0.5}}, {{value: 1.0}}]}}
"""
    if kind == "layers with those of another place":
        return f"""
merge_method: linear
dtype: float32
parameters: {{weight: [0.2, 0.8]}}
slices:
- sources: [{{model: {a}, layer_range: [0, {half}]}}, {{model: {b}, layer_range: [{half}, {LAYERS}]}}]
- sources: [{{model: {b}, layer_range: [1, {half}]}}, {{model: {c}, layer_range: [{half}, {LAYERS - 1}]}}]
"""
    if kind == "two stages":
        return f"""
name: mean
merge_method: linear
dtype: float32
models: [{{model: {a}, parameters: {{weight: 0.5}}}}, {{model: {b}, parameters: {{weight: 0.7}}}}]
---
merge_method: ties
base_model: mean
dtype: float32
models:
- {{model: {a}, parameters: {{weight: 0.6, density: 0.5}}}}
- {{model: {c}, parameters: {{weight: 0.4, density: 0.7}}}}
"""
    return f"""
merge_method: linear
dtype: float32
models: [{{model: {d}, parameters: {{weight: 0.6}}}}, {{model: {e}, parameters: {{weight: 0.4}}}}]
tokenizer_source: union
"""


def difference(work: Path) -> dict[str, object]:
    """The largest difference of two results against the largest entry of its tensor, and how many entries differ more.

    Entries are apart where they differ by more than 1e-5 of that: which of several entries of one size TIES keeps is
    arbitrary.
    """
    import warnings

    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    states, vocabularies = [], []
    for name in ("ours", "theirs"):
        with warnings.catch_warnings():
            if name == "ours":
                warnings.simplefilter("error")
            model, info = AutoModelForCausalLM.from_pretrained(work / name, output_loading_info=True)
        if name == "ours" and any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys")):
            raise SystemExit(f"transformers does not load the result of isthmus as it is: {info}")
        states.append(model.state_dict())
        vocabularies.append(AutoTokenizer.from_pretrained(work / name).get_vocab())
    assert states[0].keys() == states[1].keys(), "the two have other tensors"
    assert vocabularies[0].keys() == vocabularies[1].keys(), "the two have other tokens"
    tokens = list(vocabularies[0])
    ids = [torch.tensor([vocabulary[token] for token in tokens]) for vocabulary in vocabularies]
    apart, largest = 0, 0.0
    for name in states[0]:
        ours, theirs = (state[name] for state in states)
        if ours.shape[0] >= VOCABULARY and ours.shape[0] == len(states[0]["lm_head.weight"]):
            ours, theirs = ours[ids[0]], theirs[ids[1]]
        relative = (ours - theirs).abs() / theirs.abs().max().clamp_min(1e-30)
        apart += int((relative > 1e-5).sum())
        largest = max(largest, relative[relative <= 1e-5].max().item())
    return {"largest": largest, "entries_apart": apart, "loads_without_a_warning": True}


def run(work: Path, program: Path, kind: str) -> tuple[Cost, Cost]:
    """isthmus and mergekit on the recipe that lies there, in turns."""
    ours = [sys.executable, "-m", "isthmus", "merge", work / "recipe.yml", "-o", work / "ours"]
    theirs: list[object] = [program, work / "recipe.yml", work / "theirs", "--allow-crimes"]
    if kind == "two stages":
        many = program.with_name("mergekit-multi")
        theirs = [many, work / "recipe.yml", "--out-path", work / "theirs", "-I", work / "between", "--allow-crimes"]
    costs = []
    for _ in range(RUNS):
        for name in ("ours", "theirs", "between"):
            shutil.rmtree(work / name, ignore_errors=True)
        costs.append((measure(ours), measure(theirs)))
    fastest = [Cost(min(c.seconds for c in of_one), max(c.peak for c in of_one)) for of_one in zip(*costs, strict=True)]
    return fastest[0], fastest[1]


def main(wanted: list[str]) -> None:
    program = install()
    rows: dict[str, object] = json.loads((RESULTS / "recipes.json").read_text())["recipes"] if wanted else {}
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        subprocess.run([sys.executable, __file__, "models", work], check=True)
        for kind in wanted or KINDS:
            for family in ("gpt2", "llama"):
                (work / "recipe.yml").write_text(recipe(kind, work / family))
                ours, theirs = run(work, program, kind)
                found = subprocess.run(
                    [sys.executable, __file__, "difference", work], check=True, capture_output=True, text=True
                )
                rows[f"{kind}, {family}"] = {
                    "seconds": {"isthmus": round(ours.seconds, 2), "mergekit": round(theirs.seconds, 2)},
                    "time_ratio": round(ours.seconds / theirs.seconds, 3),
                    "memory_ratio": round(ours.peak / theirs.peak, 3),
                    "difference": json.loads(found.stdout),
                }
                content = {"what": __doc__.split("\n")[0], "baseline": MERGEKIT, "runs": RUNS, "recipes": rows}
                record("recipes", content)


if __name__ == "__main__":
    if sys.argv[1:2] == ["models"]:
        models(Path(sys.argv[2]))
    elif sys.argv[1:2] == ["difference"]:
        print(json.dumps(difference(Path(sys.argv[2]))))
    else:
        main(sys.argv[1:])
