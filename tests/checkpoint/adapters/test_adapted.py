"""A base with an adapter is the model that peft computes: every kind, on two architectures, tied and not."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from adapters import EMBEDDING, IDS, KINDS, MODULES, NOT_OF_CONV1D, adapted, lora, tiny_base, with_settings
from conftest import EMBEDDED
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from isthmus.align.families import FAMILIES
from isthmus.checkpoint.check import check
from isthmus.checkpoint.errors import BadInput, CorruptCheckpoint, IsthmusError, ModelNotFound
from isthmus.checkpoint.loading import load
from isthmus.checkpoint.model import log_probs
from isthmus.checkpoint.reference import parse_reference
from isthmus.merge.contradictions import require_sense
from isthmus.merge.plans import MergePlan

BASES = {"gpt2": {}, "llama": {"tie_word_embeddings": False}, "tied llama": {"tie_word_embeddings": True}}
CASES = [
    (base, kind) for base in BASES for kind in KINDS if not (base == "gpt2" and kind in NOT_OF_CONV1D)
]  # fmt: skip


def family_of(base: str) -> str:
    return base.rpartition(" ")[2]


@pytest.mark.parametrize(("base", "kind"), CASES)
def test_an_adapted_model_computes_what_peft_computes(base: str, kind: str, tmp_path) -> None:
    family = family_of(base)
    settings = KINDS[kind](MODULES[family], EMBEDDING[family])
    made = adapted(tmp_path, family, settings, **BASES[base])
    model = load(made.reference, families=FAMILIES)
    torch.testing.assert_close(log_probs(dict(model.state), model.config, IDS), made.log_probs, atol=1e-5, rtol=0)
    # and it differs from its base, or the comparison would say nothing
    plain = load(made.base, families=FAMILIES)
    assert (log_probs(dict(plain.state), plain.config, IDS) - made.log_probs).abs().max() > 1e-2


@pytest.mark.parametrize("base", BASES)
def test_rows_that_an_adapter_adds_are_those_of_the_model(base: str, tmp_path) -> None:
    family = family_of(base)
    made = adapted(tmp_path, family, lora(MODULES[family]), rows=3, **BASES[base])
    model = load(made.reference, families=FAMILIES)
    assert model.facts["vocab_size"] == 131
    torch.testing.assert_close(log_probs(dict(model.state), model.config, IDS), made.log_probs, atol=1e-5, rtol=0)


def test_a_tied_model_stays_tied_unless_its_adapter_unties_it(tmp_path) -> None:
    tied = adapted(tmp_path / "tied", "gpt2", lora(MODULES["gpt2"]))
    trained = adapted(tmp_path / "trained", "gpt2", lora(MODULES["gpt2"], trainable_token_indices=[3, 5]))
    untied = adapted(tmp_path / "untied", "gpt2", lora(MODULES["gpt2"], modules_to_save=["lm_head"]))
    assert [bool(load(one.reference).schema.tied) for one in (tied, trained, untied)] == [True, True, False]


def test_blocks_of_an_adapted_tensor_are_the_tensor(tmp_path) -> None:
    made = adapted(tmp_path, "llama", lora(MODULES["llama"]))
    state = load(made.reference).state
    for name in state:
        assert torch.equal(torch.cat(list(state.blocks(name))), state[name])  # type: ignore[attr-defined]


def test_an_adapter_alone_stands_for_the_base_that_it_names(tmp_path) -> None:
    made = adapted(tmp_path, "gpt2", lora(MODULES["gpt2"]))
    model = load(made.adapter)
    assert model.name == "base+adapter"
    torch.testing.assert_close(log_probs(dict(model.state), model.config, IDS), made.log_probs, atol=1e-5, rtol=0)


def test_a_pickled_adapter_is_read_without_running_it(tmp_path) -> None:
    made = adapted(tmp_path, "gpt2", lora(MODULES["gpt2"]))
    weights = made.adapter / "adapter_model.safetensors"
    torch.save(load_file(weights), made.adapter / "adapter_model.bin")
    weights.unlink()
    model = load(made.reference)
    torch.testing.assert_close(log_probs(dict(model.state), model.config, IDS), made.log_probs, atol=1e-5, rtol=0)


def test_a_pickle_that_runs_code_is_refused(tmp_path) -> None:
    made = adapted(tmp_path, "gpt2", lora(MODULES["gpt2"]))
    (made.adapter / "adapter_model.safetensors").unlink()
    torch.save({"a": print}, made.adapter / "adapter_model.bin")
    with pytest.raises(CorruptCheckpoint, match=r"'adapter_model.bin' of 'adapter'"):
        load(made.reference)


def test_the_tokenizer_is_the_adapters_where_it_has_one(tmp_path) -> None:
    made = adapted(tmp_path, "gpt2", lora(MODULES["gpt2"]))
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(EMBEDDED / "docs" / file, made.base / file)
    assert load(made.reference).tokenizer().encode("a b") == load(made.base).tokenizer().encode("a b")
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(EMBEDDED / "docs" / file, made.adapter / file)
    settings = json.loads((made.adapter / "tokenizer_config.json").read_text())
    (made.adapter / "tokenizer_config.json").write_text(json.dumps({**settings, "model_max_length": 77}))
    assert load(made.reference).tokenizer().model_max_length == 77


def test_a_chat_template_alone_goes_with_the_tokenizer_of_the_base(tmp_path) -> None:
    made = adapted(tmp_path, "gpt2", lora(MODULES["gpt2"]))
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(EMBEDDED / "docs" / file, made.base / file)
    (made.adapter / "chat_template.jinja").write_text("{{ messages }}")
    assert load(made.reference).tokenizer().chat_template == "{{ messages }}"


def test_an_adapter_that_changes_after_it_was_opened_is_found_out(tmp_path) -> None:
    made = adapted(tmp_path, "gpt2", lora(MODULES["gpt2"]))
    model = load(made.reference)
    weights = made.adapter / "adapter_model.safetensors"
    tensors = load_file(weights)
    save_file({name: value + 1 for name, value in tensors.items()}, weights)
    with pytest.raises(CorruptCheckpoint, match=r"adapter_model\.safetensors"):
        dict(model.state)


def changed(**settings: object):
    return lambda made: with_settings(made.adapter, **settings)


def tensors(change):
    def altered(made) -> None:
        file = made.adapter / "adapter_model.safetensors"
        save_file(change(load_file(file)), file)

    return altered


def first_with(part: str, value):
    def change(state):
        name = next(name for name in state if part in name)
        return {**state, name: value(state[name])}

    return change


def other_base(made) -> None:
    tiny_base("gpt2", n_embd=48).save_pretrained(made.base)


def no_weights(made) -> None:
    (made.adapter / "adapter_model.safetensors").unlink()


def no_json(made) -> None:
    (made.adapter / "adapter_config.json").write_text("{")


def no_settings(made) -> None:
    (made.adapter / "adapter_config.json").unlink()


def quantized(made) -> None:
    file = made.base / "config.json"
    file.write_text(
        json.dumps({**json.loads(file.read_text()), "quantization_config": {"quant_method": "bitsandbytes"}})
    )


BAD = {
    "settings that are no JSON": (no_json, "is not valid JSON"),
    "no settings": (no_settings, "holds no adapter_config.json"),
    "no kind": (changed(peft_type=None), "has no peft_type"),
    "an unknown kind": (changed(peft_type="MAGIC"), "of the kind MAGIC, which this version of peft does not know"),
    "prompt tuning": (changed(peft_type="PROMPT_TUNING"), "changes no weights: it cannot be merged"),
    "prefix tuning": (changed(peft_type="PREFIX_TUNING"), "changes no weights: it cannot be merged"),
    "pissa": (changed(init_lora_weights="pissa"), "init_lora_weights: pissa"),
    "olora": (changed(init_lora_weights="olora"), "started from its base's own weights"),
    "a rank that is text": (changed(r="many"), "does not fit"),
    "a negative rank": (changed(r=-1), "does not fit"),
    "a rank that fills the memory": (changed(r=10**9), "has a rank above"),
    "another rank": (changed(r=8), "has shape [4, 32]; by its settings and the base [8, 32]"),
    "a setting of a newer peft": (changed(use_future=True), "says 'use_future', which this version of peft"),
    "modules that the base lacks": (changed(target_modules=["q_proj"]), "does not fit"),
    "no modules": (changed(target_modules=[]), "does not fit"),
    "replicated layers": (changed(layer_replication=[[0, 2], [1, 2]]), "repeats layers"),
    "parameters of experts": (changed(target_parameters=["experts.gate"]), "target_parameters"),
    "another base": (other_base, "has shape [4, 32]; by its settings and the base [4, 48]"),
    "a quantized base": (quantized, "is quantized: take the full-precision weights"),
    "no weights": (no_weights, "holds no weights of an adapter"),
    "truncated": (
        lambda made: (made.adapter / "adapter_model.safetensors").write_bytes(b"\0" * 9),
        "truncated or not a safetensors file",
    ),
    "a tensor too few": (tensors(lambda state: dict(list(state.items())[1:])), "it lacks 'transformer.h.0"),
    "a tensor too many": (
        tensors(lambda state: {**state, "base_model.model.strange.lora_A.weight": torch.ones(4, 4)}),
        "it has a tensor 'strange.lora_A",
    ),
    "a transposed tensor": (tensors(first_with("lora_A", lambda value: value.T.contiguous())), "has shape [32, 4]; by"),
    "NaN": (tensors(first_with("lora_B", lambda value: value * float("nan"))), "holds NaN or Inf"),
    "integers": (tensors(first_with("lora_B", lambda value: value.to(torch.int8))), "has dtype I8; expected"),
    "a DoRA without its magnitudes": (changed(use_dora=True), "lacks"),
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_adapter_is_said_in_one_sentence(kind: str, tmp_path, isthmus) -> None:
    change, sentence = BAD[kind]
    made = adapted(tmp_path, "gpt2", lora(MODULES["gpt2"]))
    change(made)
    with pytest.raises(IsthmusError) as error:
        dict(load(made.reference, families=FAMILIES).state)
    assert sentence in str(error.value)
    assert "\n" not in str(error.value)
    outcome = isthmus("merge", made.reference, made.reference, "-o", tmp_path / "out", "--t", "0.5", "--align", "none")
    assert outcome.code == 2
    assert sentence in outcome.err
    assert not (tmp_path / "out").exists()


def test_a_base_of_another_name_degrades(tmp_path) -> None:
    made = adapted(tmp_path, "gpt2", lora(MODULES["gpt2"]))
    other = made.base.rename(tmp_path / "elsewhere")
    result = check(f"{other}+{made.adapter}", f"{other}+{made.adapter}", families=FAMILIES)
    assert any("was trained on 'base', and is applied to 'elsewhere'" in str(finding) for finding in result.findings)
    assert result.mergeable


@pytest.mark.parametrize(
    ("base", "sentence"),
    [(None, "names no base: name its base"), ("no/such/place", "the base of 'adapter' is 'place'"), ("./gone", "gone")],
)
def test_an_adapter_whose_base_is_not_found_says_how_to_name_it(base, sentence: str, tmp_path) -> None:
    made = adapted(tmp_path, "gpt2", lora(MODULES["gpt2"]))
    with_settings(made.adapter, base_model_name_or_path=base)
    with pytest.raises(BadInput, match="BASE\\+ADAPTER") as error:
        load(made.adapter)
    assert sentence in str(error.value)


@pytest.mark.parametrize(
    ("written", "parts"),
    [
        ("user/m@v1.0+cu118", ["user/m@v1.0+cu118"]),
        ("user/m@v1.0+user/lora", ["user/m@v1.0", "user/lora"]),
        ("gpt2+lora", ["gpt2", "lora"]),
    ],
)
def test_a_plus_in_a_revision_joins_nothing(written: str, parts: list[str]) -> None:
    assert [part.name for part in parse_reference(written).parts] == parts


@pytest.mark.parametrize("rank", [0, -3, True, 2.5, "foo"])
def test_a_plan_takes_ranks_alone(rank, tmp_path) -> None:
    with pytest.raises(BadInput, match="as_lora is a rank"):
        require_sense(MergePlan(align="none", t=0.5, as_lora=rank), None)


@pytest.mark.parametrize("written", ["+a", "a+", "a+b+c", "a++b", "+"])
def test_what_is_not_a_base_and_an_adapter_is_refused(written: str) -> None:
    with pytest.raises(BadInput, match="nor 'base\\+adapter'"):
        parse_reference(written)


def test_a_plus_in_the_name_of_a_directory_joins_nothing(tmp_path) -> None:
    tiny_base("gpt2").save_pretrained(tmp_path / "a+b")
    assert parse_reference(str(tmp_path / "a+b")).adapter is None
    assert load(str(tmp_path / "a+b")).name == "a+b"
    joined = parse_reference(f"{tmp_path / 'a+b'}+user/adapter")
    assert [part.name for part in joined.parts] == ["a+b", "user/adapter"]


def test_without_peft_it_says_what_to_install(tmp_path, monkeypatch) -> None:
    import sys

    made = adapted(tmp_path, "gpt2", lora(MODULES["gpt2"]))
    monkeypatch.setitem(sys.modules, "peft.mapping", None)
    with pytest.raises(BadInput, match=r"pip install 'isthmus\[peft\]'"):
        load(made.reference)


def test_a_merge_of_two_adapters_is_that_of_the_merged_models(tmp_path, isthmus) -> None:
    first = adapted(tmp_path, "llama", lora(MODULES["llama"], use_dora=True), seed=1, name="first")
    second = adapted(tmp_path, "llama", lora(MODULES["llama"], use_rslora=True), seed=2, name="second")
    out = tmp_path / "out"
    models = [one.reference for one in (first, second)]
    assert isthmus("merge", *models, "-o", out, "--t", "0.25", "--align", "none").code == 0
    merged = AutoModelForCausalLM.from_pretrained(out).state_dict()
    states = [load(one.reference).state for one in (first, second)]
    for name, value in states[0].items():
        torch.testing.assert_close(merged[name], 0.75 * value + 0.25 * states[1][name], atol=1e-6, rtol=0)
    report = json.loads((out / "isthmus.json").read_text())
    assert [end["ref"] for end in report["endpoints"]] == ["base+first", "base+second"]
    assert "./base+./first ./base+./second" in report["reproduce"]
    text = (out / "README.md").read_text() + (out / "isthmus.json").read_text() + (out / "report.html").read_text()
    assert str(tmp_path) not in text


def test_a_recipe_names_adapters_as_mergekit_does(tmp_path, isthmus) -> None:
    first = adapted(tmp_path, "llama", lora(MODULES["llama"]), seed=1, name="first")
    second = adapted(tmp_path, "llama", lora(MODULES["llama"]), seed=2, name="second")
    recipe = tmp_path / "recipe.yml"
    models = "".join(f"  - {{model: '{one.reference}', parameters: {{weight: 0.5}}}}\n" for one in (first, second))
    recipe.write_text(f"merge_method: task_arithmetic\nbase_model: {first.base}\nmodels:\n{models}")
    assert isthmus("merge", recipe, "-o", tmp_path / "out").code == 0
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "out").state_dict()
    base, *states = (load(place).state for place in (first.base, first.reference, second.reference))
    for name, value in base.items():
        expected = value + sum(0.5 * (state[name] - value) for state in states)
        torch.testing.assert_close(merged[name], expected, atol=1e-5, rtol=0)


def test_adapters_larger_than_memory_are_measured_as_they_are(tmp_path, isthmus) -> None:
    made = adapted(tmp_path, "llama", lora(MODULES["llama"]), vocab_size=1024)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(EMBEDDED / "docs" / file, made.base / file)
    (tmp_path / "text.txt").write_text("a b c d e f g\n" * 4000)
    models, report = (made.reference, made.base), {}
    options = ("--method", "linear", "--weight", "1,2", "--data", tmp_path / "text.txt", "--align", "none")
    for name, more in (("memory", ()), ("disk", ("--max-memory", "1GB"))):
        assert isthmus("merge", *models, *options, *more, "-o", tmp_path / name).code == 0
        report[name] = json.loads((tmp_path / name / "isthmus.json").read_text())["endpoints"]
    for one, other in zip(report["memory"], report["disk"], strict=True):
        assert one["loss"] == pytest.approx(other["loss"], abs=1e-5)


def test_hub_adapters_are_checked_before_a_weight_is_downloaded(hub, tmp_path, isthmus) -> None:
    made = adapted(tmp_path, "gpt2", lora(MODULES["gpt2"], r=64))
    with_settings(made.adapter, base_model_name_or_path="user/adapted-base")
    hub.add("user/adapted-base", made.base)
    hub.add("user/an-adapter", made.adapter)
    outcome = isthmus("check", "user/adapted-base+user/an-adapter", "user/an-adapter")
    assert outcome.code == 0
    weights = (made.base / "model.safetensors").stat().st_size
    assert hub.bytes_sent("model.safetensors") < weights / 2
    model = load("user/an-adapter@main")
    assert model.name == "user/adapted-base+user/an-adapter@main"
    torch.testing.assert_close(log_probs(dict(model.state), model.config, IDS), made.log_probs, atol=1e-5, rtol=0)
    assert (
        isthmus("merge", "user/an-adapter", made.base, "-o", tmp_path / "out", "--t", "0.5", "--align", "none").code
        == 0
    )
    endpoint = json.loads((tmp_path / "out" / "isthmus.json").read_text())["endpoints"][0]
    assert endpoint["on_hub"]
    assert [part["ref"] for part in endpoint["parts"]] == ["user/adapted-base", "user/an-adapter"]
    card = (tmp_path / "out" / "README.md").read_text()
    assert "- user/adapted-base\n- user/an-adapter\n" in card


def test_what_is_missing_is_said_of_the_part_that_lacks_it(hub, tmp_path) -> None:
    made = adapted(tmp_path, "gpt2", lora(MODULES["gpt2"]))
    with pytest.raises(ModelNotFound, match="there is no model 'user/no-adapter'"):
        load(f"{made.base}+user/no-adapter")


def test_a_merge_of_adapters_is_an_adapter_of_the_sum_of_their_ranks(tmp_path, isthmus) -> None:
    first = adapted(tmp_path, "llama", lora(MODULES["llama"]), seed=1, name="first")
    second = adapted(tmp_path, "llama", lora(MODULES["llama"], r=2), seed=2, name="second")
    models, out = (first.reference, second.reference), tmp_path / "out"
    outcome = isthmus("merge", *models, "-o", out, "--t", "0.25", "--as-lora", "exact")
    assert outcome.code == 0
    assert "saved as an adapter of base, of rank 6" in outcome.err
    report = json.loads((out / "isthmus.json").read_text())
    assert set(report["adapter"]["ranks"].values()) == {6}
    states = [load(one).state for one in models]
    merged = load(f"{first.base}+{out}").state
    for name, value in states[0].items():
        torch.testing.assert_close(merged[name], 0.75 * value + 0.25 * states[1][name], atol=2e-5, rtol=0)
    base = AutoModelForCausalLM.from_pretrained(first.base)
    with torch.no_grad():
        opened = PeftModel.from_pretrained(base, out).eval()
        expected = log_probs(dict(merged), load(first.base).config, IDS)
        torch.testing.assert_close(torch.log_softmax(opened(IDS).logits, -1), expected, atol=1e-4, rtol=0)


def test_what_is_measured_of_a_truncated_merge_is_what_is_saved(tmp_path, isthmus) -> None:
    models = (EMBEDDED / "docs", EMBEDDED / "code", "--base", EMBEDDED / "adamw-1", "--method", "task_arithmetic")
    out = tmp_path / "out"
    options = ("--data", "stdlib:docs", "--tokens", "1024", "--no-spectrum")
    assert isthmus("merge", *models, *options, "-o", out, "--as-lora", "4").code == 0
    report = json.loads((out / "isthmus.json").read_text())
    assert set(report["adapter"]["ranks"].values()) == {4}
    assert report["settings"]["dtype"] == "float32"
    card = (out / "README.md").read_text()
    assert "It is an adapter of **adamw-1**" in card
    assert "PeftModel.from_pretrained" in card
    assert "--as-lora 4" in report["reproduce"]
    # `files_loss` holds the loss that is shown against what peft loads
    assert isthmus("merge", *models, *options, "-o", tmp_path / "whole", "--align", "none").code == 0
    whole = json.loads((tmp_path / "whole" / "isthmus.json").read_text())
    assert report["merge_point"]["loss"] > whole["merge_point"]["loss"] + 1e-3  # what was cut off is in the number


@pytest.mark.parametrize("method", ["linear", "task_arithmetic", "karcher"])
def test_what_the_models_share_is_not_in_the_adapter_of_their_merge(method: str, tmp_path, isthmus) -> None:
    """An average rounds what is equal in all: that is the base's, and no difference."""
    made = [adapted(tmp_path, "llama", lora(["q_proj"], r=3), seed=seed, name=f"adapter-{seed}") for seed in (1, 2, 3)]
    more = ("--base", made[0].base) if method == "task_arithmetic" else ()
    out = tmp_path / "out"
    models = [one.reference for one in made]
    assert isthmus("merge", *models, "--method", method, *more, "-o", out, "--as-lora", "exact").code == 0
    report = json.loads((out / "isthmus.json").read_text())["adapter"]
    assert {module.rpartition(".")[2] for module in report["ranks"]} == {"q_proj"}
    assert report["whole"] == []
    if method != "karcher":
        assert set(report["ranks"].values()) == {9}


@pytest.mark.parametrize("arguments", [("lone",), ("lone", "--as-lora", "exact"), ("named",)])
def test_the_base_that_an_adapter_names_is_never_an_output(arguments, tmp_path, isthmus) -> None:
    made = adapted(tmp_path, "gpt2", lora(MODULES["gpt2"]))
    tiny_base("gpt2", 5).save_pretrained(tmp_path / "other")
    base = tmp_path / "ours"  # which isthmus wrote, so that --overwrite would replace it
    plain = ("--align", "none", "--t", "0.5", "--overwrite")
    assert isthmus("merge", made.base, tmp_path / "other", "-o", base, *plain).code == 0
    with_settings(made.adapter, base_model_name_or_path=str(base))
    before = (base / "model.safetensors").read_bytes()
    which, *more = arguments
    model = made.adapter if which == "lone" else f"{base}+{made.adapter}"
    for output in (base, base / "inside"):
        outcome = isthmus("merge", model, model, "-o", output, *plain, *more)
        assert outcome.code == 2
        assert "which this command reads and would destroy or change" in outcome.err
        assert isthmus("align", model, tmp_path / "other", "-o", output, "--overwrite").code == 2
        assert isthmus("extract", model, "--base", made.base, "-o", output, "--overwrite").code == 2
    assert (base / "model.safetensors").read_bytes() == before


def test_a_base_is_one_however_it_is_named(tmp_path, isthmus, monkeypatch) -> None:
    first = adapted(tmp_path, "gpt2", lora(MODULES["gpt2"]), seed=1, name="first")
    adapted(tmp_path, "gpt2", lora(MODULES["gpt2"]), seed=2, name="second")
    monkeypatch.chdir(tmp_path)
    options = ("--t", "0.5", "-o", "out", "--as-lora", "exact", "--overwrite")
    assert isthmus("merge", "base+first", first.base.parent / "second", *options).code == 0
    assert isthmus("merge", "base+first", "./base", *options).code == 0  # a base among the models


REFUSED_ADAPTERS = {
    "restored": (("--t", "0.5", "--data", "stdlib:docs", "--restore-spectrum"), "--restore-spectrum is judged"),
    "aligned": (("--align", "orthogonal", "--t", "0.5"), "add --align none to --as-lora"),
    "on a curve": (("--align", "none", "--path", "polychain"), "straight line or by a method"),
    "in another dtype": (("--t", "0.5", "--dtype", "bfloat16"), "saved in float32"),
    "of no base": (("--t", "0.5"), "--as-lora needs a base"),
}


@pytest.mark.parametrize("kind", REFUSED_ADAPTERS)
def test_a_merge_that_is_no_adapter_is_refused(kind: str, tmp_path, isthmus) -> None:
    options, sentence = REFUSED_ADAPTERS[kind]
    models = (EMBEDDED / "docs", EMBEDDED / "code")
    outcome = isthmus("merge", *models, "-o", tmp_path / "out", "--as-lora", "4", *options)
    assert outcome.code == 2
    assert sentence in outcome.err


@pytest.mark.parametrize("rank", ["0", "-1", "many", "1.5"])
def test_a_rank_that_is_none_is_refused(rank: str, tmp_path, isthmus) -> None:
    outcome = isthmus("merge", EMBEDDED / "docs", EMBEDDED / "code", "-o", tmp_path / "out", "--as-lora", rank)
    assert outcome.code == 2
    assert "--as-lora takes a rank" in outcome.err


def test_another_revision_of_the_base_degrades(hub, tmp_path) -> None:
    made = adapted(tmp_path, "gpt2", lora(MODULES["gpt2"]))
    hub.add("user/base-of-a-revision", made.base)
    for revision, differs in (("main", False), ("0" * 40, True)):
        with_settings(made.adapter, base_model_name_or_path="user/base-of-a-revision", revision=revision)
        reference = f"user/base-of-a-revision@main+{made.adapter}"
        findings = [str(finding) for finding in check(reference, reference, families=FAMILIES).findings]
        assert any("was trained on revision 0000" in finding for finding in findings) == differs
