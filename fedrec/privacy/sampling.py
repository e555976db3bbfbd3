"""Who is asked each round: a mechanism draws its own cohorts, because its accounting rests on how they are drawn."""

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binom

from fedrec.privacy.base import Plan, Random

GROUPS_KEY = 12  # keeps the partition into groups apart from every other draw


def poisson(plan: Plan, random: Random) -> NDArray[np.int64]:
    """Return the rows of the devices drawn this round, ascending: each independently, at the cohort's rate."""
    everyone = np.arange(plan.population)
    return everyone if plan.cohort_rate >= 1 else everyone[random.uniform(plan.population) < plan.cohort_rate]


def cyclic(plan: Plan, round_number: int, separation: int) -> NDArray[np.int64]:
    """Return the rows of one of `separation` fixed groups of nearly equal size, ascending; each has its turn.

    Two rounds of one device lie `separation` apart, whatever was lost in between. The groups are public and follow
    from the size of the population alone, so that there is nothing to remember and nothing that a resume could change.
    """
    order = np.random.default_rng(np.random.SeedSequence((plan.population, GROUPS_KEY))).permutation(plan.population)
    return np.sort(order[(round_number - 1) % separation :: separation])


def most_participations(plan: Plan, at_most: int | None) -> int:
    """Return in how many rounds one device may take part where each is charged for itself: public.

    It is `at_most`, and where null all rounds, or under a Poisson cohort the 0.999 quantile of Binomial(rounds, rate).
    """
    if at_most is not None:
        return min(at_most, plan.rounds)
    if plan.cohort_rate == 1:
        return plan.rounds
    return max(1, int(binom.ppf(0.999, plan.rounds, plan.cohort_rate)))
