"""User level: a device's whole update is clipped, and the server adds noise to the sum (central DP-FedAvg).

McMahan, Ramage, Talwar & Zhang, "Learning differentially private recurrent language models", 2018: uniform weights,
flat clip, Poisson cohort, fixed denominator.
"""

import math
from dataclasses import dataclass, replace

import numpy as np
from dp_accounting import DpEvent, GaussianDpEvent, PoissonSampledDpEvent

from fedrec.errors import FedrecError, Refused
from fedrec.models.base import TrainableRecommender
from fedrec.privacy.accounting import checked_delta, default_delta
from fedrec.privacy.base import Aggregate, LocalSettings, Plan, Random, Terms
from fedrec.privacy.noise import source
from fedrec.privacy.options import check_common, check_positive, multiplier_for
from fedrec.privacy.plain import PlainStep
from fedrec.update import Arrays, Update

USER_TERMS = Terms(
    "user",
    "add-remove",
    "server",
    adversary="everyone who sees the released models; the server itself is trusted",
    release_set="the model after each round",
)


@dataclass(frozen=True)
class UserLevel:
    """Hides one user from everyone who sees the released models.

    `clip` bounds the L2 norm of a device's whole update, whatever it holds; for a statistic of known sensitivity,
    `calibrated` sets it to that. `noise_multiplier` is the noise's standard deviation over the clip, found from
    `epsilon` where null; `delta` is min(1e-5, users^-1.1) where null. `population_epsilon`
    bounds the total of all runs on these users; null: no limit.
    """

    epsilon: float = 8.0
    delta: float | None = None
    clip: float = 1.0
    noise_multiplier: float | None = None
    randomness: str = "system"
    population_epsilon: float | None = None

    def __post_init__(self) -> None:
        """Check every field."""
        check_common(self.epsilon, self.delta, self.noise_multiplier, self.randomness)
        check_positive("clip", self.clip)
        check_positive("population_epsilon", self.population_epsilon)

    @property
    def terms(self) -> Terms:
        """Unit user, add-remove, a trusted server."""
        return USER_TERMS

    @property
    def private(self) -> bool:
        """Whether an epsilon may be reported: not where the noise can be drawn again from a seed."""
        return self.randomness == "system"

    def delta_for(self, plan: Plan) -> float:
        """Return delta, below one over the number of users."""
        return checked_delta(default_delta(plan.population) if self.delta is None else self.delta, plan.population)

    def calibrated(self, plan: Plan, sensitivity: float | None) -> "UserLevel":
        """Return the mechanism with the clip of a statistic and the noise that keeps epsilon over all rounds."""
        if sensitivity is None:
            raise Refused("nothing bounds what one user changes: UserLevel has no argument for this algorithm")
        uses = ((plan.cohort_rate, 1.0, plan.rounds),)
        if plan.shares is not None:
            uses = tuple((plan.cohort_rate, _factor(plan, r), 1) for r in range(1, plan.rounds + 1))
        z = multiplier_for(self.epsilon, self.delta_for(plan), uses, self.noise_multiplier)
        return replace(self, noise_multiplier=z, clip=sensitivity if math.isfinite(sensitivity) else self.clip)

    def on_device(
        self, model: TrainableRecommender, settings: LocalSettings, generator: np.random.Generator, random: Random
    ) -> PlainStep:
        """Return ordinary minibatch training: the clip and the noise come after it."""
        return PlainStep(model, settings, generator)

    def random(self, *key: int) -> Random:
        """Return the operating system's draws, or those of the key with randomness=seeded."""
        return source(self.randomness, key)

    def release(self, update: Update, random: Random) -> Update:
        """Return the update, of count 1, its norm over all arrays at most `clip`; a non-finite one becomes zero."""
        return update.bounded(self.clip)

    def at_node(self, total: Update, random: Random) -> Update:
        """Return the node's sum as it is: the server is trusted with it."""
        return total

    def finish(self, total: Update, plan: Plan, round_number: int, random: Random) -> Aggregate:
        """Return the sum + N(0, (z * clip)^2) on every coordinate, over the expected cohort whoever arrived."""
        std = self._multiplier(plan, round_number) * self.clip
        noised: Arrays = {}
        for name, array in total.arrays.items():
            noised[name] = (array + random.gaussian(array.shape, std)).astype(np.float32)
        return Aggregate(noised, plan.expected_cohort)

    def event(self, plan: Plan, round_number: int) -> DpEvent:
        """Return what one round costs: a Gaussian on a Poisson sample of the users."""
        gaussian = GaussianDpEvent(self._multiplier(plan, round_number))
        return gaussian if plan.cohort_rate == 1 else PoissonSampledDpEvent(plan.cohort_rate, gaussian)

    def participations(self, plan: Plan) -> int:
        """Return the number of rounds: each is charged to all users."""
        return plan.rounds

    def _multiplier(self, plan: Plan, round_number: int) -> float:
        if self.noise_multiplier is None:
            raise FedrecError("the mechanism has no noise multiplier yet: call calibrated(plan, sensitivity) first")
        return self.noise_multiplier * _factor(plan, round_number)


def _factor(plan: Plan, round_number: int) -> float:
    """Return how much more noise round 1..rounds gets than with equal parts: 1 / sqrt(share * rounds)."""
    if plan.shares is None:
        return 1.0
    if len(plan.shares) != plan.rounds or not all(share > 0 for share in plan.shares):
        raise FedrecError(f"shares {plan.shares}: one part above 0 is needed for each of the {plan.rounds} rounds")
    return 1.0 / math.sqrt(plan.shares[round_number - 1] * plan.rounds)
