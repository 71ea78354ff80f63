"""Random masks of independent entries: the same for a seed, however many entries are drawn at once."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

AT_ONCE = 2**16  # random words of 16 bits


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
        """The next random words."""
        parts = [self._left]
        missing = count - len(self._left)
        while missing > 0:
            raw = self._bits.random_raw(AT_ONCE // 4)
            parts.append(np.asarray(raw).view(np.uint16))
            missing -= AT_ONCE
        words = np.concatenate(parts)
        self._left = words[count:]
        return words[:count]
