"""Gateway level: a node that rightly holds several users trains on them together and hides each from the server.

A household's hub, a shop, an operator's edge. DP-SGD (Abadi et al., "Deep learning with differential privacy", 2016)
with one user's whole batch as the example: each user's gradient is clipped on a public grid, where the gateway adds the
noise to the whole sum of each step (`fedrec.privacy.step_grid`). What leaves is made of those sums, in floating point.

Threat model. The adversary is the server and everyone after it, and the other gateways: they see what the gateway
sends. Protected is one user's whole data. The gateway is trusted: it holds its users' data anyway, and their private
vectors, each trained on that user's data only. Sampling of the cohort by the server buys nothing, for it knows whom it
asked; the gateway's own sampling of users in each step is hidden from it and is accounted. Not protected: which users
a gateway has; users of one gateway from each other, should they see what it holds.
"""

from dataclasses import dataclass, replace
from typing import ClassVar, Self

import numpy as np
from dp_accounting import DpEvent, GaussianDpEvent, PoissonSampledDpEvent, SelfComposedDpEvent
from numpy.typing import NDArray

from fedrec.errors import FedrecError, RefusedError
from fedrec.messages import Arrays, ModelUpdate
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
from fedrec.privacy.mechanisms.protocol import Aggregate, DPSGDConfig, NoiseSource, Shapes, TrainingPlan
from fedrec.privacy.release import Released, as_release, on_a_grid, worth
from fedrec.privacy.step_grid import USER_BITS


@dataclass(frozen=True)
class GatewayLevel(UserClippingMechanism):
    """Hides one user of a gateway from everyone but the gateway.

    Training: `local_steps` steps a round, each on a Poisson sample of rate `sample_rate` of the users that were asked,
    each user's gradient clipped to norm `clip`, each sum noised with standard deviation `noise_multiplier * clip` and
    divided by `denominator`, about the users of one gateway; all of these are public and the same for every gateway.
    A statistic of known `sensitivity` (set by `calibrated`) is clipped to it for each user, and each gateway noises
    its sum. `noise_multiplier` is found from `epsilon` where null, for a user who is asked `max_participations` times
    (null: always, or the 0.999 quantile of Binomial(rounds, rate)).
    """

    name: ClassVar[str] = "gateway"
    terms: ClassVar[PrivacyGuarantee] = PrivacyGuarantee(
        unit=Unit.USER,
        relation=Relation.ADD_REMOVE,
        trust=Trust.GATEWAY,
        adversary="the server and everyone after it, other gateways included",
        release_set="every update that a gateway sends",
    )
    sample_rate: float = 1.0
    local_steps: int = 1
    denominator: float = 64.0
    max_participations: int | None = None
    sensitivity: float | None = None  # set by `calibrated`

    def __post_init__(self) -> None:
        """Check every field."""
        super().__post_init__()
        for name in ("denominator", "max_participations", "local_steps", "sensitivity"):
            check_positive(name, getattr(self, name))
        if not 0 < self.sample_rate <= 1:
            raise FedrecError(f"privacy.sample_rate={self.sample_rate}: must lie above 0 and at most at 1")
        if self.clipping != "whole":
            raise RefusedError("privacy.clipping=split: GatewayLevel clips each user's whole gradient; use whole")

    def calibrated(self, plan: TrainingPlan, sensitivity: float | None) -> Self:
        """Return the mechanism with a statistic's clip and the noise that keeps epsilon over one user's rounds."""
        bounded, times = self.bounded_by(sensitivity), self.participation_limit(plan)
        uses = ((self.sample_rate, 1.0, times * self.local_steps),) if plan.trains else ((1.0, 1.0, times),)
        z = multiplier_for(self.epsilon, self.delta_for(plan), uses, self.noise_multiplier)
        return replace(bounded, noise_multiplier=z, sensitivity=None if plan.trains else sensitivity)

    @property
    def pools_users(self) -> bool:
        """Users of a node train as one."""
        return True

    @property
    def trains_by_dp_sgd(self) -> bool:
        """Local training is DP-SGD, an example a user."""
        return True

    def dp_sgd(self) -> DPSGDConfig:
        """Return the constants of DP-SGD with users as examples."""
        z = self.multiplier()
        return DPSGDConfig(self.clip, z, self.sample_rate, self.local_steps, self.denominator, USER_BITS)

    def grid(self, shapes: Shapes) -> Grid | None:
        """Return the grid of a statistic; what was trained is floating point, made of sums that were noised whole."""
        return None if self.sensitivity is None else self.clip_grid(shapes)

    def reach(self, count: int, grid: Grid) -> int:
        """Return what `count` users' contributions and the gateway's noise come to."""
        return reach(1, count * grid.length, grid.variance(self.multiplier()))

    def privatize_update(self, update: ModelUpdate, random: NoiseSource) -> Released:
        """Return one user's statistic, clipped, on the grid, or what was trained, clipped; a non-finite one is zero."""
        if self.sensitivity is None:
            return replace(self.rule.clipped(update), count=1)
        return super().privatize_update(update, random)

    def privatize_node_sum(self, total: Released, random: NoiseSource) -> Released:
        """Return a trained sum as it is (its steps were noised), a statistic's with noise of z clips."""
        if self.sensitivity is None:
            return total
        whole = as_release(total)
        return whole.noised(whole.grid.variance(self.multiplier()), random)

    def clip_node_sum(self, total: Released) -> Released:
        """Return the node's sum as it is: noise has no bound."""
        return total

    def largest_norm(self, values: int, count: int, plan: TrainingPlan, learning_rate: float) -> float:
        """Return what `count` users' clips and the gateway's noise reach over all local steps."""
        once = super().largest_norm(values, count, plan, learning_rate)
        once += noise_reach(values, self.multiplier() * self.clip)
        return once if self.sensitivity is not None else max(learning_rate, 1.0) * self.local_steps * once

    def noise_on_values(self, count: int) -> float:
        """Return the reach of the gateway's noise."""
        return VALUE_REACH * self.multiplier() * self.clip

    def privatize_aggregate(
        self,
        total: Released,
        plan: TrainingPlan,
        round_number: int,
        random: NoiseSource,
        state: Arrays | None = None,
    ) -> Aggregate:
        """Return the sum as it is, over the expected cohort whoever arrived."""
        return Aggregate(worth(total), plan.expected_cohort, release=on_a_grid(total))

    def event(self, plan: TrainingPlan, round_number: int) -> DpEvent:
        """Return what one round costs a user who was asked."""
        gaussian = GaussianDpEvent(self.multiplier())
        if self.sensitivity is not None:
            return gaussian
        step = gaussian if self.sample_rate == 1 else PoissonSampledDpEvent(self.sample_rate, gaussian)
        return SelfComposedDpEvent(step, self.local_steps)

    def matched_filter(self, plan: TrainingPlan) -> NDArray[np.float64]:
        """Return the mean over the rounds, in units of what one user moves in each."""
        return super().matched_filter(plan) / (self.local_steps if self.sensitivity is None else 1)

    def participation_limit(self, plan: TrainingPlan) -> int:
        """Return in how many rounds one user may be asked: public, and what the noise is calibrated for."""
        return most_participations(plan, self.max_participations)
