"""Draws by counter: a number is a function of its key, its user and its index, of nothing drawn before.

So one device alone, a thousand at once, and any way of dividing them among shards, threads or machines see the same
draws. Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011; the mixing function is SplitMix64's (Steele,
Lea & Flood, "Fast splittable pseudorandom number generators", 2014). Anybody who knows the key can draw them again: no
guarantee may rest on them.
"""

from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

Words = NDArray[np.uint64]

STEP = np.uint64(0x9E3779B97F4A7C15)
FIRST, SECOND = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
UNIT = 2.0**-53
HALF = np.uint64(32)


def splitmix64(words: Words) -> Words:
    """Scramble 64-bit words in place, one to one, and return them."""
    words ^= words >> np.uint64(30)
    words *= FIRST
    words ^= words >> np.uint64(27)
    words *= SECOND
    words ^= words >> np.uint64(31)
    return words


class Stream(IntEnum):
    """What a draw is for: a part of its key, so that no two kinds of draws share numbers.

    The numbers are part of every seeded result: they never change. Draws of the evaluation have keys of their own,
    (seed, user) for the sampled candidates and (seed, user, 1) for ties.
    """

    RELEASE = 1  # what a device draws for its release, apart from its training
    NODE = 2  # a node's noise, apart from its devices'
    DROPOUT = 3  # which devices of a simulated cohort stay away
    COHORT = 4  # which devices take part in a round
    SERVER = 5  # the server's noise
    TRAIN = 6  # batches and negatives, apart from noise
    PRIVATE = 7  # a device's first private parameters
    NOISE = 8  # the noise of local steps in the vectorized engine
    INIT = 11  # the first model
    GROUPS = 12  # the partition of devices into groups that take turns


class CounterRNG:
    """Draws from a public key of whole numbers from 0 to 2^64 - 1."""

    def __init__(self, *key: int) -> None:
        # The length comes first and each part fills two words, because SeedSequence takes (1,) and (1, 0) for the same.
        parts = [len(key), *(word for part in key for word in (int(part) & 0xFFFFFFFF, int(part) >> 32))]
        self._start, self._mask = np.random.SeedSequence(parts).generate_state(2, np.uint64)

    def keyed(self, users: NDArray[np.int64], index: NDArray[Any]) -> Words:
        """Return uniform 64-bit words [C, ...] for users [C] and whole numbers `index` [C or 1, ...]."""
        with np.errstate(over="ignore"):
            first = self.firsts(users).reshape(-1, *(1,) * (index.ndim - 1))
            return splitmix64(first + index.astype(np.uint64) * STEP)

    def firsts(self, users: NDArray[np.int64]) -> Words:
        """Return the words [C] that those of users [C] are counted from."""
        with np.errstate(over="ignore"):
            return splitmix64((users.astype(np.uint64) + self._start) * STEP) ^ self._mask


def uniform(words: Words) -> NDArray[np.float64]:
    """Turn words into numbers from [0, 1) with 53 random bits each."""
    return (words >> np.uint64(11)).astype(np.float64) * UNIT


def random_below(words: Words, limit: NDArray[Any] | int) -> NDArray[np.int64]:
    """Turn words into whole numbers from 0 to limit - 1, for limits up to 2^32; uneven by at most limit / 2^32."""
    return ((words >> HALF) * np.asarray(limit, np.uint64) >> HALF).astype(np.int64)


def normal(words: Words) -> NDArray[np.float64]:
    """Turn words [..., 2 n] into standard normal draws [..., 2 n] (Box and Muller 1958), for what hides nothing."""
    half = words.shape[-1] // 2
    radius = np.sqrt(-2.0 * np.log1p(-uniform(words[..., :half])))
    angle = 2.0 * np.pi * uniform(words[..., half:])
    return np.concatenate([radius * np.cos(angle), radius * np.sin(angle)], axis=-1)
