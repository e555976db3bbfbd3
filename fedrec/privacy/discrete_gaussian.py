"""Noise on the whole numbers whose law is known: the discrete Gaussian D(v), P(k) proportional to exp(-k^2 / (2 v)).

Canonne, Kamath & Steinke, "The discrete Gaussian for differential privacy", 2020. Their sampler is exact and takes
tens of microseconds a draw; here a draw is two look-ups in a table made with whole-number arithmetic alone. Of the
2^32 words, floor(2^32 P(k)) say k, through an alias table (Walker, "An efficient method for generating discrete random
variables with general distributions", 1977; Vose, "A linear algorithm for generating random numbers with a given
distribution", 1991). The words that the floors leave over are an escape, which takes 128 more bits and the law of what
was cut off. So no float has a part in a draw, and its law is that of D(v) up to a total variation under 2^-130.

Beyond `ONE_TABLE` steps a deviation, a draw is x + scale y of two smaller tables: completing the square shows that the
sum is one discrete Gaussian, up to a factor of 1 +- 2^-168. How long a block takes does not depend on its draws, but
for an escape in it; which lines of a table the processor's cache holds afterwards does.
"""

import math
from bisect import bisect_right
from collections.abc import Callable
from fractions import Fraction
from functools import lru_cache
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from fedrec.errors import FedrecError

Integers = NDArray[np.int32]
Words = NDArray[np.uint32]
Stream = Callable[[int], NDArray[np.uint64]]  # gives as many words as asked, none of them given before

WORD_BITS, ESCAPE_BITS, FIXED_BITS = 32, 128, 320  # of a draw, of an escape, of the arithmetic that makes the tables
REACH = 14  # deviations that a table holds: 2^-145 of the law lies beyond
LEAST_VARIANCE = 8  # below it, sums of draws are no discrete Gaussians
ONE_TABLE = 1 << 12  # steps a deviation up to which one table serves
SMOOTH = 6  # the variance, in steps of the coarse table, from which a sum of two tables is one law
ESCAPE = 1 << 30  # what a column says that means: escape; no number of a table is as large
LARGEST_DEVIATION = 1 << 26
BLOCK = 1 << 15  # draws at a time: words and tables stay in the processor's cache


def gaussian_weights(variance: Fraction) -> list[int]:
    """Return 2^320 exp(-k^2 / (2 v)) for k = 0, 1, ... up to 14 deviations, rounded down, wrong by less than 2^64."""
    one, exponent = 1 << FIXED_BITS, 1 / (2 * variance)
    decay = term = one  # of exp(-1 / (2 v)), by its series
    order = 1
    while term:
        term = -term * exponent.numerator // (exponent.denominator * order) if order < 400 else 0
        decay, order = decay + term, order + 1
    weights, ratio, square = [one], decay, decay * decay >> FIXED_BITS
    for _ in range(math.isqrt(math.ceil(REACH * REACH * variance)) + 1):
        weights.append(weights[-1] * ratio >> FIXED_BITS)
        ratio = ratio * square >> FIXED_BITS  # exp(-(2 k + 1) / (2 v)), from k to k + 1
    return weights


class AliasTable:
    """Draws `scale` k, where k = -K..K has the probability of its weight among `weights` [2 K + 1], whole numbers.

    The top bits of a word choose a column; it says `numbers[2 column]` up to the word `last[column]`, and
    `numbers[2 column + 1]` after it.
    """

    def __init__(self, weights: list[int], scale: int = 1) -> None:
        total = sum(weights)
        whole, rest = zip(*(divmod(weight << WORD_BITS, total) for weight in weights), strict=True)
        self.scale, self.lowest = scale, -(len(weights) // 2)
        said = [place for place, words in enumerate(whole) if words]
        shares = [*(whole[place] for place in said), (1 << WORD_BITS) - sum(whole)]
        means = np.array([*(scale * (place + self.lowest) for place in said), ESCAPE], np.int32)
        bits = max(1, (len(shares) - 1).bit_length())
        self.shift = WORD_BITS - bits
        own, other = _columns(shares + [0] * ((1 << bits) - len(shares)), 1 << self.shift)
        columns = np.arange(1 << bits)
        self.last = ((columns << self.shift) + own - 1).astype(np.uint32)
        said_there = np.minimum(np.stack([columns, other], axis=1), len(shares) - 1)
        self.numbers = means[said_there].reshape(-1)
        left = max(sum(rest), 1)
        self.escape_cuts = [(cut << ESCAPE_BITS) // left for cut in accumulate(rest[:-1])]

    def draw(self, words: Words, stream: Stream) -> Integers:
        """Return one draw for each word; escapes take more words from `stream`."""
        found = look_up(words, self.last, self.numbers, self.shift)
        if int(found.max(initial=0)) == ESCAPE:
            where = np.flatnonzero(found == ESCAPE)
            found[where] = self.draw_escapes(len(where), stream)
        return found

    def draw_escapes(self, count: int, stream: Stream) -> Integers:
        """Return draws of the law that the floors cut off."""
        pairs = stream(2 * count).reshape(-1, 2).tolist()
        places = [bisect_right(self.escape_cuts, high << 64 | low) for high, low in pairs]
        return np.array([self.scale * (place + self.lowest) for place in places], np.int32)


def _columns(shares: list[int], room: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return how many of a column's `room` words are its own, and to which share the others belong.

    Column 0 must have a share of its own, or its last word would be none.
    """
    left, own, other = list(shares), [room] * len(shares), list(range(len(shares)))
    small = [column for column, share in enumerate(shares) if share < room]
    large = [column for column, share in enumerate(shares) if share > room]
    while small:
        column, donor = small.pop(), large[-1]
        own[column], other[column] = left[column], donor
        left[donor] -= room - left[column]
        if left[donor] <= room:
            large.pop()
        if left[donor] < room:
            small.append(donor)
    return np.array(own), np.array(other)


def look_up(words: Words, last: Words, numbers: Integers, shift: int) -> Integers:
    """Return what each word's column says. No branch on what is drawn: it would tell by its time."""
    place = (words >> np.uint32(shift)).astype(np.intp)
    beyond = words > last.take(place, mode="clip")
    place += place
    place += beyond
    return numbers.take(place, mode="clip")


@lru_cache(maxsize=64)
def gaussian_table(variance: Fraction, scale: int) -> AliasTable:
    """Return the table of scale times D(variance)."""
    half = gaussian_weights(variance)
    return AliasTable(half[:0:-1] + half, scale)


def gaussian_tables(variance: int) -> list[AliasTable]:
    """Return the tables whose draws add up to D(variance); errors name a variance that no table serves."""
    deviation = math.isqrt(variance - 1) + 1 if variance > 0 else 0
    if variance < LEAST_VARIANCE or deviation > LARGEST_DEVIATION:
        raise FedrecError(
            f"noise of variance {variance} in grid steps squared: the grid needs {LEAST_VARIANCE} at least and "
            f"{LARGEST_DEVIATION}^2 at most; take another noise multiplier, or another number of grid bits"
        )
    if deviation <= ONE_TABLE:
        return [gaussian_table(Fraction(variance), 1)]
    # With v = v1 + scale^2 v2, the sum is one law where 1 / (1 / v2 + scale^2 / v1) is at least SMOOTH. Both tables
    # have about the same size: sqrt(7) scale steps a deviation, and deviation / scale.
    scale = math.isqrt(4 * deviation // 10)
    fine = Fraction((SMOOTH + 1) * scale**2)
    return [gaussian_table(fine, 1), gaussian_table((variance - fine) / scale**2, scale)]


def draw_discrete_gaussian(size: int, variance: int, stream: Stream) -> Integers:
    """Return `size` independent draws of D(variance), whose words `stream` gives."""
    tables, drawn = gaussian_tables(variance), np.empty(size, np.int32)
    for start in range(0, size, BLOCK):
        part = drawn[start : start + BLOCK]
        for number, table in enumerate(tables):
            words = stream((len(part) + 1) // 2).view(np.uint32)[: len(part)]
            found = table.draw(words, stream)
            np.add(part, found, out=part) if number else np.copyto(part, found)
    return drawn
