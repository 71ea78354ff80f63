"""Any number of models merged by operators: from disk and in memory, with text and without, by options and recipes."""

from __future__ import annotations

import json
import math
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import files_loss
import pytest
import torch
from conftest import EMBEDDED
from merging import combine
from safetensors.torch import load_file

from isthmus.checkpoint import tensor_inventory
from isthmus.checkpoint.card import render_card
from isthmus.checkpoint.errors import BadInput, GateRefused, IncompatibleModels, UnsupportedFamily
from isthmus.checkpoint.lazy_state import LazyState
from isthmus.eval.sentences import sentences
from isthmus.eval.summary import loss_table
from isthmus.merge.operators import combined
from isthmus.merge.plans import Gates
from isthmus.merge.recipes.mergekit import read_recipe
from isthmus.merge.recipes.recipe import recipe

BASE, DOCS, CODE, OTHER, MUON = (str(EMBEDDED / name) for name in ("adamw-1", "docs", "code", "adamw-2", "muon-1"))
TEXT = ("stdlib:docs:heldout", "code=stdlib:code:heldout")
QUICK = {"data": TEXT, "tokens": 1024}
QUICKER = {"data": TEXT[:1], "tokens": 256}


def weights(directory: Path) -> dict[str, torch.Tensor]:
    return load_file(directory / "model.safetensors")


def test_from_disk_to_disk_and_in_memory_are_the_same(tmp_path: Path) -> None:
    plan = recipe("ties", [DOCS, CODE], base=BASE, weights=[[0.6], [0.8, 0.4]], densities=[[0.5]])
    combine(plan, dtype="float32").save(tmp_path / "streamed")
    combine(plan, dtype="float32", measure_spectrum=True).save(tmp_path / "measured")
    streamed, measured = weights(tmp_path / "streamed"), weights(tmp_path / "measured")
    assert all(torch.equal(streamed[name], measured[name]) for name in streamed)
    base, docs = (
        load_file(Path(place) / "model.safetensors")["transformer.wte.weight"].float() for place in (BASE, DOCS)
    )
    assert not torch.equal(streamed["transformer.wte.weight"], base)
    assert not torch.equal(streamed["transformer.wte.weight"], docs)
    report = json.loads((tmp_path / "streamed" / "isthmus.json").read_text())
    assert [end["ref"] for end in report["endpoints"]] == ["docs", "code"]
    assert report["base"]["ref"] == "adamw-1"
    assert report["spectrum"] is None
    assert json.loads((tmp_path / "measured" / "isthmus.json").read_text())["spectrum"]["verdict"] == "preserved"


def test_a_tensor_is_read_once_unless_it_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where an operator goes through a tensor twice; what comes out is the same."""
    passes: Counter[str] = Counter()

    class Counted(LazyState):
        def blocks(self, name: str) -> Iterator[torch.Tensor]:
            passes[name] += 1
            return super().blocks(name)

    monkeypatch.setattr(tensor_inventory, "LazyState", Counted)
    merged = combine(recipe("model_stock", [DOCS, CODE], base=BASE)).state
    name, vector = "transformer.wte.weight", "transformer.ln_f.weight"
    kept = [merged[name], merged[vector]]
    assert passes == {name: 3, vector: 3}
    monkeypatch.setattr(combined, "WORTH_KEEPING", 1024)
    again = [merged[name], merged[vector]]
    assert passes == {name: 3 + 6, vector: 3 + 3}
    assert all(torch.equal(one, other) for one, other in zip(kept, again, strict=True))


def test_three_fine_tunes_of_one_base(tmp_path: Path) -> None:
    """What is reported is what the saved model loses, and the merge of a base and two is better than the base."""
    merged = combine(recipe("task_arithmetic", [DOCS, CODE], base=BASE, weights=[[0.5]]), align="auto", **QUICK)
    report = merged.report
    assert report["alignment"]["tried"].keys() == {"none"}, "their plain average is no worse than they are"
    point, baselines = report["merge_point"], report["baselines"]
    assert point["loss"] < baselines["base"]["loss"]
    assert point["loss"] == pytest.approx(baselines["naive_average"]["loss"], abs=1e-4), "half of each is their average"
    assert point["excess"] == pytest.approx(baselines["naive_average"]["excess"], abs=1e-4)
    ends = [end["loss"] for end in report["endpoints"]]
    assert point["excess"] == pytest.approx(
        sum(point["losses"][label] - (ends[0][label] + ends[1][label]) / 2 for label in ("docs", "code")) / 2, abs=1e-6
    )
    assert point["gain"] == pytest.approx(min(sum(end.values()) / 2 for end in ends) - point["loss"], abs=1e-6)
    merged.save(tmp_path / "out")
    columns, rows = loss_table(report)
    assert columns == ("docs", "code", "mean")
    assert [row.model for row in rows] == [
        "A: docs",
        "B: code",
        "base: adamw-1",
        "naive average",
        "merge by task_arithmetic",
        "ensemble of A and B",
    ]
    card = (tmp_path / "out" / "README.md").read_text()
    assert "by task_arithmetic on top of **adamw-1**" in card
    assert report["reproduce"] == (
        "isthmus merge ./docs ./code --method task_arithmetic --base ./adamw-1 --weight 0.5 --weight 0.5 -o merged "
        "--data stdlib:docs:heldout --data stdlib:code:heldout --tokens 1024"
    )
    assert "`./docs`, `./code` and `./adamw-1` are on the disk" in card
    assert (tmp_path / "out" / "report.html").read_text().count("<h2>") >= 2


def test_independent_models_are_aligned_to_each_other(tmp_path: Path) -> None:
    merged = combine(recipe("linear", [BASE, OTHER, MUON]), align="orthogonal", **QUICKER)
    report = merged.report
    assert report["alignment"]["method"] == "orthogonal"
    assert report["merge_point"]["excess"] < 0.5 * report["baselines"]["naive_average"]["excess"]
    assert report["merge_point"]["loss"] == pytest.approx(report["baselines"]["average"]["loss"], abs=2e-3)
    assert report["spectrum"]["position"] is None
    assert len(report["spectrum"]["matrices"][0]["stable_rank"]) == 4
    assert "3 models merged by linear" in sentences(report)[0]
    card = render_card(report, "x", loss_table(report), sentences(report))
    assert "**adamw-1** (A), **adamw-2** (B) and **muon-1** (C)" in card
    assert "after orthogonal alignment to each other" in card
    merged.save(tmp_path / "out")
    from transformers import AutoModelForCausalLM

    model, problems = AutoModelForCausalLM.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not problems["missing_keys"]
    assert not problems["unexpected_keys"]
    assert model.config.tie_word_embeddings is False


@pytest.mark.parametrize("method", ["fisher", "regmean"])
def test_operators_that_look_at_text(method: str) -> None:
    report = combine(recipe(method, [DOCS, CODE]), **QUICK).report
    assert report["merge_point"]["excess"] < 0
    assert all(part["fit_tokens"] > 0 for part in report["data"])


def test_a_greedy_soup_leaves_out_a_stranger() -> None:
    """Without alignment, a model of another seed only does harm."""
    report = combine(recipe("linear", [BASE, DOCS, OTHER]), soup="greedy", data=TEXT[:1], tokens=1024).report
    assert report["soup"]["weights"][2] == 0
    assert report["soup"]["select_loss"] < report["soup"]["select_loss_uniform"]
    assert report["merge_point"]["loss"] < report["baselines"]["naive_average"]["loss"] - 1
    assert "C 0 (select loss" in sentences(report)[1]


def test_searched_weights_are_no_worse_than_equal_ones_on_the_text_they_were_chosen_on() -> None:
    report = combine(recipe("ties", [DOCS, CODE], base=BASE, densities=[[0.5]]), soup="search", **QUICK).report
    assert report["soup"]["select_loss"] <= report["soup"]["select_loss_uniform"]
    assert report["reproduce"].count("--search") == 1


def test_a_recipe_with_filters_is_repeated_as_a_recipe(tmp_path: Path) -> None:
    file = tmp_path / "r.yml"
    file.write_text(
        f"merge_method: slerp\nbase_model: {DOCS}\nmodels: [{{model: {DOCS}}}, {{model: {CODE}}}]\ndtype: float32\n"
        "parameters:\n  t:\n  - {filter: attn, value: [0, 1]}\n  - {value: 0.25}\n"
    )
    found = read_recipe(file)
    merged = combine(found)
    assert merged.dtype == torch.float32
    command = merged.report["reproduce"]
    assert command.startswith("cat > recipe.yml <<'END'\nmerge_method: slerp\nbase_model: ./docs\n")
    text = command.split("<<'END'\n")[1].split("END\n")[0]
    file.write_text(text.replace("./docs", DOCS).replace("./code", CODE))
    again = read_recipe(file)
    names = list(merged.state)
    assert again.values(names) == found.values(names)
    assert again.ingredients == found.ingredients


def test_gates_refuse_and_save_nothing() -> None:
    plan = recipe("linear", [DOCS, CODE, OTHER])
    with pytest.raises(GateRefused, match="above --max-barrier"):
        combine(plan, gates=Gates(max_barrier=0.5), **QUICK)
    with pytest.raises(GateRefused, match="worse than the better endpoint"):
        combine(plan, gates=Gates(require_gain=True), **QUICK)
    with pytest.raises(GateRefused, match="spectrum is contracted"):
        combine(plan, gates=Gates(require_spectrum=True))


@pytest.mark.parametrize(
    ("method", "options", "said"),
    [
        ("linear", {"align": "auto"}, "add --data"),
        ("linear", {"align": "combined"}, "add --data"),
        ("fisher", {}, "add --data"),
        ("linear", {"soup": "greedy"}, "add --data"),
        ("karcher", {"soup": "search", **QUICK}, "no weights to choose"),
        ("linear", {"gates": Gates(require_gain=True)}, "need a loss"),
    ],
)
def test_what_makes_no_sense(method: str, options: dict[str, object], said: str) -> None:
    with pytest.raises(BadInput, match=said):
        combine(recipe(method, [DOCS, CODE]), **options)


def test_models_that_do_not_fit(saved) -> None:
    good, wide = saved("good"), saved("wide", n_embd=64)
    with pytest.raises(IncompatibleModels, match="wide"):
        combine(recipe("linear", [str(good), str(good), str(wide)]))


def test_vocabularies_that_grew_are_for_two(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(CODE)
    tokenizer.add_tokens(["<|user|>"])
    model = AutoModelForCausalLM.from_pretrained(CODE)
    model.resize_token_embeddings(1025, mean_resizing=False)
    model.save_pretrained(tmp_path / "grown")
    tokenizer.save_pretrained(tmp_path / "grown")
    with pytest.raises(
        IncompatibleModels, match="'docs' and 'grown' share 1024 rows of the vocabulary, and one has more"
    ):
        combine(recipe("linear", [DOCS, str(tmp_path / "grown")]))


def test_one_model_is_what_it_is() -> None:
    report = combine(recipe("linear", [DOCS]), align="orthogonal", **QUICKER).report
    assert report["merge_point"]["excess"] == pytest.approx(0, abs=1e-6)
    assert report["alignment"]["method"] == "none"


def test_models_that_stay_on_disk_are_measured_to_the_same_numbers(tmp_path: Path) -> None:
    plan = recipe("task_arithmetic", [DOCS, CODE], base=BASE, weights=[[0.7]])
    memory = combine(plan, **QUICK).report
    merged = combine(plan, max_memory="1MB", **QUICK)
    disk = merged.report
    assert disk["merge_point"].keys() == memory["merge_point"].keys()
    assert disk["baselines"].keys() == memory["baselines"].keys()
    assert disk["merge_point"]["loss"] == pytest.approx(memory["merge_point"]["loss"], abs=1e-5)
    assert disk["baselines"]["ensemble"]["loss"] == pytest.approx(memory["baselines"]["ensemble"]["loss"], abs=1e-5)
    assert disk["baselines"]["naive_average"]["loss"] == pytest.approx(
        memory["baselines"]["naive_average"]["loss"], abs=2e-3
    ), "which is measured as it is saved, in float16"
    assert disk["spectrum"] is None
    assert disk["reproduce"].endswith("--max-memory 1MB")
    merged.save(tmp_path / "out")
    combine(plan).save(tmp_path / "streamed")
    assert all(torch.equal(x, weights(tmp_path / "out")[n]) for n, x in weights(tmp_path / "streamed").items())


@pytest.mark.parametrize("method", ["permutation", "orthogonal"])
def test_models_that_stay_on_disk_are_aligned_there(tmp_path: Path, method: str) -> None:
    """Three of them; with text and without, the same weights as in memory."""
    three = recipe("linear", [BASE, OTHER, MUON])
    memory, disk = combine(three, align=method, **QUICK), combine(three, align=method, max_memory="1MB", **QUICK)
    blind = combine(three, align=method, max_memory="1MB")
    for name, merge in (("memory", memory), ("disk", disk), ("blind", blind)):
        merge.save(tmp_path / name)
    for name in ("disk", "blind"):
        others = weights(tmp_path / name)
        assert all(torch.allclose(x, others[n], atol=2e-3) for n, x in weights(tmp_path / "memory").items())
    for key in ("merge_point", "baselines"):
        assert disk.report[key].keys() == memory.report[key].keys()
    assert disk.report["merge_point"]["loss"] == pytest.approx(memory.report["merge_point"]["loss"], abs=1e-3)
    average, naive = (disk.report["baselines"][name]["loss"] for name in ("average", "naive_average"))
    assert average == pytest.approx(memory.report["baselines"]["average"]["loss"], abs=2e-3)
    assert average < naive - 0.3
    assert disk.report["alignment"]["method"] == blind.report["alignment"]["method"] == method
    assert disk.report["alignment"]["max_log_prob_error"] < 1e-4


@pytest.mark.parametrize(
    "options",
    [{"align": "combined"}, {"soup": "greedy"}, {"measure_spectrum": True}, {"gates": Gates(require_spectrum=True)}],
)
def test_what_needs_models_in_memory(options: dict[str, object]) -> None:
    with pytest.raises(BadInput, match="needs the models in memory"):
        combine(recipe("linear", [DOCS, CODE]), max_memory="1GB", **{**QUICK, **options})


def test_the_plane_of_three_holds_all_their_averages() -> None:
    report = combine(
        recipe("linear", [DOCS, CODE, BASE], weights=[[0.5], [0.25], [0.25]]), align="none", **QUICKER
    ).report
    models = {model["name"]: (model["x"], model["y"]) for model in report["plane"]["models"]}
    assert list(models) == ["A", "B", "C", "average", "merge"]
    for axis in (0, 1):
        corners = [models[name][axis] for name in "ABC"]
        assert models["average"][axis] == pytest.approx(sum(corners) / 3)
        assert models["merge"][axis] == pytest.approx(0.5 * corners[0] + 0.25 * corners[1] + 0.25 * corners[2])
    assert combine(recipe("linear", [DOCS, DOCS, DOCS]), align="none", **QUICKER).report["plane"] is None


def test_other_architectures_are_merged_by_methods_too(tmp_path: Path) -> None:
    from transformers import StableLmConfig, StableLmForCausalLM

    config = StableLmConfig(
        vocab_size=1024,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=64,
        tie_word_embeddings=False,
    )
    places = []
    for seed, name in enumerate(("base", "one", "two")):
        torch.manual_seed(seed)
        StableLmForCausalLM(config).save_pretrained(tmp_path / name)
        for file in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(EMBEDDED / "docs" / file, tmp_path / name / file)
        places.append(str(tmp_path / name))
    plan = recipe("ties", places[1:], base=places[0], weights=[[0.5, 1.0]], densities=[[0.4]])
    combine(plan).save(tmp_path / "out")
    base, one, two, merged = (weights(tmp_path / name) for name in ("base", "one", "two", "out"))
    name = "model.layers.1.mlp.up_proj.weight"
    kept = merged[name] != base[name]
    assert 0.4 <= kept.float().mean().item() <= 0.8
    low, high = torch.minimum(one[name], two[name]) - 1e-6, torch.maximum(one[name], two[name]) + 1e-6
    assert ((merged[name] >= low) & (merged[name] <= high))[kept].all(), "an average of those that agree"
    measured = combine(plan, align="auto", **QUICKER)
    assert measured.report["merge_point"]["loss"] == pytest.approx(math.log(1024), abs=0.1), "models that know nothing"
    assert measured.report["spectrum"] is None
    measured.save(tmp_path / "measured")
    assert tmp_path / "measured" in files_loss.CHECKED
    with pytest.raises(UnsupportedFamily, match="stablelm"):
        combine(plan, align="orthogonal", **QUICKER)
