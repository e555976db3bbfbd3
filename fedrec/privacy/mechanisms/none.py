"""No privacy, as a mechanism like the others: its epsilon is infinite."""

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from dp_accounting import DpEvent, NonPrivateDpEvent
from numpy.typing import NDArray

from fedrec.errors import FedrecError
from fedrec.messages import Arrays, ModelUpdate
from fedrec.privacy.accounting.composition import default_delta
from fedrec.privacy.contributions import CohortUpdates
from fedrec.privacy.guarantee import PrivacyGuarantee, Relation, Trust, Unit
from fedrec.privacy.mechanisms.base import BaseMechanism
from fedrec.privacy.mechanisms.protocol import Aggregate, NoiseSource, TrainingPlan
from fedrec.privacy.noise import make_noise_source
from fedrec.privacy.release import Released, worth


@dataclass(frozen=True)
class NoPrivacy(BaseMechanism):
    """Devices train as they are, updates leave as they are, and the sum is divided by how many arrived.

    Everything is drawn from the seed, so that the same experiment gives the same result.
    """

    name: ClassVar[str] = "none"
    terms: ClassVar[PrivacyGuarantee] = PrivacyGuarantee(
        unit=Unit.NONE,
        relation=Relation.NONE,
        trust=Trust.NONE,
        adversary="nobody",
        release_set="nothing is protected",
    )

    @property
    def epsilon(self) -> float:
        """No bound."""
        return math.inf

    @property
    def private(self) -> bool:
        """Whether an epsilon may be reported."""
        return False

    @property
    def delta(self) -> float | None:
        """None is set: no claim uses it."""
        return None

    @property
    def clip(self) -> float | None:
        """Nothing is clipped."""
        return None

    @property
    def clipping(self) -> str:
        """Nothing is clipped, and so nothing apart."""
        return "whole"

    @property
    def noise_multiplier(self) -> float | None:
        """There is no noise."""
        return None

    @property
    def randomness(self) -> str:
        """Every draw is the seed's."""
        return "seeded"

    def delta_for(self, plan: TrainingPlan) -> float:
        """Return the default delta for users; no claim uses it."""
        return default_delta(plan.population)

    def calibrated(self, plan: TrainingPlan, sensitivity: float | None) -> "NoPrivacy":
        """Return itself: there is no noise to find."""
        return self

    def random(self, *key: int) -> NoiseSource:
        """Return the seeded draws of this key."""
        return make_noise_source("seeded", key)

    def privatize_update(self, update: ModelUpdate, random: NoiseSource) -> ModelUpdate:
        """Return the update as it is; one that holds NaN or infinity is an error, for nothing here would bound it."""
        if not update.finite():
            raise FedrecError("an update holds NaN or infinity: training diverged; try a smaller learning rate")
        return update

    def privatize_cohort(self, changes: CohortUpdates, random: NoiseSource) -> ModelUpdate:
        """Return the sum as it is; changes that hold NaN or infinity are an error."""
        # Never a device's own norm: what is summed in full may have been computed as a sum.
        return self.privatize_update(changes.weighted_sum(np.ones(changes.count)), random)

    def privatize_aggregate(
        self,
        total: Released,
        plan: TrainingPlan,
        round_number: int,
        random: NoiseSource,
        state: Arrays | None = None,
    ) -> Aggregate:
        """Return the sum as it is, over the number of devices that arrived."""
        return Aggregate(worth(total), float(max(1, total.count)))

    def event(self, plan: TrainingPlan, round_number: int) -> DpEvent:
        """Return what no epsilon covers."""
        return NonPrivateDpEvent()

    def participation_limit(self, plan: TrainingPlan) -> int:
        """Return the number of rounds: nothing limits them."""
        return plan.rounds

    def matched_filter(self, plan: TrainingPlan) -> NDArray[np.float64]:
        """Return the mean over the rounds, of a unit that moves the sum by 1."""
        return np.full(plan.rounds, 1 / plan.rounds)
