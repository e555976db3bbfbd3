"""Sources of the draws that a guarantee rests on: the operating system's, and a seeded one of the same law for tests.

Both turn 64-bit words into numbers in the same way. Gaussians come from Box and Muller ("A note on the generation of
random normal deviates", 1958) in double precision with 53 random bits under the logarithm: the largest draw possible
lies at 8.57 standard deviations, so that what can be told from bounded support (2.5e-11 a release at a noise multiplier
of 0.5) is far below any delta.
"""

import math
import os
from abc import ABC, abstractmethod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedrec.draws import Counter
from fedrec.errors import FedrecError

PAIRS = 1 << 13  # drawn at a time: the working arrays then stay in the processor's cache
UNIT = 2.0**-53


class WordSource(ABC):
    """Gaussian and uniform draws from independent uniform 64-bit words."""

    @abstractmethod
    def _words(self, count: int) -> NDArray[np.uint64]:
        """Return `count` words that were never returned before."""

    @abstractmethod
    def keyed(self, users: NDArray[np.int64], index: NDArray[Any]) -> NDArray[np.uint64]:
        """Return uniform 64-bit words [C, ...] for users [C] and whole numbers `index` [C or 1, ...]."""

    def gaussian(self, shape: tuple[int, ...], std: float) -> NDArray[np.float64]:
        """Return independent N(0, std^2) draws of any shape, () and (0,) included."""
        if not (math.isfinite(std) and std >= 0):
            raise FedrecError(f"noise needs a finite standard deviation of at least 0, not {std}")
        size = math.prod(shape)
        flat = np.empty(size, np.float64)
        for start in range(0, size, 2 * PAIRS):
            part = flat[start : start + 2 * PAIRS]
            part[:] = self._normal_pairs((len(part) + 1) // 2)[: len(part)]
        flat *= std
        return flat.reshape(shape)

    def uniform(self, size: int) -> NDArray[np.float64]:
        """Return independent draws from [0, 1) with 53 random bits each."""
        return (self._words(size) >> np.uint64(11)).astype(np.float64) * UNIT

    def _normal_pairs(self, pairs: int) -> NDArray[np.float64]:
        """Return 2 * pairs standard normal draws."""
        bits = (self._words(2 * pairs) >> np.uint64(11)).astype(np.float64)
        bits *= UNIT
        radius, tangent = bits[:pairs], bits[pairs:]
        np.subtract(1.0, radius, out=radius)  # (0, 1]: the logarithm of 0 never comes up
        np.sqrt(-2.0 * np.log(radius), out=radius)
        # Sine and cosine from the tangent of the half angle, which numpy computes five times faster than either.
        tangent -= 0.5
        np.tan(math.pi * tangent, out=tangent)
        square = tangent * tangent
        radius /= 1.0 + square
        normal = np.empty(2 * pairs, np.float64)
        np.multiply(1.0 - square, radius, out=normal[:pairs])
        np.multiply(2.0 * tangent, radius, out=normal[pairs:])
        return normal


class SystemRandom(WordSource):
    """Draws from the operating system's generator.

    Nothing is kept between draws, so that neither a fork nor a restored snapshot can repeat one.
    """

    def _words(self, count: int) -> NDArray[np.uint64]:
        return np.frombuffer(os.urandom(8 * count), np.uint64)

    def keyed(self, users: NDArray[np.int64], index: NDArray[Any]) -> NDArray[np.uint64]:
        """Return words [C, ...] that were never given before, whatever the users and the index."""
        shape = np.broadcast_shapes((len(users), *(1,) * (index.ndim - 1)), index.shape)
        return self._words(math.prod(shape)).reshape(shape)


class SeededRandom(WordSource):
    """The same law from a public key of whole numbers >= 0, for tests: what it hides can be found out by anybody."""

    def __init__(self, *key: int) -> None:
        if any(part < 0 or part >= 1 << 64 for part in key):
            raise FedrecError(f"a seed key holds whole numbers from 0 to 2^64 - 1, not {key}")
        # The length comes first and each part fills two words, because SeedSequence takes (1,) and (1, 0) for the same.
        words = [len(key), *(word for part in key for word in (int(part) & 0xFFFFFFFF, int(part) >> 32))]
        self._generator = np.random.Philox(np.random.SeedSequence(words))
        self._counter = Counter(*key)

    def _words(self, count: int) -> NDArray[np.uint64]:
        return np.asarray(self._generator.random_raw(count), np.uint64)

    def keyed(self, users: NDArray[np.int64], index: NDArray[Any]) -> NDArray[np.uint64]:
        """Return the words of this key for these users and this index."""
        return self._counter.keyed(users, index)


def source(randomness: str, key: tuple[int, ...]) -> WordSource:
    """Return the operating system's generator, or with randomness "seeded" the one of this key."""
    return SeededRandom(*key) if randomness == "seeded" else SystemRandom()
