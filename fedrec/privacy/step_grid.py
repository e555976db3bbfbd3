"""The public grids of DP-SGD: every step sums whole numbers, each example's clipped gradient and the noise among them.

Vectors (rows of tables, biases, what a layer norm learns) lie on steps of clip / 2^bits: 10 bits where an example is an
interaction, whose gradient has some hundred numbers, 12 where it is all of a user's. The gradient of a linear layer's
weights is a sum over places of slope times input: inputs of unit length are rounded to steps of 2^-8 and slopes to
steps of 2^-10, so that products are whole steps of clip / 2^18 and no example's gradient need be laid out. An example
is at most one clip long, all of its arrays together, counted in steps of the finer grid.

The noise of a step is D(v) of the array's own grid, v = ceil((z 2^bits)^2) + 6 (`fedrec.privacy.grid`): number by
number a post-processing of the Gaussian of multiplier z, so that steps on two grids cost what that Gaussian costs.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedrec.privacy.discrete_gaussian import LARGEST_DEVIATION
from fedrec.privacy.grid import Grid
from fedrec.privacy.release import IntegerNoise

EXAMPLE_BITS, USER_BITS = 10, 12  # of the grid of vectors, where an example is an interaction, or a user
INPUT_BITS, SLOPE_BITS = 8, 10
AIM = 1 - 2.0**-9  # of the clip: rounding then seldom makes an example too long, which costs another pass
SMALL = 16  # counts up to it have tables of their own in any case
BASES, MANY = (16, 4), 1 << 16  # of the digits of a count: few tables, or where there are many numbers fewer draws
TABLE_WORTH = 1 << 23  # draws that take longer than to make a table


@dataclass(frozen=True, slots=True)
class StepGrid:
    """The grids of one run's steps: `vectors`, and the finer one of `products`."""

    vectors: Grid
    products: Grid

    @classmethod
    def of(cls, clip: float, noise_multiplier: float, bits: int) -> "StepGrid":
        """Return the grids for this clip; coarser ones where the noise would pass what the sampler's tables hold."""
        finest, fewer = INPUT_BITS + SLOPE_BITS, 0
        while fewer < SLOPE_BITS - 1 and noise_multiplier * 2 ** (finest - fewer) > LARGEST_DEVIATION // 4:
            fewer += 1
        return cls(Grid(bits - fewer, clip), Grid(finest - fewer, clip))

    @property
    def finer(self) -> int:
        """How many steps of `products` one of `vectors` is."""
        return self.products.length // self.vectors.length

    @property
    def longest(self) -> int:
        """The largest squared length of an example, in steps of the finer grid."""
        return self.products.length**2

    @property
    def slope_scale(self) -> float:
        """What slopes of a linear layer are scaled by beside vectors, for inputs that are 2^`INPUT_BITS` long."""
        return self.finer / 2**INPUT_BITS


def summed_noise(
    random: IntegerNoise, counts: NDArray[np.int64], shape: tuple[int, ...], variance: int
) -> NDArray[np.signedinteger[Any]]:
    """Return [n, *shape] for counts [n]: at each place what that many draws of D(variance) add up to, drawn at once.

    D(a) + D(b) is D(a + b) up to a factor of 1 +- 2^-168 (docs/privacy/mechanisms.md). A count that is small or common
    has a table of its own; others take as many draws as their digits to a base add up to, from few tables.
    """
    most, numbers = LARGEST_DEVIATION**2 // variance, math.prod(shape)
    base = BASES[len(counts) * numbers > MANY]
    found, rows = (part.tolist() for part in np.unique(counts, return_counts=True))
    direct = [
        count
        for count, times in zip(found, rows, strict=True)
        if 0 < count <= most and (count <= SMALL or times * numbers * _digit_sum(count, base) > TABLE_WORTH)
    ]
    if len(found) == 1 and direct == found:
        return random.discrete_gaussian((len(counts), *shape), variance * direct[0])
    left = np.array(counts, np.int64)
    drawn = np.zeros((len(left), *shape), np.int64 if len(direct) < len(found) else np.int32)
    for count in direct:
        there = np.flatnonzero(left == count)
        drawn[there] = random.discrete_gaussian((len(there), *shape), variance * count)
        left[there] = 0
    step = 1
    while left.any():
        # Where no larger table can be drawn from, the last one is asked for all that is left.
        rest = left if step * base > most else left % base
        for number in range(int(rest.max(initial=0))):
            there = np.flatnonzero(rest > number)
            drawn[there] += random.discrete_gaussian((len(there), *shape), variance * step)
        left, step = (left - rest) // base, step * base
    return drawn


def _digit_sum(count: int, base: int) -> int:
    return count % base + _digit_sum(count // base, base) if count else 0
