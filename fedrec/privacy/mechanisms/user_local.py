"""User level with local noise: each device clips and noises its own update, and nobody else need be trusted.

The local model of Kasiviswanathan et al., "What can we learn privately?", 2011, with the Gaussian mechanism accounted
exactly (Balle & Wang, "Improving the Gaussian mechanism for differential privacy", 2018).

Threat model. The adversary is the server and everyone after it: it sees every noised update and who sent it. Protected
is one user's whole data: any history could have been any other one. The relation is replace-one, because a device that
is asked always answers: two updates lie up to twice the clip apart, so that mu = 2 sqrt(rounds joined) / z. Sampling of
the cohort buys nothing, for the server draws it. Not protected: who is enrolled, and when a device answers.
"""

import math
from dataclasses import dataclass, replace
from typing import ClassVar, Self

from dp_accounting import DpEvent, GaussianDpEvent

from fedrec.messages import Arrays
from fedrec.privacy.contributions import CohortUpdates
from fedrec.privacy.grid import Grid, reach
from fedrec.privacy.guarantee import PrivacyGuarantee, Relation, Trust, Unit
from fedrec.privacy.mechanisms.base import (
    VALUE_REACH,
    UserClippingMechanism,
    check_positive,
    most_participations,
    multiplier_for,
    noise_reach,
)
from fedrec.privacy.mechanisms.protocol import Aggregate, NoiseSource, TrainingPlan
from fedrec.privacy.release import Released, as_release


@dataclass(frozen=True)
class UserLocal(UserClippingMechanism):
    """Noises each clipped update on its device, by `noise_multiplier * clip` on every coordinate.

    All rounds get the same noise, whatever parts of the budget an algorithm would like. `noise_multiplier` is found
    from `epsilon` where null, for a device that takes part `max_participations` times (null: always, or the 0.999
    quantile of Binomial(rounds, rate)).
    """

    name: ClassVar[str] = "user_local"
    terms: ClassVar[PrivacyGuarantee] = PrivacyGuarantee(
        unit=Unit.USER,
        relation=Relation.REPLACE_ONE,
        trust=Trust.DEVICE,
        adversary="the server and everyone after it",
        release_set="every update of every round",
    )
    max_participations: int | None = None

    def __post_init__(self) -> None:
        """Check every field."""
        super().__post_init__()
        check_positive("max_participations", self.max_participations)

    def calibrated(self, plan: TrainingPlan, sensitivity: float | None) -> Self:
        """Return the mechanism with a statistic's clip and the noise that keeps epsilon over one device's rounds."""
        bounded, uses = self.bounded_by(sensitivity), ((1.0, 0.5, self.participation_limit(plan)),)
        z = multiplier_for(self.epsilon, self.delta_for(plan), uses, self.noise_multiplier)
        return replace(bounded, noise_multiplier=z)

    def reach(self, count: int, grid: Grid) -> int:
        """Return what `count` contributions and their noise come to."""
        return reach(count, grid.length, self.device_variance(grid))

    def device_variance(self, grid: Grid) -> int:
        """Return the variance of the noise that one device adds, in grid steps squared."""
        return grid.variance(self.multiplier())

    def device_std(self) -> float:
        """Return the standard deviation of the noise that one device adds to a value."""
        return self.multiplier() * self.clip

    def privatize_cohort(self, changes: CohortUpdates, random: NoiseSource) -> Released:
        """Return the sum of the clipped updates, each with noise of z clips; a non-finite one is noise alone.

        The noise of a sum is drawn at once: discrete Gaussians add up to the one of the summed variances.
        """
        summed = as_release(super().privatize_cohort(changes, random))
        return summed.noised(summed.count * self.device_variance(summed.grid), random)

    def clip_node_sum(self, total: Released) -> Released:
        """Return the node's sum as it is: noise has no bound."""
        return as_release(total)

    def largest_norm(self, values: int, count: int, plan: TrainingPlan, learning_rate: float) -> float:
        """Return `count` clips and the reach of the devices' noise."""
        return super().largest_norm(values, count, plan, learning_rate) + noise_reach(
            values, self.device_std() * math.sqrt(count)
        )

    def noise_on_values(self, count: int) -> float:
        """Return the reach of the devices' noise."""
        return VALUE_REACH * self.device_std() * math.sqrt(count)

    def privatize_aggregate(
        self,
        total: Released,
        plan: TrainingPlan,
        round_number: int,
        random: NoiseSource,
        state: Arrays | None = None,
    ) -> Aggregate:
        """Return the sum as it is, over the expected cohort whoever arrived."""
        whole = as_release(total)
        std = math.sqrt(plan.expected_cohort * self.device_variance(whole.grid)) * whole.grid.step
        return Aggregate(whole.values(), plan.expected_cohort, noise_std=std, release=whole)

    def event(self, plan: TrainingPlan, round_number: int) -> DpEvent:
        """Return what one participation costs its device: replaced, an update moves by twice the clip."""
        return GaussianDpEvent(self.multiplier() / 2)

    def participation_limit(self, plan: TrainingPlan) -> int:
        """Return in how many rounds one device may take part: public, and what the noise is calibrated for."""
        return most_participations(plan, self.max_participations)
