"""What a composition of Gaussian mechanisms costs, by the privacy loss distributions of dp-accounting.

A composition is kept as `Composition`: how often each (noise multiplier, sampling rate) was used. Gaussians that take
part every time (rate 1) compose into one Gaussian exactly: 1/z^2 = sum of 1/z_i^2. Every epsilon is an upper bound.

The smallest noise multiplier that keeps an epsilon over a composition of Gaussian mechanisms.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache

from dp_accounting import (
    ComposedDpEvent,
    DpEvent,
    GaussianDpEvent,
    NeighboringRelation,
    NonPrivateDpEvent,
    NoOpDpEvent,
    PoissonSampledDpEvent,
    SelfComposedDpEvent,
)
from dp_accounting.gaussian_mechanism import get_sigma_gaussian
from dp_accounting.pld.privacy_loss_distribution import PrivacyLossDistribution, from_gaussian_mechanism

from fedrec.errors import FedrecError
from fedrec.privacy.guarantee import Relation

Composition = frozenset[tuple[float, float, int]]  # (noise multiplier, sampling rate, how often)

RELATIONS = {
    Relation.ADD_REMOVE: NeighboringRelation.ADD_OR_REMOVE_ONE,
    Relation.REPLACE_ONE: NeighboringRelation.REPLACE_ONE,
}
EMPTY: Composition = frozenset()
NON_PRIVATE: Composition = frozenset({(0.0, 1.0, 1)})
FINE, COARSE = 1e-4, 1e-3  # discretisation of privacy losses; the coarse one is at most 1e-3 above and ten times faster
ACCOUNTANT = "dp-accounting PLD, pessimistic, discretisation 1e-4"


def compose_events(events: Iterable[tuple[DpEvent, int]]) -> Composition:
    """Return the composition of (event, how often), taken apart into Gaussians."""
    counts: Counter[tuple[float, float]] = Counter()
    for event, times in events:
        _count(event, 1.0, times, counts)
    return frozenset((z, rate, count) for (z, rate), count in counts.items() if count)


def compose(parts: Iterable[tuple[Composition, int]]) -> Composition:
    """Return the composition of (composition, how often)."""
    counts: Counter[tuple[float, float]] = Counter()
    for part, times in parts:
        for z, rate, count in part:
            counts[z, rate] += count * times
    return frozenset((z, rate, count) for (z, rate), count in counts.items() if count)


def epsilon_of_events(events: Iterable[tuple[DpEvent, int]], delta: float) -> float:
    """Return epsilon at delta of (event, how often); infinite where an event is not private."""
    return compute_epsilon(compose_events(events), delta)


def compute_epsilon(
    total: Composition, delta: float, interval: float = FINE, relation: Relation = Relation.ADD_REMOVE
) -> float:
    """Return epsilon at delta of a composition, an upper bound at every discretisation interval.

    Noise multipliers are over what adding or removing a unit moves. With `relation` "replace-one" a unit's data become
    any other, up to twice as far away, wherever it takes part.
    """
    if not 0 < delta < 1:
        raise FedrecError(f"delta must lie in (0, 1), not {delta}")
    return 0.0 if not total else _epsilon(total, delta, interval, relation)


def running_epsilon(total: Composition, delta: float, limit: float, relation: Relation = Relation.ADD_REMOVE) -> float:
    """Return an epsilon that is good enough to show and to hold against a limit, in a tenth of the time.

    It is the coarse upper bound, but the fine one where that is cheap (below 0.5) or matters (from 0.98 of the limit).
    """
    coarse = compute_epsilon(total, delta, COARSE, relation)
    good = 0.5 <= coarse < 0.98 * limit or math.isinf(coarse)
    return coarse if good else compute_epsilon(total, delta, FINE, relation)


def checked_delta(delta: float, units: int) -> float:
    """Return delta if 0 < delta < 1/units: from 1/N on, publishing one random unit as it is would pass as private."""
    if not 0 < delta < 1 / units:
        raise FedrecError(
            f"privacy.delta={delta}: must lie between 0 and 1/{units:,} = {1 / units:.1e}; "
            f"null takes {default_delta(units):.1e}"
        )
    return delta


def default_delta(units: int) -> float:
    """Return min(1e-5, N^-1.1) for N privacy units."""
    return min(1e-5, units**-1.1) if units > 1 else 1e-5


def _count(event: DpEvent, rate: float, times: int, counts: Counter[tuple[float, float]]) -> None:
    match event:
        case NoOpDpEvent():
            return
        case NonPrivateDpEvent():
            counts[0.0, 1.0] += times
        case GaussianDpEvent():
            counts[_multiplier(event.noise_multiplier), rate] += times
        case SelfComposedDpEvent():
            _count(event.event, rate, times * event.count, counts)
        case ComposedDpEvent():
            for part in event.events:
                _count(part, rate, times, counts)
        case PoissonSampledDpEvent(sampling_probability=q, event=GaussianDpEvent() as part) if rate == 1 and 0 < q <= 1:
            _count(part, float(q), times, counts)
        case _:
            raise FedrecError(f"the accountant has no argument for {event}")


def _multiplier(z: float) -> float:
    if not (math.isfinite(z) and z > 0):
        raise FedrecError(f"noise multiplier {z}: must be a finite number above 0")
    return float(z)


@lru_cache(maxsize=4096)
def _epsilon(total: Composition, delta: float, interval: float, relation: Relation) -> float:
    if any(z == 0 for z, _, _ in total):
        return math.inf
    return float(loss_distribution(total, interval, relation).get_epsilon_for_delta(delta))


def loss_distribution(
    total: Composition, interval: float = FINE, relation: Relation = Relation.ADD_REMOVE
) -> PrivacyLossDistribution:
    """Return the privacy loss distribution of a composition that spends something finite."""
    merged = _merged(total)
    interval *= _coarsening(merged, 1.0 if relation == Relation.ADD_REMOVE else 2.0)
    bases = [(_base(z, rate, interval, relation), n) for z, rate, n in merged]
    parts = [base if n == 1 else base.self_compose(n) for base, n in bases]
    whole = parts[0]
    for part in parts[1:]:
        whole = whole.compose(part)
    return whole


def _merged(total: Composition) -> list[tuple[float, float, int]]:
    """Return the parts in a fixed order, those of rate 1 as one Gaussian."""
    always = math.fsum(sorted(count / z**2 for z, rate, count in total if rate == 1))
    sampled = sorted(part for part in total if part[1] < 1)
    return [(always**-0.5, 1.0, 1), *sampled] if always else sampled


def _coarsening(parts: list[tuple[float, float, int]], distance: float) -> float:
    """Return a power of ten by which to coarsen where losses in the hundreds would fill the memory.

    `distance` is how far a unit can move a sum, in units of what the noise multipliers are over.
    """
    mean = distance**2 * math.fsum(count * rate / (2 * z**2) for z, rate, count in parts)
    spread = distance * math.sqrt(math.fsum(count * rate / z**2 for z, rate, count in parts))
    return 10.0 ** max(0, math.ceil(math.log10((mean + 6 * spread) / 100)))


@lru_cache(maxsize=256)
def _base(z: float, rate: float, interval: float, relation: Relation) -> PrivacyLossDistribution:
    return from_gaussian_mechanism(
        z, sampling_prob=rate, value_discretization_interval=interval, neighboring_relation=RELATIONS[relation]
    )


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
