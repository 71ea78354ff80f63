"""Masks of the entries of a tensor that are kept: exactly the k of largest magnitude, or each with a probability."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from .blocks import RowBlocks

AT_ONCE = 2**16  # random words of 16 bits
HALF = 16

Array = npt.NDArray[np.integer]


@dataclass(frozen=True)
class Cut:
    """Keeps the entries whose magnitude has bits above `bits`, and the first `ties` of those that have exactly these.

    The bits of non-negative float32 numbers, read as integers, are in the order of the numbers.
    """

    bits: int
    ties: int

    def mask(self, block: Tensor, tied: int) -> tuple[Tensor, int]:
        """Which entries of the next block are kept, bool, and `tied`, the number of entries at the cut so far, anew."""
        bits = _bits(block)
        largest = bits > self.bits
        equal = bits == self.bits
        here = int(equal.sum())
        if here:
            largest |= equal & (equal.flatten().cumsum(0).view_as(equal) <= self.ties - tied)
        return largest, tied + here


NONE = Cut(torch.iinfo(torch.int32).max, 0)  # above every number


def cuts(blocks: RowBlocks, counts: Sequence[Callable[[int], int]]) -> list[Cut]:
    """Where to cut every part so that as many of its entries are kept as its count says, of how many there are.

    By radix, in two passes over the blocks.
    """
    upper = _histograms(blocks, lambda bits, part: bits >> HALF)
    wanted = [count(int(histogram.sum())) for count, histogram in zip(counts, upper, strict=True)]
    bins, left = zip(
        *(_from_above(histogram, count) for histogram, count in zip(upper, wanted, strict=True)), strict=True
    )
    lower = _histograms(blocks, lambda bits, part: bits[bits >> HALF == bins[part]] & (2**HALF - 1))
    thresholds = []
    for count, place, histogram, rest in zip(wanted, bins, lower, left, strict=True):
        within, ties = _from_above(histogram, rest)
        thresholds.append(Cut((place << HALF) | within, ties) if count else NONE)
    return thresholds


def share_of(share: float) -> Callable[[int], int]:
    """The count of a share, rounded down, but at least one."""
    return lambda entries: max(1, int(share * entries))


def _from_above(histogram: Array, count: int) -> tuple[int, int]:
    """The bin of the `count`-th largest entry, and how many of that bin are among the `count` largest."""
    above = histogram[::-1].cumsum()
    place = int(np.searchsorted(above, count))
    before = int(above[place - 1]) if place else 0
    return len(histogram) - 1 - place, count - before


def _histograms(blocks: RowBlocks, digits: Callable[[Array, int], Array]) -> list[Array]:
    """The count of every 16-bit digit, by part. By numpy, whose bincount is ten times as fast as torch's."""
    totals: list[Array] = []
    for parts in blocks:
        bits = (_bits(part).flatten().numpy() for part in parts)
        counts: list[Array] = [np.bincount(digits(part, i), minlength=2**HALF) for i, part in enumerate(bits)]
        totals = [a + b for a, b in zip(totals, counts, strict=True)] if totals else counts
    return totals


def _bits(block: Tensor) -> Tensor:
    return block.abs().contiguous().view(torch.int32)


class BernoulliMasks:
    """Entries that are True with a probability: by 16 random bits, and by 53 more where these do not decide."""

    def __init__(self, probability: float, seed: int):
        self._probability = probability
        bits, more = np.random.SeedSequence(seed).spawn(2)
        self._bits, self._more = np.random.PCG64(bits), np.random.default_rng(more)
        self._left: npt.NDArray[np.uint16] = np.empty(0, np.uint16)

    def draw(self, shape: Sequence[int]) -> Tensor | None:
        """The next entries, bool; None where all of them are True."""
        if self._probability >= 1:
            return None
        words = self._words(math.prod(shape))
        place = self._probability * 2**16
        whole = int(place)
        mask = words < whole
        undecided = np.flatnonzero(words == whole)
        mask[undecided] = self._more.random(len(undecided)) < place - whole
        return torch.from_numpy(mask).view(*shape)

    def _words(self, count: int) -> npt.NDArray[np.uint16]:
        parts = [self._left]
        missing = count - len(self._left)
        while missing > 0:
            raw = self._bits.random_raw(AT_ONCE // 4)
            parts.append(np.asarray(raw).view(np.uint16))
            missing -= AT_ONCE
        words = np.concatenate(parts)
        self._left = words[count:]
        return words[:count]
