"""mergekit's YAML: what is read from it, and every kind of bad recipe, with its line."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from isthmus.checkpoint.errors import BadInput
from isthmus.merge.recipes.mergekit import read_recipe
from isthmus.merge.recipes.yaml_reader import is_recipe

NAMES = ["transformer.wte.weight", *(f"transformer.h.{i}.{part}" for i in range(3) for part in ("attn", "mlp")), "ln_f"]


def written(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "recipe.yml"
    file.write_text(text)
    return file


def test_a_recipe_with_all_that_is_taken(tmp_path: Path) -> None:
    recipe = read_recipe(
        written(
            tmp_path,
            """
            merge_method: dare_ties
            base_model: org/base
            models:
              - model: org/base
              - model: ./one
                parameters:
                  weight: 0.5
                  density: [0.2, 0.8]
              - model: org/two@main
                parameters:
                  density:
                    - filter: attn
                      value: 0.25
                    - value: 0.75
            parameters:
              weight: 0.3
              lambda: 0.9
              int8_mask: true
              rescale: false
            dtype: float32
            out_dtype: bfloat16
            tokenizer_source: base
            """,
        )
    )
    assert recipe.operator.name == "dare_ties"
    assert recipe.ingredients == ("org/base", "./one", "org/two@main")
    assert (recipe.dtype, recipe.tokenizer) == ("bfloat16", "org/base")
    values = recipe.values(NAMES)
    assert values["ln_f"]["weight"] == [0.5, 0.3], "a model's own, and else the recipe's"
    assert values["ln_f"] | {"weight": 0, "density": 0} == {
        "weight": 0, "density": 0, "lambda": 0.9, "normalize": False, "rescale": False,
    }  # fmt: skip
    assert [values[f"transformer.h.{i}.attn"]["density"] for i in range(3)] == [
        [0.2, 0.25],
        pytest.approx([0.5, 0.25]),
        [0.8, 0.25],
    ]
    assert values["transformer.h.2.mlp"]["density"] == [0.8, 0.75]
    assert values["transformer.wte.weight"]["density"] == [0.2, 0.75], "what is in no layer is at the gradient's start"


def test_slices_are_segments_with_gradients_of_their_own(tmp_path: Path) -> None:
    recipe = read_recipe(
        written(
            tmp_path,
            """
            merge_method: slerp
            base_model: b
            slices:
              - sources:
                  - {model: a, layer_range: [0, 2]}
                  - {model: b, layer_range: [0, 2]}
                parameters: {t: [0, 1]}
              - sources:
                  - {model: b, layer_range: [2, 3]}
                  - {model: a, layer_range: [2, 3]}
            parameters:
              t:
                - {filter: attn, value: 0.1}
                - {value: 0.4}
            """,
        )
    )
    assert recipe.models == ("b", "a"), "t = 0 is the base"
    values = {name: given["t"] for name, given in recipe.values(NAMES).items()}
    assert values == {
        "transformer.wte.weight": 0.0,
        "transformer.h.0.attn": 0.0,
        "transformer.h.0.mlp": 0.0,
        "transformer.h.1.attn": 1.0,
        "transformer.h.1.mlp": 1.0,
        "transformer.h.2.attn": 0.1,
        "transformer.h.2.mlp": 0.4,
        "ln_f": 0.4,
    }


def test_a_base_without_a_part_of_its_own_is_one_more_model(tmp_path: Path) -> None:
    karcher = "merge_method: karcher\nbase_model: c\nmodels: [{model: a}, {model: b}]\n"
    assert read_recipe(written(tmp_path, karcher)).models == ("a", "b", "c")


def test_a_base_is_no_model_where_task_vectors_are_merged(tmp_path: Path) -> None:
    text = "merge_method: ties\nbase_model: c\nmodels: [{model: a}, {model: c}, {model: b}]\nparameters: {weight: 1}"
    recipe = read_recipe(written(tmp_path, text))
    assert (recipe.base, recipe.models) == ("c", ("a", "b"))


MODELS = "models:\n  - model: a\n  - model: b\n"
LINEAR = f"merge_method: linear\nparameters:\n  weight: 1\n{MODELS}"
TOKENS = f"{LINEAR}tokenizer:\n  tokens:\n    <new>:\n"
PASS = "merge_method: passthrough\nslices:\n"
ONE = "- sources: [{model: a, layer_range: [0, 1]}]\n"
SLICE = "merge_method: linear\nparameters: {weight: 1}\nslices:\n"

BAD = {
    "not YAML": ("merge_method: [linear\nmodels: {", 2, "not YAML"),
    "a list": ("- a\n- b\n", 1, "written as 'key: value'"),
    "no method": (MODELS, 1, "no merge_method"),
    "a method that isthmus lacks": (f"merge_method: passthru\n{MODELS}", 1, "no method 'passthru'"),
    "a method that is a list": (f"merge_method: [linear]\n{MODELS}", 1, "single value"),
    "an unknown key": (f"{LINEAR}parametres: {{}}\n", 7, "'parametres' is not known in a recipe"),
    "a key that is not taken": (f"{LINEAR}embed_slerp: true\n", 7, "does not take 'embed_slerp'"),
    "a residual slice": (f"{SLICE}  - residual_weight: 0.1\n", 4, "does not take 'residual_weight'"),
    "models and modules": (f"{LINEAR}modules: {{}}\n", 1, "not both"),
    "a module of another architecture": (
        "merge_method: linear\nmodules:\n  text_decoder: {models: []}\n", 3, "whose one module is 'default'"
    ),
    "a module without models": ("merge_method: linear\nmodules:\n  default: {}\n", 3, "either models or slices"),
    "no module": ("merge_method: linear\nmodules: {}\n", 2, "has to have 'default'"),
    "no models": ("merge_method: linear\n", 1, "models or slices"),
    "models and slices": (f"{LINEAR}slices: []\n", 1, "not both"),
    "models that are no list": ("merge_method: linear\nmodels: a\n", 2, "a list of one or more"),
    "an empty list of models": ("merge_method: linear\nmodels: []\n", 2, "a list of one or more"),
    "a model without a name": ("merge_method: linear\nmodels:\n  - parameters: {weight: 1}\n", 3, "no model here"),
    "a name that is a number": ("merge_method: linear\nmodels:\n  - model: 7\n", 3, "is text"),
    "the same model twice": ("merge_method: linear\nmodels:\n  - model: a\n  - model: a\n", 4, "appears twice"),
    "two adapters": ("merge_method: linear\nmodels:\n  - model: a+b+c\n", 3, "a base model and one adapter"),
    "no base": (f"merge_method: ties\n{MODELS}", 1, "needs base_model"),
    "too few models": ("merge_method: model_stock\nbase_model: c\nmodels: [{model: a}]\n", 1, "at least 2 models"),
    "too many models": (f"merge_method: slerp\nbase_model: c\nparameters: {{t: 0.5}}\n{MODELS}", 1, "2 models; got 3"),
    "an unknown parameter": (f"{LINEAR}  - model: c\n    parameters:\n      wieght: 1\n", 9, "no parameter 'wieght'"),
    "a parameter of the whole under a model": (
        f"merge_method: ties\nbase_model: c\n{MODELS}    parameters:\n      lambda: 1\n", 7, "not a parameter of"
    ),
    "a parameter that lacks": (f"merge_method: linear\n{MODELS}", 1, "needs the parameter 'weight' for 'a'"),
    "t that lacks": (f"merge_method: slerp\nbase_model: a\n{MODELS}", 1, "needs the parameter 't'"),
    "text for a number": (f"{LINEAR}    parameters:\n      weight: heavy\n", 8, "'weight' is a number; got 'heavy'"),
    "a number for a flag": ("merge_method: linear\nparameters:\n  weight: 1\n  normalize: 1\n" + MODELS, 4, "true or"),
    "a gradient with a gap": (f"{LINEAR}    parameters:\n      weight: [0, ~, 1]\n", 8, "is a number; got None"),
    "an empty gradient": (f"{LINEAR}    parameters:\n      weight: []\n", 8, "empty list"),
    "a density above 1": (
        f"merge_method: ties\nbase_model: c\nparameters:\n  weight: 1\n  density: 1.5\n{MODELS}", 5, "from 0 to 1"
    ),
    "a filter without a value": (f"{LINEAR}    parameters:\n      weight:\n      - filter: attn\n", 9, "needs a value"),
    "a filter that is no text": (
        f"{LINEAR}    parameters:\n      weight:\n        - {{filter: [attn], value: 1}}\n", 9, "single value"
    ),
    "a key twice": (f"{LINEAR}merge_method: slerp\n", 7, "appears twice"),
    "a dtype that is none": (f"{LINEAR}dtype: float7\n", 7, "dtype is one of float32"),
    "the tokenizer of a stranger": (f"{LINEAR}tokenizer_source: z\n", 7, "a model of the recipe; got 'z'"),
    "the tokenizer of no base": (f"{LINEAR}tokenizer_source: base\n", 7, "there is no base_model"),
    "a slice without sources": (f"{SLICE}  - parameters: {{}}\n", 4, "needs sources"),
    "a source without layers": (f"{SLICE}  - sources:\n      - model: a\n", 5, "needs layer_range"),
    "layers that run backwards": (f"{SLICE}  - sources:\n    - {{model: a, layer_range: [3, 1]}}\n", 5, "first lower"),
    "layers that differ in number": (
        f"{SLICE}  - sources:\n    - {{model: a, layer_range: [0, 1]}}\n    - {{model: b, layer_range: [1, 3]}}\n", 5,
        "have different numbers of layers",
    ),
    "a slice of two models by passthrough": (
        f"{PASS}- sources: [{{model: a, layer_range: [0, 1]}}, {{model: b, layer_range: [0, 1]}}]\n",
        3,
        "1 model; got 2",
    ),
    "two models by passthrough": (f"merge_method: passthrough\n{MODELS}", 1, "merges 1 model; got 2"),
    "a parameter that passthrough lacks": (f"{PASS}{ONE}  parameters: {{weight: 1}}\n", 4, "no parameter 'weight'"),
    "a base that no slice has": (
        f"merge_method: passthrough\nbase_model: c\nslices:\n{ONE}{ONE}", 2, "no slice has 'c': leave it out"
    ),
    "slerp without its base in a slice": (
        "merge_method: slerp\nbase_model: a\nparameters: {t: 0.5}\nslices:\n"
        "- sources: [{model: b, layer_range: [2, 3]}, {model: c, layer_range: [1, 2]}]\n",
        5,
        "this one has no 'a'",
    ),
    "layers of a base that nobody names": (
        "merge_method: ties\nbase_model: c\nparameters: {weight: 1}\nslices:\n"
        "- sources: [{model: a, layer_range: [2, 3]}, {model: b, layer_range: [1, 2]}]\n",
        5,
        "which layers of the base 'c' are these?",
    ),
    "a tokenizer twice": (f"{LINEAR}tokenizer_source: union\ntokenizer: {{}}\n", 8, "contradict each other"),
    "a tokenizer of a stranger": (f"{LINEAR}tokenizer:\n  source: z\n", 8, "a model of the recipe; got 'z'"),
    "a tokenizer with a typo": (f"{LINEAR}tokenizer:\n  sources: union\n", 8, "'sources' is not known in tokenizer"),
    "a token without a source": (f"{TOKENS}      force: true\n", 9, "needs a source"),
    "a token of a stranger": (f"{TOKENS}      source: z\n", 10, "is a model of the recipe; got 'z'"),
    "a token of another kind": (f"{TOKENS}      source: {{kind: noise}}\n", 10, "kind is zero or model_token"),
    "zeros of a model": (f"{TOKENS}      source: {{kind: zero, model: a}}\n", 10, "zeros have no model"),
    "a model_token without a model": (f"{TOKENS}      source: {{kind: model_token}}\n", 10, "needs a model"),
    "a model_token of none": (f"{TOKENS}      source: {{kind: model_token, model: a}}\n", 10, "token or token_id"),
    "a token_id that is none": (
        f"{TOKENS}      source: {{kind: model_token, model: a, token_id: -1}}\n", 10, "0 or more; got -1"
    ),
    "force that is a number": (f"{TOKENS}      source: a\n      force: 1\n", 11, "force is true or false"),
    "padding to nothing": (f"{LINEAR}tokenizer: {{pad_to_multiple_of: 0}}\n", 7, "from 1 to 65536; got 0"),
    "a chat template by name": (f"{LINEAR}chat_template: alpaca\n", 7, "no chat templates by name, such as 'alpaca'"),
    "two results": (f"{LINEAR}---\n{LINEAR}", 8, "has no name, and another one neither"),
    "one name twice": (f"name: x\n{LINEAR}---\nname: x\n{LINEAR}", 9, "the name of an earlier recipe"),
    "a stage that nothing needs": (f"name: x\n{LINEAR}---\n{LINEAR}", 1, "nothing needs the stage 'x'"),
    "a stage that needs itself": (
        f"name: x\n{LINEAR}  - model: x\n---\n{LINEAR}  - model: x\n", 8, "these stages need each other"
    ),
    "stages that need each other": (
        f"name: x\n{LINEAR}  - model: y\n---\nname: y\n{LINEAR}  - model: x\n---\n{LINEAR}  - model: x\n", 17,
        "'x' needs 'y' needs 'x'",
    ),
    "a stage that is a directory": (f"name: .\n{LINEAR}---\n{LINEAR}  - model: .\n", 1, "is a directory here, too"),
    "an adapter of a stage": (
        f"name: x\n{LINEAR}---\n{LINEAR}  - model: x\n  - model: x+y\n", 16, "no adapter can be put on one"
    ),
    "the tokenizer of a stage": (
        f"name: x\n{LINEAR}tokenizer_source: union\n---\n{LINEAR}  - model: x\n", 8, "the recipe of the result"
    ),
    "a tokenizer that is a stage": (
        f"name: x\n{LINEAR}---\n{LINEAR}  - model: x\ntokenizer_source: x\n", 16, "a model of the recipe; got 'x'"
    ),
    "a name that is a list": (f"name: [x]\n{LINEAR}", 1, "name is a single value"),
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_recipe_is_one_sentence_with_its_line(isthmus, hub, tmp_path: Path, kind: str) -> None:
    text, line, message = BAD[kind]
    with pytest.raises(BadInput) as error:
        read_recipe(written(tmp_path, text))
    assert str(error.value).startswith(f"'recipe.yml', line {line}: ")
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    outcome = isthmus("merge", tmp_path / "recipe.yml", "-o", tmp_path / "out")
    assert (outcome.code, outcome.err) == (2, f"isthmus: {error.value}\n")
    assert not hub.requests
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "is empty"), (b"\xff\xfe", "not UTF-8"), (b"a: \x00", "not YAML"), (None, "cannot read the recipe")],
)
def test_a_file_that_is_no_recipe(tmp_path: Path, content: bytes | None, message: str) -> None:
    file = tmp_path / "recipe.yml"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(BadInput, match=message):
        read_recipe(file)


def test_aliases_are_followed_and_tags_are_not(tmp_path: Path) -> None:
    shared = "merge_method: linear\nmodels:\n- {model: a, parameters: &p {weight: 2}}\n- {model: b, parameters: *p}\n"
    values = read_recipe(written(tmp_path, shared)).values(NAMES)
    assert values["ln_f"]["weight"] == [2, 2]
    evil = "merge_method: !!python/object/apply:os.system ['touch /tmp/isthmus-was-here']\nmodels: [{model: a}]\n"
    with pytest.raises(BadInput):
        read_recipe(written(tmp_path, evil))
    assert not Path("/tmp/isthmus-was-here").exists()


def test_slices_that_are_not_the_layers_of_the_models(tmp_path: Path) -> None:
    text = f"{SLICE}  - sources: [{{model: a, layer_range: [0, 2]}}]\n"
    with pytest.raises(BadInput, match=re.escape("the slices are not the 3 layers of the models")):
        read_recipe(written(tmp_path, text)).values(NAMES)


def test_a_filter_that_leaves_tensors_without_a_value(tmp_path: Path) -> None:
    text = "merge_method: linear\nparameters: {weight: [{filter: attn, value: 1}]}\nmodels: [{model: a}]\n"
    with pytest.raises(BadInput, match=r"needs 'weight' of 'a', and none is given for 'transformer\.wte\.weight'"):
        read_recipe(written(tmp_path, text)).values(NAMES)


@pytest.mark.parametrize(("name", "expected"), [("a.yml", True), ("b/c.YAML", True), ("user/model", False)])
def test_what_is_a_recipe(name: str, expected: bool) -> None:
    assert is_recipe(name) is expected


METHODS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "nuslerp": ("weight: 0.6", "nuslerp_flatten: false", {"weight": [0.6, 0.6], "nuslerp_flatten": False}),
    "multislerp": ("weight: 0.6", "normalize_weights: false, eps: 1e-6", {"normalize_weights": False, "eps": 1e-6}),
    "della": ("weight: 1, density: 0.5, epsilon: 0.2", "lambda: 0.5", {"epsilon": [0.2, 0.2], "lambda": 0.5}),
    "della_linear": ("weight: 1", "density: 0.6, epsilon: 0.1", {"density": [0.6, 0.6], "epsilon": [0.1, 0.1]}),
    "breadcrumbs": (
        "weight: 1, density: 0.5, gamma: 0.02",
        "normalize: true",
        {"gamma": [0.02] * 2, "normalize": True},
    ),
    "breadcrumbs_ties": ("weight: 1, gamma: [0, 0.5]", "rescale: true", {"gamma": [0.0, 0.0], "rescale": True}),
    "sce": ("", "select_topk: 0.1, int8_mask: true", {"select_topk": 0.1}),
    "ram": ("", "epsilon: 1e-4", {"epsilon": 1e-4}),
    "ramplus_tl": ("", "r: 0.2, alpha: 0.3", {"r": 0.2, "alpha": 0.3, "epsilon": 1e-5}),
}


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("based", [False, True])
def test_the_parameters_of_every_method(name: str, based: bool, tmp_path: Path) -> None:
    own, shared, expected = METHODS[name]
    if not based and name not in ("nuslerp", "multislerp"):
        return
    models = "".join(f"  - model: {one}\n    parameters: {{{own}}}\n" for one in ("a", "b"))
    base = "base_model: c\n" if based else ""
    file = tmp_path / "recipe.yml"
    file.write_text(f"merge_method: {name}\n{base}models:\n{models}parameters: {{{shared}}}\n")
    given = read_recipe(file)
    assert given.ingredients == (("c", "a", "b") if based else ("a", "b"))
    assert given.operator.needs_base == based
    names = ["wte.weight", *(f"h.{layer}.attn.weight" for layer in range(3))]
    assert expected.items() <= given.values(names)["wte.weight"].items()


def test_nearswap_and_arcee_fusion_merge_one_model_and_its_base(tmp_path: Path) -> None:
    file = tmp_path / "recipe.yml"
    file.write_text("merge_method: nearswap\nbase_model: a\nmodels:\n  - model: b\nparameters:\n  t: 0.001\n")
    assert read_recipe(file).values(["x"])["x"] == {"t": 0.001}
    file.write_text("merge_method: arcee_fusion\nbase_model: a\nmodels:\n  - model: b\n  - model: c\n")
    with pytest.raises(BadInput, match=r"'recipe\.yml', line 1: arcee_fusion merges 1 model beside the base; got 2"):
        read_recipe(file)
