"""The symmetries of models with experts: Mixtral (Jiang et al. 2024, arXiv 2401.04088), Qwen2-MoE and Qwen3-MoE.

A Mistral, a Qwen2 and a Qwen3, in which a router chooses among MLPs. Experts may be reordered, with the rows of the
router; inside each of them its neurons. The shared expert of Qwen2-MoE is a gated MLP of its own, and its gate a reader
of the stream.
"""

from __future__ import annotations

from typing import Any

from ..symmetry import Family
from ..table_entries import Axis, Piece
from .blocks import STREAM, Blocks
from .llama import ALL, CONFIGURATION, biases, decoder

ROUTING = (
    "num_local_experts",
    "num_experts",
    "num_experts_per_tok",
    "norm_topk_prob",
    "moe_intermediate_size",
    "shared_expert_intermediate_size",
    "decoder_sparse_step",
    "mlp_only_layers",
)


def mixtral(config: Any) -> Family:
    """The symmetry table of a Mixtral: a Mistral's, with experts in every layer."""

    def mlp(blocks: Blocks, layer: int) -> list[str]:
        module = f"model.layers.{layer}.mlp"
        return blocks.experts(
            f"layers.{layer}", module, experts=config.num_local_experts, hidden=config.intermediate_size
        )

    return decoder(config, (), mlp=mlp, configuration=(*CONFIGURATION, *ROUTING))


def qwen2_moe(config: Any) -> Family:
    """The symmetry table of a Qwen2-MoE: a Qwen2's, with experts and one that is shared, or a plain MLP, in a layer."""

    def mlp(blocks: Blocks, layer: int) -> list[str]:
        name, module = f"layers.{layer}", f"model.layers.{layer}.mlp"
        if not _has_experts(config, layer):
            return blocks.gated_mlp(name, module, config.intermediate_size)
        reading = blocks.experts(name, module, experts=config.num_experts, hidden=config.moe_intermediate_size)
        reading += blocks.gated_mlp(name, f"{module}.shared_expert", config.shared_expert_intermediate_size)
        blocks.pieces[f"{name}.shared"] = Piece(f"{module}.shared_expert_gate.weight", (Axis(), STREAM))
        return [*reading, f"{name}.shared"]

    carried = ALL[:3] if getattr(config, "qkv_bias", True) else ()
    return decoder(config, carried, mlp=mlp, configuration=(*CONFIGURATION, *ROUTING))


def qwen3_moe(config: Any) -> Family:
    """The symmetry table of a Qwen3-MoE: a Qwen3's, with experts, or a plain MLP, in a layer."""

    def mlp(blocks: Blocks, layer: int) -> list[str]:
        name, module = f"layers.{layer}", f"model.layers.{layer}.mlp"
        if not _has_experts(config, layer):
            return blocks.gated_mlp(name, module, config.intermediate_size)
        return blocks.experts(name, module, experts=config.num_experts, hidden=config.moe_intermediate_size)

    return decoder(config, biases(config), normalised="by head", mlp=mlp, configuration=(*CONFIGURATION, *ROUTING))


def _has_experts(config: Any, layer: int) -> bool:
    sparse: bool = config.num_experts > 0 and (layer + 1) % config.decoder_sparse_step == 0
    return sparse and layer not in config.mlp_only_layers
