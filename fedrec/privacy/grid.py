"""The public grid that everything private leaves on: whole multiples of clip / 2^bits, bounded and noised as integers.

A contribution is rounded to the grid, and its length is checked there in whole numbers, so that the bound is certain
whatever floating point did before. Noise is the discrete Gaussian D(v) with v = ceil((z 2^bits)^2) + 6. That is a
randomised post-processing of the Gaussian of multiplier z: given y = x + N(0, r^2) with x whole, draw whole k with
probability proportional to exp(-(k - y)^2 / 2c). Integrating y out leaves D(r^2 + c) around x up to a factor of
1 +- 4 exp(-2 pi^2 c), which is 2^-168 at c = 6. So every accountant of the Gaussian mechanism holds for the same z.

Whole numbers travel packed: 64 of them, each shifted to its place, fill as many 64-bit words as one of them has bits.
Devices without torch use this file too.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from fedrec.errors import FedrecError
from fedrec.privacy.discrete_gaussian import LARGEST_DEVIATION, LEAST_VARIANCE, REACH

Floats = NDArray[np.float64]
Whole = NDArray[np.int64]
Words = NDArray[np.uint64]

LEAST_BITS, MOST_BITS = 12, 26  # up to 26, the square of a length is exact in double precision
SMOOTHING = 6  # of the variance, in steps squared: what makes the noise a post-processing of the Gaussian
SPARE = 1 << 5  # by how much the noise of uneven rounds, or of a group of devices, may pass that of one release
PASSES = 16  # of shrinking; two are enough for whatever was not made to need more
BLOCK = 64  # numbers that are packed together


@dataclass(frozen=True, slots=True)
class Grid:
    """Whole multiples of `step` = `clip` / 2^`bits`, in which a contribution is at most 2^`bits` long."""

    bits: int
    clip: float

    def __post_init__(self) -> None:
        if not 1 <= self.bits <= MOST_BITS:
            raise FedrecError(f"a grid of {self.bits} bits: 1 to {MOST_BITS} expected")
        if not 1e-100 < self.clip < 1e100:
            raise FedrecError(f"privacy.clip={self.clip}: a grid takes what lies between 1e-100 and 1e100")

    @classmethod
    def of(cls, clip: float, numbers: int, noise_multiplier: float = 0.0, fine: int = 16) -> "Grid":
        """Return the grid for releases of so many numbers: max(12, ceil(log2(fine sqrt(numbers)))) bits.

        Rounding then moves a whole contribution by at most 1 / (2 fine) of the clip, and far less where it matters.
        Fewer bits where noise would pass what the sampler's tables hold: it then hides far more than rounding does.
        """
        bits = max(LEAST_BITS, ((fine**2 * max(numbers, 1) - 1).bit_length() + 1) // 2)
        while bits > 1 and noise_multiplier * 2**bits > LARGEST_DEVIATION // SPARE:
            bits -= 1
        return cls(min(bits, MOST_BITS), clip)

    @property
    def length(self) -> int:
        """How many steps the clip has."""
        return 1 << self.bits

    @property
    def step(self) -> float:
        """What one step is worth."""
        return self.clip / self.length

    def variance(self, noise_multiplier: float, more: int = 0) -> int:
        """Return the variance of the noise in steps squared that hides what N(0, (z clip)^2) hides.

        `more` is by how many steps the sensitivity passes the clip.
        """
        deviation = Fraction(noise_multiplier) * (self.length + more)
        return max(math.ceil(deviation**2) + SMOOTHING, LEAST_VARIANCE)

    def values(self, whole: Whole) -> Floats:
        """Return what whole numbers of steps are worth."""
        return whole.astype(np.float64) * self.step


def reach(count: int, length: int, variance: int) -> int:
    """Return the largest number that a sum of `count` releases can hold, but for a chance below 2^-140.

    Each is at most `length` long and has noise of this variance.
    """
    return count * length + 2 * REACH * (math.isqrt(count * variance) + 1) * (variance > 0)


def fitted(scales: Floats, length: int, squares: Callable[[Floats], Floats]) -> Floats:
    """Return scales [C], shrunk until what they scale rounds to at most `length`; 0 where that does not come about.

    `squares(scales)` are the squared lengths of the rounded vectors, sums of squares of whole numbers in double
    precision. Those are exact below 2^53 in any order, and none is below 2^53 that should not be: no float can let a
    vector pass that is too long.
    """
    for _ in range(PASSES):
        found = squares(scales)
        long = ~(found <= length**2)
        if not long.any():
            return scales
        # By half a step more than the excess, or rounding might bring it back.
        shorter = length / np.sqrt(np.where(long, found, 1.0)) * (1 - 1 / (2 * length + 2))
        scales = np.where(long, scales * shorter, scales)
    return np.where(squares(scales) <= length**2, scales, 0.0)


def rounded(values: NDArray[np.floating], scale: float) -> Floats:
    """Return the whole numbers nearest to scale * values, in double precision; zeros where the scale is 0."""
    wide = np.multiply(values, scale, dtype=np.float64) if scale else np.zeros(np.shape(values))
    return np.rint(wide, out=wide)


def on_grid(values: NDArray[np.floating], grid: Grid) -> Whole:
    """Return the vector on the grid, clipped: at most 2^bits steps long for certain, zeros for what is not finite."""
    with np.errstate(over="ignore"):  # what overflows is not finite, and counts as such
        norm = math.sqrt(float(np.sum(np.square(values, dtype=np.float64))))
    scale = grid.length / max(norm, grid.clip) if math.isfinite(norm) else 0.0
    scales = fitted(np.array([scale]), grid.length, lambda now: squared_length(rounded(values, float(now[0]))))
    return rounded(values, float(scales[0])).astype(np.int64)


def squared_length(whole: Floats) -> Floats:
    """Return the squared length [1] of whole numbers in double precision."""
    return np.array([np.sum(np.square(whole))])


def packed_bits(largest: int) -> int:
    """Return how many bits hold every whole number from -largest to largest."""
    return max(1, (2 * largest).bit_length())


def packed_words(numbers: int, largest: int) -> int:
    """Return how many 64-bit words so many numbers fill, packed."""
    return -(-numbers // BLOCK) * packed_bits(largest)


def pack_integers(whole: Whole, largest: int) -> Words:
    """Return numbers between -largest and largest as words, `packed_words` of them; others are `FedrecError`."""
    flat, bits = whole.reshape(-1), packed_bits(largest)
    if len(flat) and not -largest <= int(flat.min()) <= int(flat.max()) <= largest:
        raise FedrecError(f"a number of a release lies beyond {largest} steps")
    return pack_bits((flat + largest).view(np.uint64), bits)


def pack_bits(numbers: Words, bits: int) -> Words:
    """Return numbers below 2^bits packed, 64 of them in `bits` words."""
    columns = -(-len(numbers) // BLOCK)
    raised = np.zeros(BLOCK * columns, np.uint64)
    raised[: len(numbers)] = numbers
    words = np.zeros((bits, columns), np.uint64)
    for place, row in enumerate(raised.reshape(BLOCK, columns)):
        word, shift = divmod(place * bits, 64)
        words[word] |= row << np.uint64(shift)
        if shift + bits > 64:
            words[word + 1] |= row >> np.uint64(64 - shift)
    return words.reshape(-1)


def unpack_integers(words: Words, numbers: int, largest: int) -> Whole:
    """Return the numbers that were packed; words that hold others, or another number of them, are `FedrecError`."""
    bits = packed_bits(largest)
    if words.dtype != np.uint64 or words.shape != (packed_words(numbers, largest),):
        columns = -(-numbers // BLOCK)
        raise FedrecError(f"{numbers} whole numbers of {bits} bits are {bits * columns} words of 64 bits")
    flat = unpack_bits(words, numbers, bits)
    if len(flat) and int(flat.max()) > 2 * largest:
        raise FedrecError(f"a number lies beyond {largest} steps")
    return flat.view(np.int64) - largest


def unpack_bits(words: Words, numbers: int, bits: int) -> Words:
    """Return so many numbers below 2^bits that were packed."""
    columns = -(-numbers // BLOCK)
    rows, mask = words.reshape(bits, columns), np.uint64((1 << bits) - 1)
    raised = np.zeros((BLOCK, columns), np.uint64)
    for place in range(BLOCK):
        word, shift = divmod(place * bits, 64)
        np.right_shift(rows[word], np.uint64(shift), out=raised[place])
        if shift + bits > 64:
            raised[place] |= rows[word + 1] << np.uint64(64 - shift)
        raised[place] &= mask
    return raised.reshape(-1)[:numbers]
