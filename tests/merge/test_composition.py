"""Models put together of layers and of stages, against a slow version that has every state in memory."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from tiny_models import tiny_rotary
from torch import Tensor
from transformers import AutoModelForCausalLM, GPTNeoConfig, GPTNeoForCausalLM, LlamaForCausalLM, Qwen2ForCausalLM

from isthmus.merge.composition import KEPT, _KeptState

State = dict[str, Tensor]
Row = tuple[str, int, int]  # a model, its first layer, the one after its last


def opened(directory: Path) -> tuple[AutoModelForCausalLM, State]:
    """A model and its tensors by transformers, which must miss none and expect no others."""
    model, info = AutoModelForCausalLM.from_pretrained(directory, output_loading_info=True, dtype=torch.float32)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    return model, dict(model.state_dict())


def split(name: str) -> tuple[str, int | None, str]:
    parts = name.split(".")
    place = next((place for place, part in enumerate(parts) if part.isdigit()), None)
    if place is None:
        return name, None, ""
    return ".".join(parts[:place]), int(parts[place]), ".".join(parts[place + 1 :])


def stacked(states: Mapping[str, State], rows: list[Row]) -> State:
    """Layers of several models on each other, the rest from the first and, after the layers, from the last."""
    result: State = {}
    first, last = states[rows[0][0]], states[rows[-1][0]]
    for name, value in first.items():
        prefix, layer, _ = split(name)
        if layer is None:
            after = prefix.startswith(("transformer.ln_f", "model.norm", "lm_head"))
            result[name] = last[name] if after and not (prefix == "lm_head.weight" and tied(first)) else value
    place = 0
    for model, start, stop in rows:
        for layer in range(start, stop):
            for name, value in states[model].items():
                prefix, own, rest = split(name)
                if own == layer:
                    result[f"{prefix}.{place}.{rest}"] = value
            place += 1
    return result


def tied(state: State) -> bool:
    heads = [value for name, value in state.items() if name == "lm_head.weight"]
    return any(value.data_ptr() == heads[0].data_ptr() for name, value in state.items() if name != "lm_head.weight")


def slices(rows: list[list[Row]], head: str = "merge_method: passthrough\n") -> str:
    text = f"{head}slices:\n"
    for sources in rows:
        text += "- sources:\n"
        text += "".join(f"  - {{model: {model}, layer_range: [{first}, {stop}]}}\n" for model, first, stop in sources)
    return text


def run(isthmus, tmp_path: Path, text: str, *options: object) -> Path:
    (tmp_path / "recipe.yml").write_text(text)
    outcome = isthmus("merge", tmp_path / "recipe.yml", "-o", tmp_path / "out", *options)
    assert outcome.code == 0, outcome.err
    return tmp_path / "out"


def llama(directory: Path, seed: int, **changes: object) -> Path:
    tiny_rotary(LlamaForCausalLM, seed, **changes).save_pretrained(directory)
    return directory


def require_equal(state: State, expected: State) -> None:
    assert state.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(state[name], value, atol=2e-6, rtol=1e-5, msg=lambda m, name=name: f"{name}: {m}")


ORDERS = {
    "doubled": [("a", 0, 3), ("a", 0, 3)],
    "overlapping": [("a", 0, 2), ("b", 1, 4)],
    "in another order": [("b", 2, 3), ("a", 0, 1), ("b", 2, 4)],
    "the last left out": [("a", 0, 2)],
}


@pytest.mark.parametrize("kind", ORDERS)
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_layers_of_models_of_different_depth(kind: str, family: str, saved, isthmus, tmp_path: Path) -> None:
    depths = {"a": 3, "b": 4}
    places = {
        name: saved(name, seed, n_layer=depth)
        if family == "gpt2"
        else llama(tmp_path / name, seed, num_hidden_layers=depth)
        for seed, (name, depth) in enumerate(depths.items())
    }
    rows = ORDERS[kind]
    text = slices([[(str(places[model]), first, stop)] for model, first, stop in rows])
    model, state = opened(run(isthmus, tmp_path, text))
    expected = stacked({name: opened(place)[1] for name, place in places.items()}, rows)
    require_equal(state, expected)
    assert model.config.num_hidden_layers == sum(stop - first for _, first, stop in rows)


def test_the_kinds_of_layers_follow_them(isthmus, tmp_path: Path) -> None:
    facts = {"num_hidden_layers": 4, "use_sliding_window": True, "sliding_window": 4, "max_window_layers": 2}
    tiny_rotary(Qwen2ForCausalLM, 0, **facts).save_pretrained(tmp_path / "qwen")
    config = tmp_path / "qwen" / "config.json"
    content = json.loads(config.read_text())
    kinds = content.pop("layer_types")  # as in files of before: transformers fills it in by the place of a layer
    config.write_text(json.dumps(content))
    assert len(set(kinds)) == 2
    text = slices([[("qwen", 2, 4)], [("qwen", 0, 3)]]).replace("qwen", str(tmp_path / "qwen"))
    model, _ = opened(run(isthmus, tmp_path, text))
    assert model.config.layer_types == [*kinds[2:], *kinds[:3]]


def test_local_attention_of_gpt_neo_follows_its_layers(isthmus, tmp_path: Path) -> None:
    facts = {"vocab_size": 128, "hidden_size": 32, "num_layers": 4, "num_heads": 4, "max_position_embeddings": 32}
    config = GPTNeoConfig(**facts, attention_types=[[["global", "local"], 2]], bos_token_id=0, eos_token_id=0)
    torch.manual_seed(0)
    GPTNeoForCausalLM(config).save_pretrained(tmp_path / "neo")
    text = slices([[("neo", 1, 4)], [("neo", 1, 2)]]).replace("neo", str(tmp_path / "neo"))
    model, _ = opened(run(isthmus, tmp_path, text))
    assert model.config.attention_layers == ["local", "global", "local", "local"]
    with torch.no_grad():
        model(torch.arange(8)[None])


def test_a_scale_by_filter_silences_what_an_added_layer_writes(saved, isthmus, tmp_path: Path) -> None:
    place = saved("a", 0, n_layer=3)
    text = slices([[(str(place), 0, 3)], [(str(place), 2, 3)]])
    text += "  parameters:\n    scale:\n    - {filter: c_proj, value: 0.0}\n    - 1.0\n"
    model, state = opened(run(isthmus, tmp_path, text))
    assert not state["transformer.h.3.mlp.c_proj.weight"].any()
    assert state["transformer.h.2.mlp.c_proj.weight"].any()
    original, _ = opened(place)
    ids = torch.arange(20)[None]
    with torch.no_grad():
        assert torch.allclose(model(ids).logits, original(ids).logits, atol=1e-4), "and the function is the same"


def moved(value: Callable[..., Tensor], states: list[State], firsts: list[int], count: int) -> State:
    """Layer k of the result from layer first + k of every state."""
    result = {}
    for name in states[0]:
        prefix, layer, rest = split(name)
        if layer is None:
            result[name] = value(*(state[name] for state in states))
    names = [name for name in states[0] if split(name)[1] == firsts[0]]
    for name in names:
        prefix, _, rest = split(name)
        for k in range(count):
            own = [state[f"{prefix}.{first + k}.{rest}"] for state, first in zip(states, firsts, strict=True)]
            result[f"{prefix}.{k}.{rest}"] = value(*own)
    return result


OPERATORS: dict[str, tuple[str, Callable[..., Tensor]]] = {
    "linear": ("parameters: {weight: 0.5}\n", lambda base, a: (base + a) / 2),
    "task_arithmetic": ("parameters: {weight: 0.3}\n", lambda base, a: base + 0.3 * (a - base)),
    "ties": ("parameters: {weight: 0.7, density: 1.0}\n", lambda base, a: base + (a - base)),
}


@pytest.mark.parametrize("name", OPERATORS)
def test_layers_of_one_place_with_those_of_another(name: str, saved, isthmus, tmp_path: Path) -> None:
    base, other = saved("base", 0, n_layer=4), saved("other", 1, n_layer=3)
    parameters, value = OPERATORS[name]
    head = f"merge_method: {name}\nbase_model: {base}\n{parameters}"
    text = slices([[(str(base), 2, 4), (str(other), 0, 2)]], head)
    _, state = opened(run(isthmus, tmp_path, text))
    states = [opened(base)[1], opened(other)[1]]
    require_equal(state, moved(value, states, [2, 0], 2))


def test_stages_are_merged_before_what_names_them(saved, isthmus, tmp_path: Path) -> None:
    base, a, b, c = (saved(name, seed) for seed, name in enumerate(("base", "a", "b", "c")))
    text = f"""
merge_method: task_arithmetic
base_model: mean
models: [{{model: {c}}}, {{model: near}}]
parameters: {{weight: 0.4}}
---
name: near
merge_method: task_arithmetic
base_model: {base}
models: [{{model: mean}}]
parameters: {{weight: 0.25}}
---
name: mean
merge_method: linear
models: [{{model: {a}}}, {{model: {b}}}]
parameters: {{weight: 1}}
"""
    out = run(isthmus, tmp_path, text, "--seed", "3")
    _, state = opened(out)
    states = {name: opened(place)[1] for name, place in (("base", base), ("a", a), ("b", b), ("c", c))}
    expected = {}
    for name in state:
        mean = (states["a"][name] + states["b"][name]) / 2
        near = states["base"][name] + 0.25 * (mean - states["base"][name])
        expected[name] = mean + 0.4 * (states["c"][name] - mean) + 0.4 * (near - mean)
    require_equal(state, expected)
    report = json.loads((out / "isthmus.json").read_text())
    assert [stage["stage"] for stage in report["method"]["stages"]] == ["mean", "near"]
    assert {end["ref"] for end in report["endpoints"]} == {"base", "a", "b", "c"}
    again = report["reproduce"].split("<<'END'\n")[1].split("END\n")[0]
    assert again.count("---") == 2
    assert "merged in stages: mean by linear of" in (out / "README.md").read_text()


def test_a_tensor_of_a_stage_is_kept_for_a_second_pass_and_not_for_ever() -> None:
    counts: dict[str, int] = {}

    class Counting(dict[str, Tensor]):
        def __getitem__(self, name: str) -> Tensor:
            counts[name] = counts.get(name, 0) + 1
            return super().__getitem__(name)

    names = [f"t{place}" for place in range(KEPT + 2)]
    state = _KeptState(Counting({name: torch.ones(3, 2) for name in names}))
    for name in names:
        assert torch.equal(state[name], state[name])
    assert set(counts.values()) == {1}
    assert state[names[0]].sum() == 6
    assert counts[names[0]] == 2


def test_the_merge_is_measured_beside_the_models_that_take_part(saved, isthmus, tmp_path: Path) -> None:
    a, b = saved("a", 0, tokenizer=True, vocab_size=1024), saved("b", 1, tokenizer=True, vocab_size=1024, n_layer=3)
    text = slices([[(str(a), 0, 2)], [(str(b), 1, 3)]])
    out = run(isthmus, tmp_path, text, "--data", "stdlib:docs:heldout", "--tokens", "256")
    report = json.loads((out / "isthmus.json").read_text())
    assert set(report["baselines"]) == {"ensemble"}
    assert (report["spectrum"], report["barrier_before_alignment"]) == (None, None)
    assert report["method"]["segments"][1]["sources"] == [["B", 1]]
    opened(out)
    assert report["merge_point"]["loss"] > 0
    card = (out / "README.md").read_text()
    assert "its 4 layers are 0 to 1 of A; then 1 to 2 of B" in card
    assert "naive average" not in card
    assert (out / "report.html").exists()


REFUSED = {
    "an alignment": (("--align", "orthogonal"), "--align orthogonal is for models as they are"),
    "a search": (("--search", "--data", "stdlib:docs"), "--search coordinate is for models as they are"),
    "memory": (("--max-memory", "1GB", "--data", "stdlib:docs"), "--max-memory is for models as they are"),
    "an adapter": (("--as-lora", "4"), "--as-lora is for models as they are"),
    "a spectrum": (("--spectrum", "--data", "stdlib:docs"), "layers move here"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_options_for_models_as_they_are(kind: str, saved, isthmus, tmp_path: Path) -> None:
    place = saved("a", 0)
    (tmp_path / "recipe.yml").write_text(slices([[(str(place), 0, 2)], [(str(place), 0, 2)]]))
    options, message = REFUSED[kind]
    outcome = isthmus("merge", tmp_path / "recipe.yml", "-o", tmp_path / "out", *options)
    assert outcome.code == 2
    assert message in outcome.error
    assert outcome.error.count("\n") == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, "'recipe.yml', line 5: layer_range [1, 3] of 'DIR/b' ends beyond the last of its 2 layers"),
        ({"n_embd": 16, "n_layer": 3}, "the width differs: 32 in 'a', 16 in 'b'"),
        ({"n_inner": 48, "n_layer": 3}, "differs: 64 in 'a', 48 in 'b'"),
    ],
)
def test_models_that_do_not_fit(changes: dict[str, int], message: str, saved, isthmus, tmp_path: Path) -> None:
    a, b = saved("a", 0), saved("b", 1, **changes)
    (tmp_path / "recipe.yml").write_text(slices([[(str(a), 0, 2)], [(str(b), 1, 3)]]))
    outcome = isthmus("merge", tmp_path / "recipe.yml", "-o", tmp_path / "out")
    assert outcome.code != 0
    assert message.replace("DIR", str(tmp_path)) in outcome.err
    assert not (tmp_path / "out").exists()
