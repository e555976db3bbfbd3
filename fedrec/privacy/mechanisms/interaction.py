"""Interaction level: the device itself adds the noise, and nobody else need be trusted.

Models are trained by DP-SGD (Abadi et al., "Deep learning with differential privacy", 2016) on every parameter of the
device's model, the private user vector included: trained without noise it would depend on every interaction, and with
it every gradient. A positive and its negatives are one example; negatives don't look at the device's positives. Each
step sums whole numbers on a public grid, noise included (`fedrec.privacy.step_grid`); what leaves after the last step
is made of those sums alone, in floating point.
"""

import math
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
from dp_accounting import DpEvent, GaussianDpEvent, PoissonSampledDpEvent, SelfComposedDpEvent
from numpy.typing import NDArray

from fedrec.errors import FedrecError, RefusedError
from fedrec.messages import Arrays, ModelUpdate
from fedrec.privacy.accounting.composition import checked_delta, default_delta
from fedrec.privacy.contributions import CohortUpdates, OneUpdate
from fedrec.privacy.grid import SPARE, Grid, reach
from fedrec.privacy.guarantee import PrivacyGuarantee, Relation, Trust, Unit
from fedrec.privacy.mechanisms.base import (
    VALUE_REACH,
    BaseMechanism,
    check_common,
    check_positive,
    most_participations,
    multiplier_for,
    noise_reach,
)
from fedrec.privacy.mechanisms.protocol import Aggregate, DPSGDConfig, NoiseSource, Shapes, TrainingPlan
from fedrec.privacy.noise import make_noise_source
from fedrec.privacy.release import Released, bounded, on_a_grid, worth

LONGEST_HISTORY = 1_000_000  # interactions of one device; `plan.interactions` is a guess where devices are real


@dataclass(frozen=True)
class InteractionLevel(BaseMechanism):
    """Hides one interaction of a device from everyone but the device.

    Training: `local_steps` steps, each on a Poisson sample of rate `sample_rate`, each example's gradient clipped to
    norm `clip`, each sum noised with standard deviation `noise_multiplier * clip` and divided by `denominator`. All of
    these are public and the same for every device. A statistic of known `sensitivity` (set by `calibrated`) instead
    gets noise of `noise_multiplier * sensitivity` on each coordinate, at each device: its bound is the algorithm's own,
    because a device holds many interactions, so that no clip of the whole vector could stand in for it. Its rounds
    share the budget equally.

    `noise_multiplier` is found from `epsilon` where null, for a device that takes part `max_participations` times
    (null: always, or the 0.999 quantile of Binomial(rounds, rate)). Sampling of the cohort buys nothing here: the
    server knows who takes part. `delta` is min(1e-5, interactions^-1.1) where null. `population_epsilon`
    bounds the total of all runs on these users; null: no limit.
    """

    name: ClassVar[str] = "interaction"
    terms: ClassVar[PrivacyGuarantee] = PrivacyGuarantee(
        unit=Unit.INTERACTION,
        relation=Relation.ADD_REMOVE,
        trust=Trust.DEVICE,
        adversary="the server and everyone after it",
        release_set="every update of every round",
    )
    epsilon: float = 8.0
    delta: float | None = None
    clip: float = 0.5
    sample_rate: float = 1.0
    local_steps: int = 1
    denominator: float = 64.0
    noise_multiplier: float | None = None
    max_participations: int | None = None
    randomness: str = "system"
    population_epsilon: float | None = None
    sensitivity: float | None = None

    def __post_init__(self) -> None:
        """Check every field."""
        check_common(self.epsilon, self.delta, self.noise_multiplier, self.randomness)
        for name in ("clip", "population_epsilon", "denominator", "sensitivity", "max_participations", "local_steps"):
            check_positive(name, getattr(self, name))
        if not 0 < self.sample_rate <= 1:
            raise FedrecError(f"privacy.sample_rate={self.sample_rate}: must lie above 0 and at most at 1")

    @property
    def clipping(self) -> str:
        """An example's gradient is clipped as a whole."""
        return "whole"

    @property
    def private(self) -> bool:
        """Whether an epsilon may be reported: not where the noise can be drawn again from a seed."""
        return self.randomness == "system"

    def delta_for(self, plan: TrainingPlan) -> float:
        """Return delta, below one over the number of interactions."""
        return checked_delta(default_delta(plan.interactions) if self.delta is None else self.delta, plan.interactions)

    def calibrated(self, plan: TrainingPlan, sensitivity: float | None) -> "InteractionLevel":
        """Return the mechanism with the noise that keeps epsilon over the participations of one device."""
        if sensitivity is None or (math.isinf(sensitivity) and not plan.trains):
            raise RefusedError(
                "nothing bounds what one interaction changes: InteractionLevel has no argument for this algorithm"
            )
        statistic = None if plan.trains else sensitivity
        times = self.participation_limit(plan)
        uses = ((1.0, 1.0, times),) if statistic else ((self.sample_rate, 1.0, times * self.local_steps),)
        z = multiplier_for(self.epsilon, self.delta_for(plan), uses, self.noise_multiplier)
        return replace(self, noise_multiplier=z, sensitivity=statistic)

    @property
    def trains_by_dp_sgd(self) -> bool:
        """Local training is DP-SGD, an example an interaction."""
        return True

    def dp_sgd(self) -> DPSGDConfig:
        """Return this mechanism's clip, noise, rate, steps and denominator."""
        return DPSGDConfig(self.clip, self._multiplier(), self.sample_rate, self.local_steps, self.denominator)

    def random(self, *key: int) -> NoiseSource:
        """Return the operating system's draws, or those of the key with randomness=seeded."""
        return make_noise_source(self.randomness, key)

    def grid(self, shapes: Shapes) -> Grid | None:
        """Return the grid of a statistic; what was trained is floating point, made of sums that were noised whole."""
        numbers = sum(math.prod(shape) for shape in shapes.values())
        return None if self.sensitivity is None else self._grid(self.sensitivity, numbers)

    def reach(self, count: int, grid: Grid) -> int:
        """Return what `count` devices' statistics and their noise come to."""
        return reach(count, LONGEST_HISTORY * grid.length, grid.variance(self._multiplier(), grid.length))

    def privatize_update(self, update: ModelUpdate, random: NoiseSource) -> Released:
        """Return a trained update as it is (it is noised already), a statistic with its noise; never non-finite.

        Rounding moves one interaction's change of m numbers by up to ceil(sqrt(m)) + 1 steps more than its sensitivity.
        """
        if self.sensitivity is None:
            finite = update.finite()
            return ModelUpdate({n: a if finite else np.zeros_like(a) for n, a in update.arrays.items()}, 1)
        one = OneUpdate(update)
        numbers = sum(math.prod(shape) for shape in one.shapes().values())
        grid, more = self._grid(self.sensitivity, numbers), math.isqrt(numbers) + 2
        return bounded(one, None, grid).noised(grid.variance(self._multiplier(), more), random)

    def privatize_cohort(self, changes: CohortUpdates, random: NoiseSource) -> Released:
        """Return the sum of trained updates as they are (they are noised already); none that is not finite."""
        if self.sensitivity is not None:
            return super().privatize_cohort(changes, random)
        squares = changes.squared_norms().values()
        return changes.weighted_sum(
            np.logical_and.reduce([np.isfinite(square) for square in squares]).astype(np.float64)
        )

    def largest_norm(self, values: int, count: int, plan: TrainingPlan, learning_rate: float) -> float:
        """Return what `count` devices reach: each holds at most all interactions of the plan, which is public."""
        bound = self.clip if self.sensitivity is None else self.sensitivity
        once = max(plan.interactions, LONGEST_HISTORY) * bound + noise_reach(values, self._multiplier() * bound)
        if self.sensitivity is None:
            once *= max(learning_rate, 1.0) * self.local_steps / min(self.denominator, 1.0)
        return count * once

    def noise_on_values(self, count: int) -> float:
        """Return the reach of what the devices add to a statistic; a trained update has no bound on a value."""
        if self.sensitivity is None:
            return math.inf
        return VALUE_REACH * self._multiplier() * self.sensitivity * math.sqrt(count)

    def privatize_aggregate(
        self,
        total: Released,
        plan: TrainingPlan,
        round_number: int,
        random: NoiseSource,
        state: Arrays | None = None,
    ) -> Aggregate:
        """Return the sum as it is, over the expected cohort whoever arrived."""
        statistic = self.sensitivity
        std = 0.0 if statistic is None else self._multiplier() * statistic * math.sqrt(plan.expected_cohort)
        return Aggregate(worth(total), plan.expected_cohort, noise_std=std, release=on_a_grid(total))

    def event(self, plan: TrainingPlan, round_number: int) -> DpEvent:
        """Return what one participation costs the device that takes part."""
        gaussian = GaussianDpEvent(self._multiplier())
        if self.sensitivity is not None:
            return gaussian
        step = gaussian if self.sample_rate == 1 else PoissonSampledDpEvent(self.sample_rate, gaussian)
        return SelfComposedDpEvent(step, self.local_steps)

    def participation_limit(self, plan: TrainingPlan) -> int:
        """Return in how many rounds one device may take part: public, and what the noise is calibrated for."""
        return most_participations(plan, self.max_participations)

    def matched_filter(self, plan: TrainingPlan) -> NDArray[np.float64]:
        """Return the mean over a device's participations, in units of what one interaction moves in each.

        With a learning rate of 1: that scales signal and noise alike.
        """
        times = self.participation_limit(plan)
        reach = self.sensitivity or self.local_steps * self.clip / self.denominator
        return np.full(plan.rounds, 1 / (times * reach))

    def _grid(self, sensitivity: float, numbers: int) -> Grid:
        return Grid.of(sensitivity, numbers, (self.noise_multiplier or 0.0) / SPARE, fine=1000)

    def _multiplier(self) -> float:
        if self.noise_multiplier is None:
            raise FedrecError("the mechanism has no noise multiplier yet: call calibrated(plan, sensitivity) first")
        return self.noise_multiplier
