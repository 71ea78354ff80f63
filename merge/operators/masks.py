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
WORTH_KEEPING = 2**27  # bits
_BELOW_SIGN = 2**31 - 1  # all bits but the sign

Array = npt.NDArray[np.integer]
Masks = Callable[[list[Tensor]], list[Tensor | None]]  # of the entries that are kept, None: all; block by block
Count = Callable[[int, int], int]  # of the entries, and of those that are not zero


@dataclass(frozen=True)
class Cut:
    """Keeps the entries whose magnitude has bits above `bits`, and the first `ties` of those that have exactly these.

    The bits of non-negative float32 numbers, read as integers, are in the order of the numbers.
    """

    bits: int
    ties: int

    def mask(self, block: Tensor, tied: int) -> tuple[Tensor, int]:
        """Which entries of the next block are kept, bool, and `tied`, the number of entries at the cut so far, anew."""
        bits = magnitudes(block)
        largest, equal = bits > self.bits, bits == self.bits
        here = int(np.count_nonzero(equal))
        if here:
            largest |= equal & (equal.cumsum() <= self.ties - tied)
        return torch.from_numpy(largest).view_as(block), tied + here

    @property
    def value(self) -> float:
        """The number at the cut, also where `in_order` made the bits."""
        bits = self.bits if self.bits >= 0 else self.bits ^ _BELOW_SIGN
        return float(np.int32(bits).view(np.float32))


NONE = Cut(_BELOW_SIGN, 0)  # above every number


def magnitudes(block: Tensor) -> Array:
    """Integers in the order of the magnitudes of float32 numbers: their bits, flat."""
    return block.abs().flatten().view(torch.int32).numpy()


def in_order(block: Tensor) -> Array:
    """Integers in the order of float32 numbers, flat: their bits, those of negative numbers reversed."""
    bits = block.flatten().view(torch.int32)
    return (bits ^ ((bits >> 31) & _BELOW_SIGN)).numpy()


def cuts(
    blocks: RowBlocks, counts: Sequence[Sequence[Count]], keys: Callable[[Tensor], Array] = magnitudes
) -> list[list[Cut]]:
    """Where to cut every part so that as many of its largest entries, by `keys`, are kept as each count says.

    By radix, in two passes over the blocks. By numpy, whose bincount is ten times as fast as torch's.
    """
    upper = [np.zeros(2**HALF, np.int64) for _ in counts]
    filled = [0] * len(counts)
    for parts in blocks:
        for i, bits in enumerate(map(keys, parts)):
            upper[i] += np.bincount((bits >> HALF) + 2 ** (HALF - 1), minlength=2**HALF)
            filled[i] += int(np.count_nonzero(bits))
    wanted = [[count(int(upper[i].sum()), filled[i]) for count in own] for i, own in enumerate(counts)]
    places = [[_from_above(upper[i], count) for count in own] for i, own in enumerate(wanted)]
    lower = [[np.zeros(2**HALF, np.int64) for _ in own] for own in counts]
    for parts in blocks:
        for i, bits in enumerate(map(keys, parts)):
            high = bits >> HALF
            for histogram, (place, _) in zip(lower[i], places[i], strict=True):
                low = bits[high == place - 2 ** (HALF - 1)] & (2**HALF - 1)
                histogram += np.bincount(low, minlength=2**HALF)
    return [[_cut(*one) for one in zip(*own, strict=True)] for own in zip(wanted, places, lower, strict=True)]


def _cut(count: int, place: tuple[int, int], lower: Array) -> Cut:
    if not count:
        return NONE
    within, ties = _from_above(lower, place[1])
    return Cut(((place[0] - 2 ** (HALF - 1)) << HALF) | within, ties)


def share_of(share: float) -> Count:
    """The count of a share, rounded down, but at least one."""
    return lambda entries, _: max(1, int(share * entries))


def _from_above(histogram: Array, count: int) -> tuple[int, int]:
    """The bin of the `count`-th largest entry, and how many of that bin are among the `count` largest."""
    above = histogram[::-1].cumsum()
    place = int(np.searchsorted(above, count))
    before = int(above[place - 1]) if place else 0
    return len(histogram) - 1 - place, count - before


def keep(block: Tensor, mask: Tensor) -> Tensor:
    """Set the entries outside a mask to zero, in place. By numpy, which is three times as fast as torch."""
    np.multiply(block.numpy(), mask.numpy(), out=block.numpy())
    return block


class RepeatedMasks:
    """The masks of two passes over blocks: kept as bits after the first one, or made again where these are too many."""

    def __init__(self, masker: Callable[[], Masks]):
        self._masker = masker
        self._packed: list[list[tuple[npt.NDArray[np.uint8], torch.Size] | None]] = []
        self._bits = 0

    def first(self) -> Masks:
        """The masks of the first pass, which goes over all blocks."""
        masks = self._masker()

        def draw(deltas: list[Tensor]) -> list[Tensor | None]:
            drawn = masks(deltas)
            self._bits += sum(mask.numel() for mask in drawn if mask is not None)
            if self._bits <= WORTH_KEEPING:
                packed = [None if mask is None else (np.packbits(mask.numpy()), mask.shape) for mask in drawn]
                self._packed.append(packed)
            else:
                self._packed.clear()
            return drawn

        return draw

    def again(self) -> Masks:
        """The same masks for the second one."""
        if self._bits > WORTH_KEEPING:
            return self._masker()
        blocks = iter(self._packed)
        return lambda deltas: [None if mask is None else _unpacked(*mask) for mask in next(blocks)]


def _unpacked(bits: npt.NDArray[np.uint8], shape: torch.Size) -> Tensor:
    return torch.from_numpy(np.unpackbits(bits, count=shape.numel()).view(np.bool_)).view(shape)


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
        return torch.from_numpy(mask).view(torch.Size(shape))

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
