"""What mechanisms share: settings and their checks, Poisson cohorts, nodes that only sum, the user-level clip.

`check_compatible` lets only pairs of algorithm and mechanism pass for which there is an argument.

Who is asked each round: a mechanism draws its own cohorts, because its accounting rests on how they are drawn.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binom

from fedrec.errors import FedrecError, RefusedError, suggest
from fedrec.messages import Arrays, ModelUpdate
from fedrec.privacy.accounting.composition import (
    Use,
    checked_delta,
    composition,
    compute_epsilon,
    default_delta,
    noise_multiplier,
)
from fedrec.privacy.clipping import NormClipper
from fedrec.privacy.contributions import CohortUpdates, OneUpdate
from fedrec.privacy.grid import LEAST_BITS, Grid, reach
from fedrec.privacy.guarantee import Unit
from fedrec.privacy.mechanisms.protocol import Aggregate, DPSGDConfig, Mechanism, NoiseSource, Shapes, TrainingPlan
from fedrec.privacy.noise import make_noise_source
from fedrec.privacy.release import Release, Released, as_release, bounded, bounded_again, total_of
from fedrec.privacy.wording import format_epsilon
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


class BaseMechanism:
    """Base of mechanisms that differ in what they do to an update, to a sum, or while a device trains."""

    @property
    def rule(self) -> NormClipper | None:
        """No whole update is clipped."""
        return None

    @property
    def pools_users(self) -> bool:
        """Devices of a node train one by one."""
        return False

    @property
    def least_devices(self) -> int:
        """One device is enough to release a sum."""
        return 1

    @property
    def skips_lost_rounds(self) -> bool:
        """A round that was lost is charged again and played again, with fresh draws."""
        return False

    def with_sampling_rate(self, plan: TrainingPlan) -> TrainingPlan:
        """Return the plan as it is: cohorts are drawn at its rate."""
        return plan

    def sample_cohort(self, plan: TrainingPlan, round_number: int, random: NoiseSource) -> NDArray[np.int64]:
        """Return a Poisson sample of the devices."""
        return poisson_cohort(plan, random)

    def init_state(self, shapes: Shapes) -> Arrays:
        """Return nothing: there is nothing to carry."""
        return {}

    def state_after_lost_round(self, state: Arrays) -> Arrays:
        """Return the memory as it is."""
        return state

    def round_params(self, state: Arrays) -> dict[str, float]:
        """Return nothing: devices know all from the experiment."""
        return {}

    def with_round_params(self, params: Mapping[str, float]) -> Self:
        """Return the mechanism itself: it is the same in every round."""
        return self

    def in_round(self, plan: TrainingPlan, round_number: int) -> Self:
        """Return the mechanism itself: devices do the same in every round."""
        return self

    def shapes(self, shapes: Shapes) -> Shapes:
        """Return the algorithm's arrays alone."""
        return shapes

    @property
    def trains_by_dp_sgd(self) -> bool:
        """Devices train on shuffled minibatches."""
        return False

    def dp_sgd(self) -> DPSGDConfig | None:
        """Return None: devices train on shuffled minibatches."""
        return None

    def grid(self, shapes: Shapes) -> Grid | None:
        """Return None: what is sent is floating point."""
        return None

    def reach(self, count: int, grid: Grid) -> int:
        """Return the sum of `count` contributions without noise."""
        return reach(count, grid.length, 0)

    def privatize_update(self, update: ModelUpdate, random: NoiseSource) -> Released:
        """Return what may leave one device."""
        raise NotImplementedError

    def privatize_cohort(self, changes: CohortUpdates, random: NoiseSource) -> Released:
        """Return the sum of what each device releases, one by one."""
        return total_of(self.privatize_update(changes.update_of(place), random) for place in range(changes.count))

    def privatize_node_sum(self, total: Released, random: NoiseSource) -> Released:
        """Return the node's sum as it is."""
        return total

    def clip_node_sum(self, total: Released) -> Released:
        """Return the node's sum as it is."""
        return total

    def largest_norm(self, values: int, count: int, plan: TrainingPlan, learning_rate: float) -> float:
        """Return a million a device: nothing bounds an update here, and no honest one of a useful model is as long."""
        return 1e6 * count

    def noise_on_values(self, count: int) -> float:
        """Return 0: there is no noise in what the server is sent."""
        return 0.0


def noise_reach(values: int, std: float) -> float:
    """Return the length that N(0, std^2) on each of `values` coordinates exceeds with a chance below 1e-10.

    P(|Z| > sqrt(n) + t) <= exp(-t^2 / 2) for standard normal Z (Boucheron et al., 2013, thm. 5.6), at t = 7.
    """
    return std * (math.sqrt(values) + 7)


VALUE_REACH = 8.0  # standard deviations that one value of noise exceeds with a chance below 1e-14
LARGEST_EPSILON = 1000.0
RANDOMNESS = ("system", "seeded")


def check_positive(name: str, value: float | None) -> None:
    """Raise unless privacy.`name` is a finite number above 0, or null where that was given."""
    if value is not None and not (math.isfinite(value) and value > 0):
        raise FedrecError(f"privacy.{name}={value}: must be a finite number above 0")


def check_common(epsilon: float, delta: float | None, multiplier: float | None, randomness: str) -> None:
    """Check the fields that every finite mechanism has."""
    if not 0 < epsilon <= LARGEST_EPSILON:
        raise FedrecError(
            f"privacy.epsilon={epsilon}: must lie above 0 and at most at {LARGEST_EPSILON:.0f}; for none, privacy=none"
        )
    if delta is not None and not 0 < delta < 1:
        raise FedrecError(f"privacy.delta={delta}: must lie in (0, 1), below one over the number of privacy units")
    check_positive("noise_multiplier", multiplier)
    if randomness not in RANDOMNESS:
        raise FedrecError(f"privacy.randomness={randomness} does not exist.{suggest(randomness, RANDOMNESS)}")


def multiplier_for(epsilon: float, delta: float, uses: tuple[Use, ...], given: float | None) -> float:
    """Return the smallest noise multiplier that keeps epsilon over `uses`, or the given one if it does so too."""
    if given is None:
        return noise_multiplier(epsilon, delta, uses)
    if (cost := compute_epsilon(composition(given, uses), delta)) > epsilon:
        enough = noise_multiplier(epsilon, delta, uses)
        raise RefusedError(
            f"privacy.noise_multiplier={given} costs {format_epsilon(cost)} over the run, more than "
            f"privacy.epsilon={epsilon}; {enough:.4f} is enough, and null finds it"
        )
    return given


@dataclass(frozen=True)
class UserClippingMechanism(BaseMechanism):
    """`clip` bounds the L2 norm of a device's whole update, whatever it holds.

    For a statistic of known sensitivity, `calibrated` sets it to that. With `clipping` "split", item rows and dense
    parameters are clipped apart: `dense_share` of the squared norm is for the dense ones, and the whole stays within
    `clip`, which is what is accounted. `noise_multiplier` is the noise's standard deviation over the clip, found from
    `epsilon` where null; `delta` is min(1e-5, users^-1.1) where null. `population_epsilon` bounds the total of all runs
    on these users; null: no limit.
    """

    epsilon: float = 8.0
    delta: float | None = None
    clip: float = 1.0
    clipping: str = "whole"
    dense_share: float = 0.5
    noise_multiplier: float | None = None
    randomness: str = "system"
    population_epsilon: float | None = None

    def __post_init__(self) -> None:
        """Check every field."""
        check_common(self.epsilon, self.delta, self.noise_multiplier, self.randomness)
        check_positive("clip", self.clip)
        check_positive("population_epsilon", self.population_epsilon)
        _ = self.rule, Grid(LEAST_BITS, self.clip)

    @property
    def rule(self) -> NormClipper:
        """How one device's update is bounded."""
        return NormClipper(self.clip, self.clipping, self.dense_share)

    @property
    def private(self) -> bool:
        """Whether an epsilon may be reported: not where the noise can be drawn again from a seed."""
        return self.randomness == "system"

    def delta_for(self, plan: TrainingPlan) -> float:
        """Return delta, below one over the number of users."""
        return checked_delta(default_delta(plan.population) if self.delta is None else self.delta, plan.population)

    def bounded_by(self, sensitivity: float | None) -> Self:
        """Return the mechanism with the clip of a statistic of this sensitivity, whole; as it is for training."""
        if sensitivity is None:
            raise RefusedError(
                f"nothing bounds what one user changes: {type(self).__name__} has no argument for this algorithm"
            )
        return replace(self, clip=sensitivity, clipping="whole") if math.isfinite(sensitivity) else self

    def random(self, *key: int) -> NoiseSource:
        """Return the operating system's draws, or those of the key with randomness=seeded."""
        return make_noise_source(self.randomness, key)

    def grid(self, shapes: Shapes) -> Grid | None:
        """Return the grid for this clip and so many numbers."""
        return self.clip_grid(shapes)

    def clip_grid(self, shapes: Shapes) -> Grid:
        """Return the grid for this clip and so many numbers."""
        numbers = sum(math.prod(shape) for shape in shapes.values())
        return Grid.of(self.clip, numbers, self.noise_multiplier or 0.0)

    def privatize_update(self, update: ModelUpdate, random: NoiseSource) -> Released:
        """Return the update, of count 1, clipped, on the grid; a non-finite one becomes zero."""
        return self.privatize_cohort(OneUpdate(update), random)

    def privatize_cohort(self, changes: CohortUpdates, random: NoiseSource) -> Released:
        """Return the sum of the clipped updates, each on the grid."""
        return bounded(changes, self.rule, self.clip_grid(changes.shapes()))

    def clip_node_sum(self, total: Released) -> Released:
        """Return what the server counts of a node's sum: within `count` clips, so that no node can claim more."""
        return bounded_again(as_release(total), self.rule)

    def largest_norm(self, values: int, count: int, plan: TrainingPlan, learning_rate: float) -> float:
        """Return `count` clips, and what rounding in single precision may add."""
        return count * self.clip * (1 + 1e-3)

    def participation_limit(self, plan: TrainingPlan) -> int:
        """Return the number of rounds: each is charged to all users."""
        return plan.rounds

    def matched_filter(self, plan: TrainingPlan) -> NDArray[np.float64]:
        """Return the mean over the rounds, in units of the clip: each round gets the same noise."""
        return np.full(plan.rounds, 1 / (plan.rounds * self.clip))

    def multiplier(self) -> float:
        """Return the noise multiplier, which only a calibrated mechanism has."""
        if self.noise_multiplier is None:
            raise FedrecError("the mechanism has no noise multiplier yet: call calibrated(plan, sensitivity) first")
        return self.noise_multiplier


def noised_aggregate(total: Release, multiplier: float, denominator: float, random: NoiseSource) -> Aggregate:
    """Return the sum with the server's noise of this multiplier on every number, and its worth."""
    variance = total.grid.variance(multiplier)
    noise_std = math.sqrt(variance) * total.grid.step
    released = total.noised(variance, random)
    return Aggregate(released.values(), denominator, noise_std=noise_std, release=released)


INSTEAD = {Unit.INTERACTION: "privacy=user", Unit.USER: "privacy=interaction"}


def check_compatible(algorithm_name: str, mechanism: Mechanism, sensitivity: float | None, unit: Unit) -> None:
    """Raise `RefusedError`, naming both, if the algorithm has no sensitivity to one `unit`: noise would hide nothing.

    `sensitivity` is `math.inf` where the mechanism itself bounds the contribution (training), finite for a statistic.
    """
    if unit != Unit.NONE and sensitivity is None:
        raise RefusedError(
            f"{algorithm_name} and {type(mechanism).__name__} have no argument together: nothing bounds what one "
            f"{unit} changes. Try {INSTEAD.get(unit, 'another privacy=')} or privacy=none."
        )
