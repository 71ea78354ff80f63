"""The blocks of which architectures are made: a norm and its readers, attention, an MLP, experts.

A builder collects what a symmetry table has. Linear maps are torch's, [out, in].
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from ..groups import Group, Matrices, NestedPermutation, Permutation
from ..rotary import RotaryMatrices, RotarySigns
from ..scales import Scales
from ..symmetry import Family
from ..table_entries import (
    Activation,
    Attention,
    Axis,
    Head,
    LinearMap,
    Norm,
    Piece,
    Reader,
    Space,
    Stack,
    Vanishing,
    View,
)

STREAM = Axis(("stream",))
# Rotary frequencies, which earlier versions of transformers stored as if they were weights.
BUFFERS = r"(^|\.)rotary_emb\.inv_freq$"
NAMES = ("q_proj", "k_proj", "v_proj", "o_proj")
GATED = ("gate_proj", "up_proj", "down_proj")


@dataclass
class Blocks:
    """A symmetry table while it is made: the stream's `group`; whether norms centre and have a bias, as LayerNorm does,
    and the weight for which they scale by 1.
    """

    group: Group
    tokens: int
    layer_norms: bool = False
    neutral: float = 1.0
    spaces: dict[str, Space] = field(default_factory=dict)
    pieces: dict[str, Piece] = field(default_factory=dict)
    norms: list[Norm] = field(default_factory=list)
    attentions: list[Attention] = field(default_factory=list)
    vanishing: list[Vanishing] = field(default_factory=list)
    writers: list[tuple[str, int]] = field(default_factory=list)
    matrices: list[str] = field(default_factory=list)
    activations: list[Activation] = field(default_factory=list)
    maps: dict[str, LinearMap] = field(default_factory=dict)
    positions: str | None = None

    def __post_init__(self) -> None:
        self.spaces["stream"] = Space(self.group)

    def embedding(self, parameter: str) -> None:
        """The table of token embeddings."""
        self.table("embedding", parameter, self.tokens)

    def table(self, name: str, parameter: str, rows: int) -> None:
        """A table of so many embeddings, which are added to the stream."""
        self.pieces[name] = Piece(parameter, (Axis(size=rows), STREAM))
        self.writers.append((name, 1))

    def norm(self, name: str, module: str, readers: Sequence[str]) -> None:
        """A norm over the stream, and the linear maps that read it."""
        self.pieces[name] = Piece(f"{module}.weight", (Axis(("stream",), scale=True),))
        bias = f"{name}.bias" if self.layer_norms else None
        if bias is not None:
            self.pieces[bias] = Piece(f"{module}.bias", (STREAM,))
        reading = tuple(self._reader(one) for one in readers)
        self.norms.append(Norm(name, bias, reading, self.layer_norms, self.neutral))

    def _reader(self, name: str) -> Reader:
        bias = f"{name}.bias"
        return Reader(name, 1, bias if bias in self.pieces else None)

    def linear(
        self, name: str, module: str, rows: Axis, columns: Axis, *, bias: bool = False, view: View | None = None
    ) -> None:
        """A linear map whose spectrum is measured, or the rows of one that `view` takes."""
        self.pieces[name] = Piece(f"{module}.weight", (rows, columns), view)
        if bias:
            self.pieces[f"{name}.bias"] = Piece(f"{module}.bias", (rows,), view)
        if rows is STREAM:
            self.writers += [(name, 0), *([(f"{name}.bias", 0)] if bias else [])]
        self.matrices.append(name)
        self.maps[module] = LinearMap(module, 1)

    def attention(
        self,
        layer: str,
        module: str,
        *,
        heads: int,
        keys: int,
        size: int,
        rotated: int,
        names: Sequence[str] = NAMES,
        views: Mapping[str, View] | None = None,
        biases: Sequence[str] = (),
        normalised: Literal["never", "by head", "all heads"] = "never",
    ) -> list[str]:
        """Attention by `heads` queries that share `keys`, of `size` entries each, the first of which positions rotate.

        `names` are those of the modules inside `module` that make queries, keys, values and the output, and `views` the
        rows of queries (q), keys (k) and values (v) where one module makes them. `biases` are those of q, k, v and o
        that have one. Where queries and keys are `normalised`, that is by norms `q_norm` and `k_norm`, before positions
        rotate them. Returns the maps that read the stream.
        """
        shared, views = heads // keys, views or {}
        modules = dict(zip("qkvo", (f"{module}.{name}" for name in names), strict=True))
        space = {name: f"{layer}.{name}" for name in ("heads", "queries", "qk", "ov")}
        inside: Matrices = RotaryMatrices(size, keys, rotated) if rotated else Matrices(size, keys)
        if normalised != "never":
            inside = RotarySigns(size, keys, size)
        self.spaces |= {
            space["heads"]: Space(Permutation(keys)),
            space["qk"]: Space(inside, inside=space["heads"]),
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
            has_bias = name in biases
            self.linear(f"{layer}.{name}", modules[name], axis, STREAM, bias=has_bias, view=views.get(name))
        output = Axis((space["heads"], *queries, space["ov"]), dual=True)
        self.linear(f"{layer}.o", modules["o"], STREAM, output, bias="o" in biases)
        for name in "qk" if normalised != "never" else "":
            scale = Axis(size=size) if normalised == "by head" else Axis(axes[name].spaces, scale=True)
            self.pieces[f"{layer}.{name} norm"] = Piece(f"{module}.{name}_norm.weight", (scale,))
        if {"v", "o"} <= set(biases):
            value, carries = f"{layer}.v.bias", f"{layer}.o.bias"
            self.attentions.append(Attention(value, f"{layer}.o", 1, carries, keys, shared))
        if "k" in biases and rotated < size and normalised == "never":
            rest = View(0, rotated, size, runs=keys) if rotated else None
            self.vanishing.append(Vanishing(f"{layer}.k.bias", rest))
        outputs = {name: View(-1, view.start, view.stop, view.runs) for name, view in views.items()}
        self.activations += [
            Activation("stream", modules["q"], "input"),
            Activation(
                space["queries"] if queries else space["qk"],
                modules["q"],
                "output",
                outputs.get("q"),
                acting=axes["q"].spaces,
            ),
            Activation(space["qk"], modules["k"], "output", outputs.get("k")),
            Activation(space["ov"], modules["v"], "output", outputs.get("v"))
            if queries
            else Activation(space["ov"], modules["o"], "input"),
        ]
        return [f"{layer}.{name}" for name in axes]

    def mlp(
        self,
        layer: str,
        up: str,
        down: str,
        hidden: int,
        *,
        bias: bool = True,
        scales: Group | None = None,
    ) -> list[str]:
        """An MLP down · act(up · x) of two modules; `scales` are those that the activation allows. Returns the map that
        reads the stream.
        """
        neurons, inside = f"{layer}.mlp", f"{layer}.scales"
        self.spaces[neurons] = Space(Permutation(hidden))
        if scales is not None:
            self.spaces[inside] = Space(scales, inside=neurons)
        acting = (neurons,) if scales is None else (neurons, inside)
        rows, columns = (Axis(acting, dual=dual) for dual in (False, True))
        self.linear(f"{layer}.fc", up, rows, STREAM, bias=bias)
        self.linear(f"{layer}.proj", down, STREAM, columns, bias=bias)
        # With ReLU nothing is seen after it of a neuron that never fires.
        seen: tuple[str, Literal["input", "output"]] = (down, "input") if scales is None else (up, "output")
        self.activations.append(Activation("stream", up, "input"))
        self.activations += [Activation(space, *seen) for space in acting]
        return [f"{layer}.fc"]

    def gated_mlp(
        self, layer: str, module: str, hidden: int, *, fused: str | None = None, bias: bool = False
    ) -> list[str]:
        """An MLP down · (act(gate · x) ∘ (up · x)); the module `fused`, where there is one, makes both gate and up.

        Returns the maps that read the stream.
        """
        neurons, scales = f"{layer}.mlp", f"{layer}.scales"
        self.spaces |= {neurons: Space(Permutation(hidden)), scales: Space(Scales(1, hidden), inside=neurons)}
        up, down = (Axis((neurons, scales), dual=dual) for dual in (False, True))
        names = (fused, fused, GATED[2]) if fused is not None else GATED
        modules = [f"{module}.{name}" for name in names]
        halves = [View(0, half * hidden, (half + 1) * hidden) if fused is not None else None for half in range(2)]
        self.linear(f"{layer}.gate", modules[0], Axis((neurons,)), STREAM, bias=bias, view=halves[0])
        self.linear(f"{layer}.up", modules[1], up, STREAM, bias=bias, view=halves[1])
        self.linear(f"{layer}.down", modules[2], STREAM, down, bias=bias)
        gates = View(-1, 0, hidden) if fused is not None else None
        self.activations += [
            Activation("stream", modules[0], "input"),
            Activation(neurons, modules[0], "output", gates),
            Activation(scales, modules[2], "input"),
        ]
        return [f"{layer}.gate", f"{layer}.up"]

    def experts(self, layer: str, module: str, *, experts: int, hidden: int) -> list[str]:
        """A router and `experts` gated MLPs of `hidden` neurons each, those of all in one tensor; returns the maps that
        read the stream.
        """
        space = {name: f"{layer}.{name}" for name in ("experts", "neurons", "expert scales")}
        self.spaces |= {
            space["experts"]: Space(Permutation(experts)),
            space["neurons"]: Space(NestedPermutation(hidden, experts), inside=space["experts"]),
            space["expert scales"]: Space(Scales(1, experts * hidden), inside=space["neurons"]),
        }
        neurons = (space["experts"], space["neurons"])
        up, down = (Axis((*neurons, space["expert scales"]), dual=dual) for dual in (False, True))
        rows, columns = (Stack(axis, experts) for axis in range(2))
        halves = [View(0, half * hidden, (half + 1) * hidden, runs=experts) for half in range(2)]
        self.pieces |= {
            f"{layer}.router": Piece(f"{module}.gate.weight", (Axis((space["experts"],)), STREAM)),
            f"{layer}.experts.gate": Piece(
                f"{module}.experts.gate_up_proj", (Axis(neurons), STREAM), halves[0], stack=rows
            ),
            f"{layer}.experts.up": Piece(f"{module}.experts.gate_up_proj", (up, STREAM), halves[1], stack=rows),
            f"{layer}.experts.down": Piece(f"{module}.experts.down_proj", (STREAM, down), stack=columns),
        }
        self.writers.append((f"{layer}.experts.down", 0))
        self.matrices += [f"{layer}.experts.{name}" for name in ("gate", "up", "down")]
        self.activations.append(Activation("stream", f"{module}.gate", "input"))
        return [f"{layer}.router", f"{layer}.experts.gate", f"{layer}.experts.up"]

    def family(self, *, tied: bool, head: Head | None = None, capped: bool = False, **facts: Any) -> Family:
        """The table, of a model whose unembedding is `lm_head`, or another `head`, and whose logits may be `capped`;
        `facts` are further fields of it.
        """
        if head is None:
            piece = Piece("lm_head.weight", (Axis(size=self.tokens), STREAM))
            head = Head("unembedding", piece, LinearMap("lm_head", 1), shifts=not capped)
            self.activations.append(Activation("stream", "lm_head", "input"))
        table = Family(
            stream="stream",
            spaces=self.spaces,
            pieces=self.pieces,
            norms=tuple(self.norms),
            attentions=tuple(self.attentions),
            vanishing=tuple(self.vanishing),
            writers=tuple(self.writers),
            embedding="embedding",
            positions=self.positions,
            unembedding=head,
            tied=True,
            matrices=tuple(self.matrices),
            activations=tuple(self.activations),
            maps=tuple(self.maps.values()),
            **facts,
        )
        return table if tied else table.untied()
