"""Sources of the draws that a guarantee rests on: one keyed by the operating system, and a seeded one for tests.

Both turn random words into numbers in the same way. A Gaussian is the inverse of its distribution function at a signed
32-bit word w, sqrt(2) erfinv(w / 2^31), in single precision. That would end at 6.2 standard deviations, and its last
steps would be coarse, so a word in the outer 2^-12 only says "tail, and on this side": how far out is drawn anew from a
64-bit word, in double precision. So the tail has 77 random bits, the largest draw lies at 10.1 standard deviations, and
what can be told from bounded support (under 1e-20 a release at a noise multiplier of 0.5) is far below any delta;
docs/development/invariants.md has what 24 and 32 bits would cost. What remains is that sums of floating-point numbers
are not real numbers (Mironov, "On significance of the least significant bits for differential privacy", 2012).
"""

import math
import os
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray
from scipy.special import ndtri

from fedrec.errors import FedrecError
from fedrec.privacy.discrete_gaussian import Integers, draw_discrete_gaussian
from fedrec.rng import CounterRNG, uniform

Words = NDArray[np.uint64]
Stream = Callable[[int], Words]

BLOCK = 1 << 17  # draws at a time: the working arrays then stay in the processor's cache
TAIL_BITS = 12
EDGE = (1 << 31) - (1 << (31 - TAIL_BITS))
FEW_BYTES = 1 << 9  # fewer than these, and a call of the operating system costs less than a cipher's key


class NoiseBase(ABC):
    """Gaussian and uniform draws from independent uniform 64-bit words."""

    @abstractmethod
    def _stream(self, about: int) -> Stream:
        """Return a function that gives as many words as asked, none of them given before; `about` so many in all."""

    @abstractmethod
    def keyed(self, users: NDArray[np.int64], index: NDArray[Any]) -> Words:
        """Return uniform 64-bit words [C, ...] for users [C] and whole numbers `index` [C or 1, ...]."""

    def gaussian(self, shape: tuple[int, ...], std: float) -> NDArray[np.float32]:
        """Return independent N(0, std^2) draws of any shape, () and (0,) included."""
        if not (math.isfinite(std) and std >= 0):
            raise FedrecError(f"noise needs a finite standard deviation of at least 0, not {std}")
        size = math.prod(shape)
        flat, stream = np.empty(size, np.float32), self._stream((size + 1) // 2)
        for start in range(0, size, BLOCK):
            _normals(flat[start : start + BLOCK], stream, std)
        return flat.reshape(shape)

    def discrete_gaussian(self, shape: tuple[int, ...], variance: int) -> Integers:
        """Return independent whole numbers of P(k) proportional to exp(-k^2 / (2 variance)), exact to 2^-130 each.

        `variance` is in grid steps squared, at least 8.
        """
        size = math.prod(shape)
        return draw_discrete_gaussian(size, variance, self._stream((size + 1) // 2)).reshape(shape)

    def uniform(self, size: int) -> NDArray[np.float64]:
        """Return independent draws from [0, 1) with 53 random bits each."""
        return uniform(self._stream(size)(size))


def _normals(out: NDArray[np.float32], stream: Stream, std: float) -> None:
    """Fill an array with N(0, std^2) draws."""
    words = stream((len(out) + 1) // 2).view(np.int32)[: len(out)]
    # Both tails at once, because adding the edge wraps the negative words around.
    tail = np.flatnonzero(words.view(np.uint32) + np.uint32(EDGE) >= np.uint32(2 * EDGE))
    np.copyto(out, words, casting="unsafe")
    torch.from_numpy(out).mul_(2.0**-31).erfinv_().mul_(math.sqrt(2.0) * std)
    if len(tail):
        depth = (stream(len(tail)).astype(np.float64) + 0.5) * 2.0 ** -(64 + TAIL_BITS + 1)
        out[tail] = np.where(words[tail] < 0, std, -std) * ndtri(depth)


class SystemNoise(NoiseBase):
    """Draws keyed by the operating system: AES-256 in counter mode, under a fresh key for every call.

    Nothing is kept between draws, so that neither a fork nor a restored snapshot can repeat one.
    """

    def _stream(self, about: int) -> Stream:
        if 8 * about <= FEW_BYTES:
            return lambda count: np.frombuffer(os.urandom(8 * count), np.uint64)
        cipher = Cipher(algorithms.AES(os.urandom(32)), modes.CTR(bytes(16))).encryptor()
        zeros = bytes(min(8 * about, 4 * BLOCK))
        return lambda count: np.frombuffer(cipher.update(zeros[: 8 * count].ljust(8 * count, b"\0")), np.uint64)

    def keyed(self, users: NDArray[np.int64], index: NDArray[Any]) -> Words:
        """Return words [C, ...] that were never given before, whatever the users and the index."""
        shape = np.broadcast_shapes((len(users), *(1,) * (index.ndim - 1)), index.shape)
        return self._stream(math.prod(shape))(math.prod(shape)).reshape(shape)


class SeededNoise(NoiseBase):
    """The same law from a public key of whole numbers >= 0, for tests: what it hides can be found out by anybody."""

    def __init__(self, *key: int) -> None:
        if any(part < 0 or part >= 1 << 64 for part in key):
            raise FedrecError(f"a seed key holds whole numbers from 0 to 2^64 - 1, not {key}")
        # The length comes first and each part fills two words, because SeedSequence takes (1,) and (1, 0) for the same.
        words = [len(key), *(word for part in key for word in (int(part) & 0xFFFFFFFF, int(part) >> 32))]
        self._generator = np.random.Philox(np.random.SeedSequence(words))
        self._counter = CounterRNG(*key)

    def _stream(self, about: int) -> Stream:
        return lambda count: np.asarray(self._generator.random_raw(count), np.uint64)

    def keyed(self, users: NDArray[np.int64], index: NDArray[Any]) -> Words:
        """Return the words of this key for these users and this index."""
        return self._counter.keyed(users, index)


def make_noise_source(randomness: str, key: tuple[int, ...]) -> NoiseBase:
    """Return the operating system's generator, or with randomness "seeded" the one of this key."""
    return SeededNoise(*key) if randomness == "seeded" else SystemNoise()
