"""Every table by the same tests: that its groups leave the function alone, that nothing is left out of it, and that
every algorithm runs on it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import pytest
import torch
from conftest import state_of, tiny_config, tiny_model
from group import moved, random_elements
from tiny_models import tiny_bert, tiny_neox, tiny_opt, tiny_rotary
from torch import Tensor
from transformers import (
    BertLMHeadModel,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    GemmaForCausalLM,
    LlamaForCausalLM,
    MistralForCausalLM,
    MixtralForCausalLM,
    Olmo2ForCausalLM,
    Phi3ForCausalLM,
    PhiForCausalLM,
    PretrainedConfig,
    PreTrainedModel,
    Qwen2ForCausalLM,
    Qwen2MoeForCausalLM,
    Qwen3ForCausalLM,
    Qwen3MoeForCausalLM,
    RobertaForCausalLM,
)

from isthmus.align.activations import captured
from isthmus.align.alignment import Alignment
from isthmus.align.canonical import canonical
from isthmus.align.families import family
from isthmus.align.families.bert import bert, roberta
from isthmus.align.families.experts import mixtral, qwen2_moe, qwen3_moe
from isthmus.align.families.gpt2 import gpt2
from isthmus.align.families.gpt_neox import gpt_neox
from isthmus.align.families.llama import gemma, gemma2, gemma3_text, llama, mistral, olmo2, phi3, qwen2, qwen3
from isthmus.align.families.opt import opt
from isthmus.align.families.phi import phi
from isthmus.align.gauge import free_gauge, neutral, regauge
from isthmus.align.groups import Orthogonal
from isthmus.align.learned import LearnedAlignment
from isthmus.align.pipeline import align_states
from isthmus.align.scales import Scales
from isthmus.align.symmetry import Family, State
from isthmus.align.universe import Universe, align_all
from isthmus.align.width import neurons_of
from isthmus.checkpoint.errors import UnsupportedFamily
from isthmus.checkpoint.model import empty_model, log_probs, schema, with_tied

IDS = torch.randint(128, (2, 32), generator=torch.Generator().manual_seed(7))


@dataclass(frozen=True)
class Case:
    """A table and small models that it is of."""

    table: Callable[..., Family]
    model: Callable[..., PreTrainedModel]

    def make(self, seed: int = 0, **changes: object) -> tuple[PretrainedConfig, dict[str, Tensor], Family]:
        """A configuration, a state, and its table."""
        model = self.model(seed, **changes)
        return model.config, state_of(model), self.table(model.config)


EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24, "mlp_only_layers": [1]}
CASES = {
    "gpt2": Case(gpt2, tiny_model),
    "gpt_neox": Case(gpt_neox, tiny_neox),
    "gpt_neox in sequence, without biases": Case(
        gpt_neox, partial(tiny_neox, use_parallel_residual=False, attention_bias=False)
    ),
    "llama": Case(llama, partial(tiny_rotary, LlamaForCausalLM)),
    "llama with biases": Case(llama, partial(tiny_rotary, LlamaForCausalLM, attention_bias=True, mlp_bias=True)),
    "llama without shared keys": Case(
        llama, partial(tiny_rotary, LlamaForCausalLM, num_key_value_heads=6, head_dim=12)
    ),
    "mistral": Case(mistral, partial(tiny_rotary, MistralForCausalLM)),
    "qwen2": Case(qwen2, partial(tiny_rotary, Qwen2ForCausalLM)),
    "qwen3": Case(qwen3, partial(tiny_rotary, Qwen3ForCausalLM, head_dim=8)),
    "gemma": Case(gemma, partial(tiny_rotary, GemmaForCausalLM, head_dim=8)),
    "gemma2": Case(gemma2, partial(tiny_rotary, Gemma2ForCausalLM, head_dim=8)),
    "gemma3_text": Case(gemma3_text, partial(tiny_rotary, Gemma3ForCausalLM, head_dim=8)),
    "olmo2": Case(olmo2, partial(tiny_rotary, Olmo2ForCausalLM)),
    "phi": Case(phi, partial(tiny_rotary, PhiForCausalLM)),
    "phi with heads of a size of their own": Case(phi, partial(tiny_rotary, PhiForCausalLM, head_dim=16)),
    "phi3": Case(phi3, partial(tiny_rotary, Phi3ForCausalLM, pad_token_id=0)),
    "phi3 that rotates a part of heads": Case(
        phi3, partial(tiny_rotary, Phi3ForCausalLM, pad_token_id=0, partial_rotary_factor=0.5)
    ),
    "opt": Case(opt, tiny_opt),
    "opt with silu, without biases": Case(opt, partial(tiny_opt, activation_function="silu", enable_bias=False)),
    "mixtral": Case(mixtral, partial(tiny_rotary, MixtralForCausalLM, num_local_experts=3)),
    "qwen2_moe": Case(
        qwen2_moe, partial(tiny_rotary, Qwen2MoeForCausalLM, shared_expert_intermediate_size=32, **EXPERTS)
    ),
    "qwen3_moe": Case(qwen3_moe, partial(tiny_rotary, Qwen3MoeForCausalLM, head_dim=8, **EXPERTS)),
    "bert": Case(bert, partial(tiny_bert, BertLMHeadModel)),
    "roberta": Case(roberta, partial(tiny_bert, RobertaForCausalLM, pad_token_id=1, max_position_embeddings=34)),
    "gemma with one key": Case(gemma, partial(tiny_rotary, GemmaForCausalLM, head_dim=8, num_key_value_heads=1)),
}
every_table = pytest.mark.parametrize("case", CASES.values(), ids=CASES)
tied_or_not = pytest.mark.parametrize("tied", [True, False])


def untied(config: PretrainedConfig) -> PretrainedConfig:
    return Alignment("orthogonal", {}, 0.0).config(config)


def changed(a: State, config_a: PretrainedConfig, b: State, config_b: PretrainedConfig) -> float:
    return (log_probs(a, config_a, IDS) - log_probs(b, config_b, IDS)).abs().max().item()


@every_table
@tied_or_not
def test_it_covers_every_parameter_once(case: Case, tied: bool) -> None:
    config, state, table = case.make(tie_word_embeddings=tied)
    assert table.schema() == schema(config), "the table and the module of transformers have the same tensors"
    again = table.join(table.split(state))
    assert again.keys() == state.keys()
    assert all(torch.equal(again[name], state[name]) for name in state)


@every_table
def test_every_axis_is_as_long_as_what_acts_on_it(case: Case) -> None:
    _, state, table = case.make()
    for name, space in table.spaces.items():
        for piece, axis in table.occurrences(name):
            if not space.inside:
                assert table.piece(state, piece).shape[axis] % space.group.size == 0


@every_table
@tied_or_not
@pytest.mark.parametrize("kind", ["permutation", "invertible"])
def test_the_groups_leave_the_function_alone(case: Case, tied: bool, kind: str) -> None:
    """In any form of the state, all at once and one by one: permutations of everything, any map inside heads."""
    config, state, table = case.make(tie_word_embeddings=tied)
    table, elements = table.permuting(lambda space: space.inside is None), random_elements(table, kind)
    everything = moved(state, table, elements)
    assert all(not torch.equal(everything[name], state[name]) for name in state if state[name].ndim > 1)
    assert changed(everything, config, state, config) < 5e-5
    for space, element in elements.items():
        assert changed(moved(state, table, {space: element}), config, state, config) < 5e-5, space


@every_table
def test_a_rotated_canonical_form_computes_the_same(case: Case) -> None:
    """All groups together, and each alone."""
    config, state, table = case.make(1)
    there = Alignment("orthogonal", random_elements(table.untied(), "orthogonal", 2), 0.0)
    assert changed(there.apply(state, table), untied(config), state, config) < 5e-5
    for space, element in there.elements.items():
        alone = Alignment("orthogonal", {space: element}, 0.0)
        assert changed(alone.apply(state, table), untied(config), state, config) < 5e-5, space


@every_table
def test_a_space_missing_on_one_piece_changes_the_function(case: Case) -> None:
    """The table cannot be right by accident: leave out a single occurrence of an element, and the function changes."""
    config, state, table = case.make()
    table, elements = table.permuting(lambda space: space.inside is None), random_elements(table, "invertible")
    pieces = table.split(state)
    invisible = {bias.piece for bias in table.vanishing if bias.view is None}
    layer = [*table.spaces][: 1 + len(table.spaces) // 2]
    layer = [space for space in layer if not torch.equal(elements[space], table.identity()[space])]
    for space in layer:
        for left_out, _ in table.occurrences(space):
            element = {space: elements[space]}
            wrong = {n: p if n == left_out else table.act(n, p, element) for n, p in pieces.items()}
            if torch.equal(table.act(left_out, pieces[left_out], element), pieces[left_out]):
                continue  # signs leave the scale of a norm alone
            change = changed(table.join(wrong), config, state, config)
            if left_out in invisible:
                assert change < 5e-5
            else:
                assert change > 1e-3, (space, left_out)


@every_table
@tied_or_not
@pytest.mark.parametrize("seed", [0, 1])
def test_the_canonical_form_computes_the_same_and_is_its_own(case: Case, tied: bool, seed: int) -> None:
    config, state, table = case.make(seed, tie_word_embeddings=tied)
    form = canonical(state, table)
    assert changed(form, untied(config), state, config) < 5e-5
    again = canonical(form, table.untied())
    assert max((again[name] - form[name]).abs().max().item() for name in form) < 2e-6


@every_table
def test_the_canonical_form_has_no_gauge_left(case: Case) -> None:
    _, state, table = case.make(1)
    pieces = (whole := table.untied()).split(canonical(state, table))
    for norm in (norm for norm in table.norms if norm.folds):
        assert (pieces[norm.weight] == norm.neutral).all()
        assert not norm.shifts or (pieces[norm.bias] == 0).all()
    for bias in table.vanishing:
        assert ((pieces[bias.piece] if bias.view is None else bias.view.of(pieces[bias.piece])) == 0).all()
    for attention in table.attentions:
        assert (pieces[attention.value_bias] == 0).all()
    for name, axis in table.writers if table.centred else ():
        assert pieces[name].mean(axis).abs().max() < 1e-6, name
    for name, space in table.spaces.items():
        if isinstance(space.group, Scales):
            sides = {dual: torch.zeros(space.group.blocks) for dual in (False, True)}
            for piece, position in table.occurrences(name):
                rows = (
                    pieces[piece].movedim(position, 0).flatten(1) if pieces[piece].ndim > 1 else pieces[piece][:, None]
                )
                sides[table.pieces[piece].axes[position].dual] += rows.square().sum(1)
            assert torch.allclose(sides[False], sides[True], rtol=1e-4)
    assert not whole.unembedding.shifts or pieces[whole.head].mean(0).abs().max() < 1e-6


@every_table
def test_every_part_of_the_gauge_leaves_the_function_alone_and_is_taken_out(case: Case) -> None:
    config, state, table = case.make()
    whole = table.untied()
    form = whole.split(canonical(state, table))
    generator, gauge = torch.Generator().manual_seed(0), {}
    for name, free in free_gauge(whole).items():
        noise = 0.5 * torch.randn(free.shape, generator=generator)
        gauge[name] = noise.exp() if name in whole.folded else noise
        part = whole.join(regauge(form, whole, {name: gauge[name]}))
        assert changed(part, untied(config), state, config) < 1e-4, name
    back = whole.split(canonical(whole.join(regauge(form, whole, gauge)), whole))
    assert max((back[name] - form[name]).abs().max().item() for name in form) < 2e-5
    assert changed(neutral(state, table), untied(config), state, config) < 1e-4


@every_table
@pytest.mark.parametrize("kind", ["permutation", "orthogonal"])
def test_spectra_do_not_change(case: Case, kind: str) -> None:
    """Of a canonical form; of a state as it is under permutations."""
    _, state, table = case.make()
    there = Alignment(kind, random_elements(table, kind, 1), 0.0)  # type: ignore[arg-type]
    after, before = there.apply(state, table), there.reference(state, table)
    for name in table.matrices:
        values = [torch.linalg.svdvals(table.untied().piece(form, name)) for form in (before, after)]
        assert torch.allclose(*values, rtol=1e-4, atol=1e-5), name


@every_table
@pytest.mark.parametrize("method", ["permutation", "orthogonal", "activations", "combined"])
def test_a_moved_copy_comes_back(case: Case, method: str) -> None:
    config, state, table = case.make(3)
    kind = "permutation" if method == "permutation" else "orthogonal"
    there = Alignment(method, random_elements(table.untied(), kind, 5), 0.0)  # type: ignore[arg-type]
    copy, state, config = there.apply(state, table), there.reference(state, table), there.config(config)
    ids = torch.randint(128, (64, 32), generator=torch.Generator().manual_seed(1))
    result = align_states(state, copy, config, method, ids=ids)  # type: ignore[arg-type]
    assert result.alignment.score == pytest.approx(1.0, abs=1e-4)
    assert result.max_log_prob_error < 1e-4
    for name, first in result.a.items():
        assert (first - result.b[name]).abs().max() < 5e-5 * max(4.0, first.abs().max().item()), name


@every_table
@pytest.mark.parametrize("method", ["permutation", "orthogonal"])
def test_layer_by_layer_as_in_memory(case: Case, method: str) -> None:
    (config, a, _), (_, b, _) = case.make(0), case.make(1)
    whole, streamed = (align_states(a, b, config, method, stream=stream) for stream in (False, True))  # type: ignore[arg-type]
    assert streamed.max_log_prob_error < 1e-4
    for one, other in ((whole.a, streamed.a), (whole.b, streamed.b)):
        assert one.keys() == other.keys()
        assert all(torch.allclose(one[name], other[name], atol=1e-5) for name in one)


@every_table
def test_three_copies_end_at_the_first(case: Case) -> None:
    config, state, table = case.make()
    forms = [canonical(state, table)]
    forms += [Alignment("orthogonal", random_elements(table, "orthogonal", s), 0.0).apply(state, table) for s in (1, 2)]
    universe = align_all(forms, untied(config), "orthogonal")
    assert universe.scores[-1] == pytest.approx(1.0, abs=1e-5)
    assert universe.max_log_prob_error < 1e-4


@every_table
@pytest.mark.parametrize("method", ["permutation", "orthogonal"])
def test_alignments_compose_and_turn_back(case: Case, method: str) -> None:
    _, state, table = case.make()
    first, then = (Alignment(method, random_elements(table, method, seed), 0.0) for seed in (1, 2))  # type: ignore[arg-type]
    start = first.reference(state, table)
    table = table.untied() if first.folds else table
    halfway = first.apply_to_pieces(table.split(start), table)
    end = then.apply_to_pieces(table.split(halfway), table)
    both = first.compose(then, table).apply_to_pieces(table.split(start), table)
    back = first.inverse(table).apply_to_pieces(table.split(halfway), table)
    assert max((both[name] - end[name]).abs().max().item() for name in end) < 1e-5
    assert max((back[name] - start[name]).abs().max().item() for name in end) < 1e-5


@every_table
def test_a_permutation_is_a_start_for_what_is_learned(case: Case) -> None:
    """Lifted, it moves a canonical form as it did, and composes with rotations."""
    _, state, table = case.make()
    whole, form = table.untied(), canonical(state, table)
    permutations = random_elements(whole, "permutation", 1)
    start = Alignment("orthogonal", whole.lifted(permutations), 0.5)
    expected = moved(form, whole.permuting(), permutations)
    assert all(torch.allclose(moved(form, whole, start.elements)[name], expected[name], atol=1e-6) for name in form)
    (alignment,) = LearnedAlignment((start,), whole).alignments()
    there = alignment.apply(state, table)
    assert all(torch.allclose(there[name], expected[name], atol=1e-5) for name in form)


@every_table
def test_wherever_a_learned_alignment_is_the_function_is_the_same(case: Case) -> None:
    config, state, table = case.make()
    start = Alignment("orthogonal", random_elements(table, "orthogonal", 3), 0.5)
    moving = LearnedAlignment((start,), table.untied())
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in moving.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    universe = Universe.learned((state, state), config, moving.alignments())  # both are one function
    assert universe.max_log_prob_error < 1e-4
    assert bool(universe.alignment.basis) == isinstance(table.spaces[table.stream].group, Orthogonal)
    trained = {id(p) for optimizer in moving.optimizers() for group in optimizer.param_groups for p in group["params"]}
    assert trained == {id(parameter) for parameter in moving.parameters()}


@every_table
def test_layer_by_layer_a_learned_alignment_gives_the_same(case: Case) -> None:
    _, state, table = case.make()
    moving = LearnedAlignment((Alignment("orthogonal", random_elements(table, "orthogonal", 3), 0.5),), table.untied())
    with torch.no_grad():
        for parameter in moving.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
    (alignment,) = moving.alignments()
    whole = alignment.reference(state, table), alignment.apply(state, table)
    parts = alignment.streamed_reference(state, table), alignment.streamed(state, table)
    untied = table.untied()
    parts += tuple(alignment.streamed_neutral(own, untied) for own in whole)
    whole += tuple(alignment.neutral(own, untied) for own in whole)
    for own, expected in zip(parts, whole, strict=True):
        assert own.keys() == expected.keys()
        assert max((own[name] - expected[name]).abs().max().item() for name in expected) < 1e-4


@every_table
def test_wider_mlps_compute_the_same_and_are_a_model_of_transformers(case: Case) -> None:
    """For every family whose MLPs all have one hidden size."""
    config, state, table = case.make()
    universe = align_all([state, moved(state, table.permuting(), random_elements(table, "permutation", 1))], config)
    sizes = {table.spaces[space].group.size for space in neurons_of(table)}
    if len(sizes) != 1:
        with pytest.raises(UnsupportedFamily, match="all have one hidden size"):
            universe.with_room(universe.room_for(1.5))
        return
    wide = universe.with_room(universe.room_for(1.5))
    assert wide.max_log_prob_error < 1e-4
    assert {name: tuple(tensor.shape) for name, tensor in wide.states[0].items()} == schema(wide.config).shapes
    assert len(neurons_of(table)) == config.num_hidden_layers - (config.model_type == "qwen3_moe")


@every_table
def test_places_are_where_the_table_says(case: Case) -> None:
    """A moved model's activations are moved alike, at every place; a map's inputs are as long as its weight says."""
    config, state, table = case.make()
    whole, seen = table.untied(), []
    there = Alignment("orthogonal", random_elements(whole, "orthogonal", 4), 0.0)
    for form in (there.reference(state, table), there.apply(state, table)):
        model = empty_model(untied(config))
        with captured(model, whole.activations) as vectors, captured(model, whole.maps) as inputs, torch.no_grad():
            torch.func.functional_call(model, with_tied(form, model), (IDS,), {"use_cache": False})
        for linear, value in inputs.items():
            assert value.shape[1] == form[linear.weight].shape[linear.axis]
        seen.append(vectors)
    around = {one for space in table.spaces for one in table.outer(space)}
    unseen = {*table.spaces} - {place.space for place in seen[0]} - around
    assert all(space.endswith("expert scales") for space in unseen), "nothing is seen inside experts"
    for place, before in seen[0].items():
        expected = whole.act_on_space(place.space, before, 1, there.elements)
        assert torch.allclose(seen[1][place], expected, atol=1e-3), place


def test_other_families_are_refused_with_the_list() -> None:
    from transformers import BloomConfig

    with pytest.raises(UnsupportedFamily, match=r"'bloom' are not supported .*; supported: bert, .*gpt2, "):
        family(BloomConfig())
    with pytest.raises(UnsupportedFamily, match="cross-attention"):
        family(tiny_config(add_cross_attention=True))
