"""What a composition of Gaussian mechanisms costs, by the privacy loss distributions of dp-accounting.

A composition is kept as `Composition`: how often each (noise multiplier, sampling rate) was used. Gaussians that take
part every time (rate 1) compose into one Gaussian exactly: 1/z^2 = sum of 1/z_i^2. Every epsilon is an upper bound.
"""

import math
from collections import Counter
from collections.abc import Iterable
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


def running_epsilon(total: Composition, delta: float, limit: float) -> float:
    """Return an epsilon that is good enough to show and to hold against a limit, in a tenth of the time.

    It is the coarse upper bound, but the fine one where that is cheap (below 0.5) or matters (from 0.98 of the limit).
    """
    coarse = compute_epsilon(total, delta, COARSE)
    return coarse if 0.5 <= coarse < 0.98 * limit or math.isinf(coarse) else compute_epsilon(total, delta)


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
