"""What a study is asked for: how much is computed, how many parts at a time, and on which further text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ..merge.reading import ACTIVATION_TOKENS
from .pretrain import CODE, DOCS, small_config

if TYPE_CHECKING:
    from transformers import GPT2Config

SEEDS = 5


@dataclass(frozen=True)
class Effort:
    """How much is computed: steps of everything that is trained, blocks in a step of a bend, tokens that are measured.

    `plane` is the resolution of planes, `looked_at` the tokens whose activations align models. `tokens` are measured to
    select, and as many to report on.
    """

    pretraining: int = 700
    bend: int = 120
    batch: int = 16
    learning: int = 200
    tokens: int = 8192
    fine_tuning: int = 150
    further: int = 60
    plane: int = 11
    looked_at: int = ACTIVATION_TOKENS
    layers: int = 4
    width: int = 128
    heads: int = 4
    docs: str = DOCS
    code: str = CODE

    def config(self) -> GPT2Config:
        """The models that are pretrained."""
        return small_config(layers=self.layers, width=self.width, heads=self.heads)


@dataclass(frozen=True)
class NetworkPlan:
    """How much is computed: networks of every setting, steps of training, of bends and of the attack, and widths."""

    seeds: int = 5
    steps: int = 4000
    bend_steps: int = 1500
    bends: int = 3
    widths: tuple[int, ...] = (4, 6, 8, 12, 16, 24, 32, 64, 128, 256)
    decays: tuple[float, ...] = (0.1, 0.2, 0.3, 0.5, 1.0, 2.0, 4.0)
    wide: int = 64
    example_seeds: int = 40
    attack_steps: int = 4000
    attackers: int = 32


@dataclass(frozen=True)
class WidthPlan:
    """The models of the study of width: seeds, layers, widths, and by optimizer the steps that train each width.

    The steps were chosen on another seed so that all models have nearly the same held-out loss.
    """

    seeds: int = 3
    layers: int = 2
    widths: tuple[int, ...] = (64, 128, 256, 512)
    steps: Mapping[str, tuple[int, ...]] = field(
        default_factory=lambda: {"adamw": (1000, 530, 340, 220), "muon": (430, 285, 180, 125)}
    )


@dataclass(frozen=True)
class Size:
    """How large a study is: models per optimizer, fine-tunes of every kind, small GPT-2s of one width and of several,
    and two-layer networks.
    """

    seeds: int
    fine_tunes: int
    effort: Effort
    networks: NetworkPlan
    widths: WidthPlan


FULL = Size(SEEDS, SEEDS, Effort(), NetworkPlan(), WidthPlan())
QUICK = Size(
    seeds=2,
    fine_tunes=1,
    effort=Effort(20, 4, 4, 20, 512, 5, 3, 5, 2048, 2, 32, 4, "stdlib:docs:heldout", "stdlib:code:heldout"),
    networks=NetworkPlan(2, 300, 50, 1, (8, 32), (0.5, 4.0), 32, 12, 200, 4),
    widths=WidthPlan(2, 1, (16, 32, 64), {"adamw": (30, 20, 10), "muon": (20, 15, 10)}),
)


@dataclass(frozen=True)
class StudyOptions:
    """Options of a study: quick or full, how many parts at a time, and further text for the studies that measure it."""

    quick: bool = False
    workers: int = 1
    other_texts: tuple[str, ...] = ()

    @property
    def size(self) -> Size:
        """How large the study is."""
        return QUICK if self.quick else FULL
