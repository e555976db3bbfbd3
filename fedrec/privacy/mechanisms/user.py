"""User level: a device's whole update is clipped, and the server adds noise to the sum (central DP-FedAvg).

McMahan, Ramage, Talwar & Zhang, "Learning differentially private recurrent language models", 2018: uniform weights,
flat clip, Poisson cohort, fixed denominator.

Threat model. The server is trusted: it sees every clipped update, draws the cohort and adds the noise. Protected is
one user's whole data from everyone who sees the released models, were it all other users together. Not protected: who
is enrolled; anything from a server that cheats, which no device can notice. The amplification by sampling rests on the
server keeping to itself who was drawn.
"""

import math
from dataclasses import dataclass, replace
from typing import ClassVar, Self

import numpy as np
from dp_accounting import DpEvent, GaussianDpEvent, PoissonSampledDpEvent
from numpy.typing import NDArray

from fedrec.errors import FedrecError
from fedrec.messages import Arrays
from fedrec.privacy.guarantee import PrivacyGuarantee, Relation, Trust, Unit
from fedrec.privacy.mechanisms.base import (
    UserClippingMechanism,
    multiplier_for,
    noised_aggregate,
)
from fedrec.privacy.mechanisms.protocol import Aggregate, NoiseSource, TrainingPlan
from fedrec.privacy.release import Released, as_release


@dataclass(frozen=True)
class UserLevel(UserClippingMechanism):
    """Hides one user from everyone who sees the released models.

    The sum of the clipped updates is noised once, by `noise_multiplier * clip` on every coordinate.
    """

    name: ClassVar[str] = "user"
    terms: ClassVar[PrivacyGuarantee] = PrivacyGuarantee(
        unit=Unit.USER,
        relation=Relation.ADD_REMOVE,
        trust=Trust.SERVER,
        adversary="everyone who sees the released models; the server itself is trusted",
        release_set="the model after each round",
    )

    def calibrated(self, plan: TrainingPlan, sensitivity: float | None) -> Self:
        """Return the mechanism with the clip of a statistic and the noise that keeps epsilon over all rounds."""
        bounded = self.bounded_by(sensitivity)
        uses = ((plan.cohort_rate, 1.0, plan.rounds),)
        if plan.shares is not None:
            uses = tuple((plan.cohort_rate, share_factor(plan, r), 1) for r in range(1, plan.rounds + 1))
        z = multiplier_for(self.epsilon, self.delta_for(plan), uses, self.noise_multiplier)
        return replace(bounded, noise_multiplier=z)

    def privatize_aggregate(
        self,
        total: Released,
        plan: TrainingPlan,
        round_number: int,
        random: NoiseSource,
        state: Arrays | None = None,
    ) -> Aggregate:
        """Return the sum with noise of z clips on every number, over the expected cohort whoever arrived."""
        z = self._round_multiplier(plan, round_number)
        return noised_aggregate(as_release(total), z, plan.expected_cohort, random)

    def event(self, plan: TrainingPlan, round_number: int) -> DpEvent:
        """Return what one round costs: a Gaussian on a Poisson sample of the users."""
        gaussian = GaussianDpEvent(self._round_multiplier(plan, round_number))
        return gaussian if plan.cohort_rate == 1 else PoissonSampledDpEvent(plan.cohort_rate, gaussian)

    def _round_multiplier(self, plan: TrainingPlan, round_number: int) -> float:
        return self.multiplier() * share_factor(plan, round_number)

    def matched_filter(self, plan: TrainingPlan) -> NDArray[np.float64]:
        """Return each round's precision over the sum of all, in units of the clip."""
        precision = np.array([self._round_multiplier(plan, number) ** -2.0 for number in range(1, plan.rounds + 1)])
        return precision / precision.sum() / self.clip


def share_factor(plan: TrainingPlan, round_number: int) -> float:
    """Return how much more noise round 1..rounds gets than with equal parts: 1 / sqrt(share * rounds)."""
    if plan.shares is None:
        return 1.0
    if len(plan.shares) != plan.rounds or not all(share > 0 for share in plan.shares):
        raise FedrecError(f"shares {plan.shares}: one part above 0 is needed for each of the {plan.rounds} rounds")
    return 1.0 / math.sqrt(plan.shares[round_number - 1] * plan.rounds)
