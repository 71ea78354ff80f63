from __future__ import annotations

import torch
from conftest import state_of, tiny_config, tiny_model
from transformers import GPT2LMHeadModel

from isthmus.align.activations import cross_correlations
from isthmus.align.alignment import Alignment
from isthmus.align.canonical import canonical
from isthmus.align.families import family

CONFIG = tiny_config()
TABLE = family(CONFIG)
UNTIED = Alignment("orthogonal", {}, 0.0).config(CONFIG)
FORMS = [canonical(state_of(tiny_model(seed)), TABLE) for seed in (1, 2)]
IDS = torch.randint(CONFIG.vocab_size, (70, 32), generator=torch.Generator().manual_seed(0))


def hidden(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Independently, from transformers' own module: activations by name, (tokens, n), float64, centred."""
    model = GPT2LMHeadModel(UNTIED).eval()
    model.load_state_dict(state)
    seen = {}
    for layer, block in enumerate(model.transformer.h):
        block.mlp.act.register_forward_hook(lambda m, i, out, k=layer: seen.__setitem__(f"h.{k}.mlp", out))
        block.attn.c_proj.register_forward_pre_hook(lambda m, i, k=layer: seen.__setitem__(f"h.{k}.ov", i[0]))
        block.attn.c_attn.register_forward_hook(lambda m, i, out, k=layer: seen.__setitem__(f"h.{k}.qkv", out))
    with torch.no_grad():
        model(IDS)
    for layer in range(2):
        fused = seen.pop(f"h.{layer}.qkv")
        seen[f"h.{layer}.q"], seen[f"h.{layer}.k"] = fused[..., :32], fused[..., 32:64]
    flat = {name: value.flatten(0, 1).double() for name, value in seen.items()}
    return {name: value - value.mean(0) for name, value in flat.items()}


def test_streaming_sums_are_what_all_activations_at_once_give() -> None:
    found = cross_correlations(*FORMS, UNTIED, TABLE, IDS)
    assert found.keys() == {"residual"} | {f"h.{layer}.{space}" for layer in range(2) for space in ("mlp", "qk", "ov")}
    a, b = map(hidden, FORMS)
    for space, places in (("h.0.mlp", ["h.0.mlp"]), ("h.1.ov", ["h.1.ov"]), ("h.1.qk", ["h.1.q", "h.1.k"])):
        cross = sum(b[place].T @ a[place] for place in places)
        bound = sum(a[place].norm() * b[place].norm() for place in places)
        assert torch.allclose(found[space], cross / bound, atol=1e-5), space


def test_a_model_goes_with_itself() -> None:
    found = cross_correlations(FORMS[0], FORMS[0], UNTIED, TABLE, IDS[:8])
    for space, cross in found.items():
        assert abs(cross.trace().item() - 1) < 1e-4, space


def test_a_space_without_variance_says_nothing() -> None:
    still = {name: value.clone() for name, value in FORMS[0].items()}
    for kind in ("weight", "bias"):
        still[f"transformer.h.0.mlp.c_fc.{kind}"].zero_()
    found = cross_correlations(still, FORMS[1], UNTIED, TABLE, IDS[:4])
    assert not found["h.0.mlp"].any()
    assert found["h.1.mlp"].any()
