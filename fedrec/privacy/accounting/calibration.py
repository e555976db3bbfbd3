"""The smallest noise multiplier that keeps an epsilon over a composition of Gaussian mechanisms."""

import math
from collections.abc import Callable, Sequence
from functools import lru_cache

from dp_accounting.gaussian_mechanism import get_sigma_gaussian

from fedrec.errors import FedrecError
from fedrec.privacy.accounting.composition import COARSE, Composition, compose, compute_epsilon

Use = tuple[float, float, int]  # (sampling rate, factor on the noise multiplier, how often)
Point = tuple[float, float]  # (noise multiplier, what it costs)

TOLERANCE = 1e-3  # how far below the target the calibrated epsilon may lie, relative
LARGEST = 1e6  # a noise multiplier above which no model can be learned anyway


@lru_cache(maxsize=256)
def noise_multiplier(epsilon: float, delta: float, uses: tuple[Use, ...]) -> float:
    """Return the smallest z for which the composition of `uses`, each with multiplier factor * z, costs <= epsilon.

    Accounting the result gives between (1 - TOLERANCE) * epsilon and epsilon. An epsilon that even LARGEST does not
    reach is an error.
    """

    def cost(z: float) -> float:
        return compute_epsilon(composition(z, uses), delta)

    def coarse_cost(z: float) -> float:
        return compute_epsilon(composition(z, uses), delta, COARSE)

    if cost(LARGEST) > epsilon:
        raise FedrecError(
            f"privacy.epsilon={epsilon} at delta {delta:.1e}: no noise multiplier up to {LARGEST:.0e} keeps it"
        )
    start = _central_limit(float(get_sigma_gaussian(epsilon, delta)), uses)
    return _smallest(cost, epsilon, _smallest(coarse_cost, epsilon, start, TOLERANCE / 4), TOLERANCE)


def composition(z: float, uses: Sequence[Use]) -> Composition:
    """Return the composition of `uses` at noise multiplier z."""
    return compose((frozenset({(factor * z, rate, count)}), 1) for rate, factor, count in uses)


def _central_limit(sigma: float, uses: Sequence[Use]) -> float:
    """Return a z to start from: many sampled Gaussians are about one, of mu^2 = sum of rate^2 (exp(1/z^2) - 1) count.

    Bu, Dong, Long & Su, "Deep learning with Gaussian differential privacy", 2020; too low where steps are few, so it
    may start a search and never end one. At rate 1 it is exact with 1/z^2 in the place of exp(1/z^2) - 1.
    """

    def mu_squared(z: float) -> float:
        total = 0.0
        for rate, factor, count in uses:
            loss = 1 / (factor * z) ** 2
            total += count * (loss if rate == 1 else rate**2 * math.expm1(min(loss, 500.0)))
        return total

    low, high = 1e-2, LARGEST
    while high / low > 1.001:
        middle = math.sqrt(low * high)
        low, high = (middle, high) if mu_squared(middle) > sigma**-2 else (low, middle)
    return high


def _smallest(cost: Callable[[float], float], target: float, start: float, tolerance: float) -> float:
    """Return z with (1 - tolerance) * target <= cost(z) <= target, by secants on logarithmic scales."""
    first = (start, cost(start))
    if (1 - tolerance) * target <= first[1] <= target:
        return start
    below, above = _bracket(cost, target, first)
    while above[1] < (1 - tolerance) * target and above[0] / below[0] > 1 + 1e-7:
        aim = (1 - tolerance / 2) * target
        share = math.log(below[1] / aim) / math.log(below[1] / max(above[1], 1e-12))
        z = below[0] * (above[0] / below[0]) ** min(max(share, 0.02), 0.98)
        point = (z, cost(z))
        below, above = (point, above) if point[1] > target else (below, point)
    return above[0]


def _bracket(cost: Callable[[float], float], target: float, point: Point) -> tuple[Point, Point]:
    """Return a point that costs more than the target and one that does not, walking from `point` in growing steps."""
    step = 1.02
    while True:
        z = point[0] * step if point[1] > target else point[0] / step
        other = (z, cost(z))
        if (other[1] > target) != (point[1] > target):
            return (point, other) if point[1] > target else (other, point)
        point, step = other, step**1.7
