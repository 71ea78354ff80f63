"""The blocks of which rotary architectures are made: a norm and its readers, rotary attention, a gated MLP.

A builder collects what a symmetry table has. Linear maps are torch's, [out, in].
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from ..groups import Group, Matrices, NestedPermutation, Permutation
from ..rotary import RotaryMatrices, RotarySigns
from ..scales import Scales
from ..symmetry import Activation, Attention, Axis, Family, Head, LinearMap, Norm, Piece, Reader, Space

STREAM = Axis(("stream",))
# Rotary frequencies, which earlier versions of transformers stored as if they were weights.
BUFFERS = r"(^|\.)rotary_emb\.inv_freq$"


@dataclass
class Blocks:
    """A symmetry table while it is made: the stream's `group`, and the weight for which norms scale by 1."""

    group: Group
    tokens: int
    neutral: float = 1.0
    spaces: dict[str, Space] = field(default_factory=dict)
    pieces: dict[str, Piece] = field(default_factory=dict)
    norms: list[Norm] = field(default_factory=list)
    attentions: list[Attention] = field(default_factory=list)
    writers: list[tuple[str, int]] = field(default_factory=list)
    matrices: list[str] = field(default_factory=list)
    activations: list[Activation] = field(default_factory=list)
    maps: list[LinearMap] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.spaces["stream"] = Space(self.group)

    def embedding(self, parameter: str) -> None:
        """The table of token embeddings."""
        self.pieces["embedding"] = Piece(parameter, (Axis(size=self.tokens), STREAM))
        self.writers.append(("embedding", 1))

    def norm(self, name: str, module: str, readers: Sequence[str]) -> None:
        """A norm without a bias, and the linear maps that read it."""
        self.pieces[name] = Piece(f"{module}.weight", (Axis(("stream",), scale=True),))
        self.norms.append(Norm(name, None, tuple(self._reader(one) for one in readers), False, self.neutral))

    def _reader(self, name: str) -> Reader:
        bias = f"{name}.bias"
        return Reader(name, 1, bias if bias in self.pieces else None)

    def linear(self, name: str, module: str, rows: Axis, columns: Axis, *, bias: bool) -> None:
        """A linear map whose spectrum is measured."""
        self.pieces[name] = Piece(f"{module}.weight", (rows, columns))
        if bias:
            self.pieces[f"{name}.bias"] = Piece(f"{module}.bias", (rows,))
        if rows is STREAM:
            self.writers += [(name, 0), *([(f"{name}.bias", 0)] if bias else [])]
        self.matrices.append(name)
        self.maps.append(LinearMap(module, 1))

    def rotary_attention(
        self,
        layer: str,
        module: str,
        *,
        heads: int,
        keys: int,
        size: int,
        biases: Sequence[str] = (),
        normalised: Literal["never", "by head", "all heads"] = "never",
    ) -> list[str]:
        """Attention by `heads` queries that share `keys`, of `size` entries each, all of which positions rotate.

        `biases` are those of q, k, v and o that have one. Where queries and keys are `normalised`, that is by norms
        `q_norm` and `k_norm`, before positions rotate them. Returns the maps that read the stream.
        """
        shared, inside = heads // keys, RotaryMatrices if normalised == "never" else RotarySigns
        space = {name: f"{layer}.{name}" for name in ("heads", "queries", "qk", "ov")}
        self.spaces |= {
            space["heads"]: Space(Permutation(keys)),
            space["qk"]: Space(inside(size, keys, size), inside=space["heads"]),
            space["ov"]: Space(Matrices(size, keys), inside=space["heads"]),
        }
        queries: tuple[str, ...] = ()
        if shared > 1:
            self.spaces[space["queries"]] = Space(NestedPermutation(shared, keys), inside=space["heads"])
            queries = (space["queries"],)
        axes = {
            "q": Axis((space["heads"], *queries, space["qk"])),
            "k": Axis((space["heads"], space["qk"]), dual=True),
            "v": Axis((space["heads"], space["ov"])),
        }
        for name, axis in axes.items():
            self.linear(f"{layer}.{name}", f"{module}.{name}_proj", axis, STREAM, bias=name in biases)
        output = Axis((space["heads"], *queries, space["ov"]), dual=True)
        self.linear(f"{layer}.o", f"{module}.o_proj", STREAM, output, bias="o" in biases)
        for name in "qk" if normalised != "never" else "":
            scale = Axis(size=size) if normalised == "by head" else Axis(axes[name].spaces, scale=True)
            self.pieces[f"{layer}.{name} norm"] = Piece(f"{module}.{name}_norm.weight", (scale,))
        if {"v", "o"} <= set(biases):
            value, carries = f"{layer}.v.bias", f"{layer}.o.bias"
            self.attentions.append(Attention(value, f"{layer}.o", 1, carries, keys, shared))
        self.activations += [
            Activation("stream", f"{module}.q_proj", "input"),
            Activation(
                space["queries"] if queries else space["qk"], f"{module}.q_proj", "output", acting=axes["q"].spaces
            ),
            Activation(space["qk"], f"{module}.k_proj", "output"),
            Activation(space["ov"], f"{module}.v_proj", "output"),
        ]
        return [f"{layer}.{name}" for name in axes]

    def gated_mlp(self, layer: str, module: str, hidden: int, *, bias: bool = False) -> list[str]:
        """An MLP down · (act(gate · x) ∘ (up · x)); returns the maps that read the stream."""
        neurons, scales = f"{layer}.mlp", f"{layer}.scales"
        self.spaces |= {neurons: Space(Permutation(hidden)), scales: Space(Scales(1, hidden), inside=neurons)}
        up, down = (Axis((neurons, scales), dual=dual) for dual in (False, True))
        self.linear(f"{layer}.gate", f"{module}.gate_proj", Axis((neurons,)), STREAM, bias=bias)
        self.linear(f"{layer}.up", f"{module}.up_proj", up, STREAM, bias=bias)
        self.linear(f"{layer}.down", f"{module}.down_proj", STREAM, down, bias=bias)
        self.activations += [
            Activation("stream", f"{module}.gate_proj", "input"),
            Activation(neurons, f"{module}.gate_proj", "output"),
            Activation(scales, f"{module}.down_proj", "input"),
        ]
        return [f"{layer}.gate", f"{layer}.up"]

    def family(self, *, tied: bool, capped: bool = False, **facts: Any) -> Family:
        """The table, of a model whose unembedding is `lm_head`, and whose logits may be `capped`; `facts` are further
        fields of it.
        """
        piece = Piece("lm_head.weight", (Axis(size=self.tokens), STREAM))
        head = Head("unembedding", piece, LinearMap("lm_head", 1), shifts=not capped)
        table = Family(
            stream="stream",
            spaces=self.spaces,
            pieces=self.pieces,
            norms=tuple(self.norms),
            attentions=tuple(self.attentions),
            writers=tuple(self.writers),
            embedding="embedding",
            positions=None,
            unembedding=head,
            tied=True,
            matrices=tuple(self.matrices),
            activations=(*self.activations, Activation("stream", "lm_head", "input")),
            maps=tuple(self.maps),
            **facts,
        )
        return table if tied else table.untied()
