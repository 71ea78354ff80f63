"""Every word of a recipe changes the merge, or is an error with its line."""

from __future__ import annotations

from pathlib import Path

import pytest

from isthmus.checkpoint.errors import BadInput
from isthmus.merge.recipes.mergekit import read_recipe
from isthmus.merge.recipes.recipe import recipe
from isthmus.merge.recipes.recipe_effect import require_effect

PARTS = ("attn.c_attn.weight", "mlp.c_fc.weight")
NAMES = ["transformer.wte.weight", *(f"transformer.h.{i}.{part}" for i in range(3) for part in PARTS), "ln_f.weight"]
TWO = "models:\n  - model: a\n  - model: b\n"
SLERP = f"merge_method: slerp\nbase_model: a\n{TWO}parameters:\n  t:\n"
LINEAR = f"merge_method: linear\n{TWO}parameters:\n  weight:\n"
TIES = f"merge_method: ties\nbase_model: c\n{TWO}parameters:\n  weight: 1\n"


def slices(*ranges: tuple[int, int], extra: str = "") -> str:
    text = "merge_method: linear\nparameters: {weight: 1}\nslices:\n"
    for start, stop in ranges:
        text += f"  - sources:\n      - {{model: a, layer_range: [{start}, {stop}]}}\n"
        text += f"      - {{model: b, layer_range: [{start}, {stop}]}}\n"
    return text + extra


# The recipe, the line of the word without effect, what is said.
IDLE: dict[str, tuple[str, int, str]] = {
    "a filter of another architecture": (
        f"{SLERP}    - {{filter: self_attn, value: 0}}\n    - {{value: 0.5}}\n",
        8,
        "no tensor's name here contains the filter 'self_attn': names are made of transformer, wte, h, attn",
    ),
    "a filter with a typo": (f"{SLERP}    - {{filter: mpl, value: 0}}\n    - {{value: 0.5}}\n", 8, "the filter 'mpl'"),
    "a filter in capitals": (f"{SLERP}    - {{filter: MLP, value: 0}}\n    - {{value: 0.5}}\n", 8, "the filter 'MLP'"),
    "a filter of one case, no list": (f"{LINEAR}    filter: gate_proj\n    value: 1\n", 7, "the filter 'gate_proj'"),
    "a filter for a layer that is not there": (
        f"{LINEAR}    - {{filter: h.3., value: 2}}\n    - {{value: 1}}\n",
        7,
        "the filter 'h.3.'",
    ),
    "a filter for a tied head": (f"{LINEAR}    - {{filter: lm_head, value: 2}}\n    - {{value: 1}}\n", 7, "'lm_head'"),
    "a case after one for all": (f"{SLERP}    - {{value: 0.5}}\n    - {{filter: mlp, value: 0}}\n", 9, "has no effect"),
    "a filter inside an earlier filter": (
        f"{SLERP}    - {{filter: attn, value: 0}}\n    - {{filter: c_attn, value: 1}}\n    - {{value: 0.5}}\n",
        9,
        "'t' has no effect here: cases before it",
    ),
    "the same filter twice": (
        f"{SLERP}    - {{filter: mlp, value: 0}}\n    - {{filter: mlp, value: 1}}\n    - {{value: 0.5}}\n",
        9,
        "no effect",
    ),
    "two cases for all": (f"{SLERP}    - {{value: 0}}\n    - {{filter: '*', value: 1}}\n", 9, "no effect"),
    "a default that nothing is left for": (
        f"{LINEAR}    - {{filter: w, value: 2}}\n    - {{filter: _, value: 2}}\n    - {{value: 1}}\n",
        8,
        "no effect",
    ),
    "a parameter that all models give": (
        "merge_method: linear\nmodels:\n  - {model: a, parameters: {weight: 1}}\n"
        "  - {model: b, parameters: {weight: 2}}\n"
        "parameters:\n  weight: 0.5\n",
        6,
        "'weight' has no effect here",
    ),
    "a parameter that all slices give": (
        "merge_method: slerp\nbase_model: a\nslices:\n- sources: [{model: a, layer_range: [0, 3]}, "
        "{model: b, layer_range: [0, 3]}]\n  parameters: {t: 0.2}\nparameters:\n  t: 0.5\n",
        7,
        "'t' has no effect here",
    ),
    "a gradient over one layer of a slice": (
        "merge_method: slerp\nbase_model: a\nslices:\n"
        "- sources: [{model: a, layer_range: [0, 2]}, {model: b, layer_range: [0, 2]}]\n  parameters: {t: [0, 1]}\n"
        "- sources: [{model: a, layer_range: [2, 3]}, {model: b, layer_range: [2, 3]}]\n"
        "  parameters:\n    t: [0, 1]\n",
        8,
        "'t' is a gradient, and there is one layer here: give one value",
    ),
    "a gradient finer than the layers": (
        f"{LINEAR}    [0, 0.1, 0.2, 0.4, 0.6, 0.8, 1]\n",
        7,
        "a gradient of 7 values over 3 layers, and values 2, 3, 5, 6 have no effect",
    ),
    "a filter that no layer of a slice has": (
        "merge_method: linear\nslices:\n- sources: [{model: a, layer_range: [0, 2]}]\n  parameters:\n    weight:\n"
        "    - {filter: ln_f, value: 2}\n    - {value: 1}\n- sources: [{model: a, layer_range: [2, 3]}]\n  parameters: "
        "{weight: 1}\n",
        6,
        "the filter 'ln_f'",
    ),
    "an end beyond the model": (slices((0, 12)), 4, "layer_range [0, 12] ends beyond the last"),
    "a second end beyond the model": (slices((0, 2), (2, 4)), 7, "layer_range [2, 4] ends beyond the last"),
    "last layers left out": (slices((0, 1)), 4, "layers 1 to 2 are left out after this slice"),
}


@pytest.mark.parametrize("kind", IDLE)
def test_a_word_without_effect_is_an_error_with_its_line(tmp_path: Path, kind: str) -> None:
    text, line, message = IDLE[kind]
    (tmp_path / "recipe.yml").write_text(text)
    plan = read_recipe(tmp_path / "recipe.yml")
    with pytest.raises(BadInput) as error:
        require_effect(plan, NAMES)
    assert str(error.value).startswith(f"'recipe.yml', line {line}: ")
    assert message in str(error.value)


# What the file alone tells.
READ: dict[str, tuple[str, int, str]] = {
    "a density that task arithmetic never reads": (
        "merge_method: task_arithmetic\nbase_model: c\nmodels:\n  - model: a\n    parameters:\n      weight: 1\n"
        "      density: 0.5\n",
        7,
        "task_arithmetic has no parameter 'density'",
    ),
    "t for ties": (f"{TIES}  t: 0.5\n", 8, "ties has no parameter 't'"),
    "density for linear": (f"merge_method: linear\n{TWO}parameters:\n  weight: 1\n  density: 0.5\n", 7, "'density'"),
    "a typo": (f"{TIES}  normalise: true\n", 8, "ties has no parameter 'normalise'"),
    "parameters of nothing": (f"merge_method: linear\n{TWO}parameters: null\n", 5, "written as 'key: value'"),
    "the weight of a base": (
        "merge_method: ties\nbase_model: c\nmodels:\n  - model: c\n    parameters:\n      weight: 0.5\n  - {model: a, "
        "parameters: {weight: 1}}\n",
        6,
        "'weight' of the base has no effect",
    ),
    "a base that is used for nothing": (
        f"merge_method: linear\nbase_model: b\n{TWO}parameters: {{weight: 1}}\n",
        2,
        "linear has no base",
    ),
    "another base that is used for nothing": (f"merge_method: karcher\nbase_model: a\n{TWO}", 2, "karcher has no base"),
    "a key twice in a model": (
        "merge_method: linear\nmodels:\n  - model: a\n    parameters:\n      weight: 1\n      weight: 2\n",
        6,
        "appears twice",
    ),
    "an unknown key of a case": (f"{LINEAR}    - {{filter: mlp, value: 1, valeu: 2}}\n", 7, "'valeu' is not known"),
    "an unknown key of a source": (
        "merge_method: linear\nslices:\n- sources:\n  - {model: a, layer_range: [0, 3], weight: 1}\n",
        4,
        "'weight' is not",
    ),
}


@pytest.mark.parametrize("kind", READ)
def test_what_the_file_alone_tells(tmp_path: Path, kind: str) -> None:
    text, line, message = READ[kind]
    (tmp_path / "recipe.yml").write_text(text)
    with pytest.raises(BadInput) as error:
        read_recipe(tmp_path / "recipe.yml")
    assert str(error.value).startswith(f"'recipe.yml', line {line}: ")
    assert message in str(error.value)


@pytest.mark.parametrize(
    "text",
    [
        f"{SLERP}    - {{filter: attn, value: [0, 0.5, 1]}}\n"
        "    - {filter: mlp, value: [1, 0.5, 0]}\n    - value: 0.5\n",
        f"{LINEAR}    [0, 1]\n",
        f"{LINEAR}    [0, 0.5, 0.7, 1]\n",
        f"{TIES}  density: [1, 0.3]\n  normalize: true\n  int8_mask: true\ndtype: float32\nout_dtype: float16\n",
        f"merge_method: linear\nbase_model: a\ntokenizer_source: base\n{TWO}parameters: {{weight: 1}}\n",
        slices((0, 1), (1, 3)),
    ],
)
def test_words_with_an_effect(tmp_path: Path, text: str) -> None:
    (tmp_path / "recipe.yml").write_text(text)
    require_effect(read_recipe(tmp_path / "recipe.yml"), NAMES)


def test_options_are_named_by_themselves() -> None:
    with pytest.raises(BadInput, match="--weight 0,1,2,3,4,5: 'weight' is a gradient of 6 values over 3 layers"):
        require_effect(recipe("linear", ["a", "b"], weights=[[0, 1, 2, 3, 4, 5]]), NAMES)
    with pytest.raises(BadInput, match="--density 0,1: 'density' is a gradient, and there is one layer"):
        require_effect(recipe("ties", ["a"], base="b", densities=[[0, 1]]), NAMES[:3])


def merged(isthmus, saved, tmp_path: Path, text: str, *options: object):
    for place, name in enumerate("ab"):
        if not (tmp_path / name).exists():
            saved(name, place)
    named = text.replace("model: a", f"model: {tmp_path / 'a'}").replace("model: b", f"model: {tmp_path / 'b'}")
    (tmp_path / "recipe.yml").write_text(named.replace("base_model: a", f"base_model: {tmp_path / 'a'}"))
    return isthmus("merge", tmp_path / "recipe.yml", "-o", tmp_path / "out", *options)


def test_the_command_line_says_it_before_it_merges(isthmus, saved, tmp_path: Path) -> None:
    outcome = merged(isthmus, saved, tmp_path, IDLE["a filter of another architecture"][0])
    assert outcome.code == 2
    assert outcome.error.startswith(
        "isthmus: 'recipe.yml', line 8: no tensor's name here contains the filter 'self_attn'"
    )
    assert outcome.error.count("\n") == 1
    assert not (tmp_path / "out").exists()
    beyond = merged(isthmus, saved, tmp_path, slices((0, 3)))
    assert (beyond.code, (tmp_path / "out").exists()) == (2, False)
    assert "line 4: the slices are not the 2 layers of the models" in beyond.error


def test_a_head_that_alignment_unties_can_be_filtered(isthmus, saved, tmp_path: Path) -> None:
    text = f"{SLERP}    - {{filter: lm_head, value: 0}}\n    - {{value: 0.5}}\n"
    tied = merged(isthmus, saved, tmp_path, text)
    assert (tied.code, "the filter 'lm_head'" in tied.error) == (2, True)
    assert merged(isthmus, saved, tmp_path, text, "--align", "orthogonal", "--no-spectrum").code == 0


def test_a_tokenizer_that_is_not_there(isthmus, saved, tmp_path: Path) -> None:
    saved("a", 0, tokenizer=True, vocab_size=1024)
    saved("b", 1, vocab_size=1024)
    text = f"merge_method: linear\nparameters: {{weight: 1}}\n{TWO}tokenizer_source: {tmp_path / 'b'}\n"
    outcome = merged(isthmus, saved, tmp_path, text)
    assert outcome.code == 2
    assert "'recipe.yml', line 6: 'b' has no tokenizer to take" in outcome.error


def test_what_mergekit_ignores_is_noted(isthmus, saved, tmp_path: Path) -> None:
    text = f"merge_method: linear\nparameters: {{weight: 1, int8_mask: true}}\n{TWO}"
    outcome = merged(isthmus, saved, tmp_path, text)
    assert outcome.code == 0
    assert "notes  'recipe.yml', line 2: int8_mask changes nothing" in outcome.err


def test_weights_beside_a_choice_of_weights(isthmus, saved, tmp_path: Path) -> None:
    weights = "".join(f"- {{model: {name}, parameters: {{weight: {w}}}}}\n" for name, w in (("a", 1), ("b", 2)))
    text = f"merge_method: linear\nmodels:\n{weights}"
    outcome = merged(isthmus, saved, tmp_path, text, "--data", "stdlib:docs", "--search")
    assert outcome.code == 2
    assert "the weights that are given and those of --search coordinate contradict each other" in outcome.error


def test_a_dtype_beside_that_of_the_recipe(isthmus, saved, tmp_path: Path) -> None:
    text = f"merge_method: linear\nparameters: {{weight: 1}}\n{TWO}dtype: float16\n"
    outcome = merged(isthmus, saved, tmp_path, text, "--dtype", "float32")
    assert outcome.code == 2
    assert "the recipe says what --dtype would (float16): leave --dtype out" in outcome.error
