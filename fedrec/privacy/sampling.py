"""Who is asked each round: a mechanism draws its own cohorts, because its accounting rests on how they are drawn."""

import math

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binom

from fedrec.privacy.mechanisms.protocol import NoiseSource, TrainingPlan
from fedrec.rng import Stream


def poisson_cohort(plan: TrainingPlan, random: NoiseSource) -> NDArray[np.int64]:
    """Return the rows of the devices drawn this round, ascending: each independently, at the cohort's rate.

    The gaps between two that are drawn are geometric: P(gap > g) = (1 - rate)^g. So they are drawn, as many as the
    cohort holds, and nothing is done for who is not drawn (Devroye, "Non-uniform random variate generation", 1986,
    ch. X.2 and XI.1). With 53 bits a draw, no gap is longer than 37 / rate.
    """
    if plan.cohort_rate >= 1:
        return np.arange(plan.population)
    expected = plan.cohort_rate * plan.population
    ahead, last, found = int(expected + 4 * math.sqrt(expected)) + 16, -1, list[NDArray[np.int64]]()
    scale = math.log1p(-plan.cohort_rate)
    while last < plan.population:
        gaps = np.minimum(np.floor(np.log1p(-random.uniform(ahead)) / scale), plan.population) + 1
        rows = last + np.cumsum(gaps.astype(np.int64))
        found.append(rows)
        last = int(rows[-1])
    rows = np.concatenate(found)
    return rows[: int(np.searchsorted(rows, plan.population))]


def cyclic_cohort(plan: TrainingPlan, round_number: int, separation: int) -> NDArray[np.int64]:
    """Return the rows of one of `separation` fixed groups of nearly equal size, ascending; each has its turn.

    Two rounds of one device lie `separation` apart, whatever was lost in between. The groups are public and follow
    from the size of the population alone, so that there is nothing to remember and nothing that a resume could change.
    """
    order = np.random.default_rng(np.random.SeedSequence((plan.population, Stream.GROUPS))).permutation(plan.population)
    return np.sort(order[(round_number - 1) % separation :: separation])


def most_participations(plan: TrainingPlan, at_most: int | None) -> int:
    """Return in how many rounds one device may take part where each is charged for itself: public.

    It is `at_most`, and where null all rounds, or under a Poisson cohort the 0.999 quantile of Binomial(rounds, rate).
    """
    if at_most is not None:
        return min(at_most, plan.rounds)
    if plan.cohort_rate == 1:
        return plan.rounds
    return max(1, int(binom.ppf(0.999, plan.rounds, plan.cohort_rate)))
