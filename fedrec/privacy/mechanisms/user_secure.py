"""User level by secure aggregation: each device adds a share of the noise, and the server learns the sum alone.

Kairouz, Liu & Steinke, "The distributed discrete Gaussian mechanism for federated learning with secure aggregation",
2021, with the sums of `fedrec.secure`. Each device clips its update on the grid and adds D(v), where v is the variance
that the sum must have over the number of honest devices that are in it at least: `least`, the fewest whose sum is
released, without the `colluding` who know their own noise and tell it. D(v) added up m times is D(m v) up to a factor
of 1 +- 4 m exp(-pi^2 v) (`fedrec.privacy.grid`), which at v >= 12 is 2^-140 for a million devices: so the accountant
is that of one Gaussian on the sum, whoever is left.

Threat model. The adversary is the server, with the colluding devices, and everyone after it. It follows the protocol:
then it sees the sum over the devices of a round, and of one device nothing. It knows who takes part, so that sampling
the cohort buys nothing and protected is what a device contributes, against nothing in its place. Nor does sampling buy
anything against those who see the models alone: how large their noise is tells how many devices came. A server that
invents all the other devices sees one device with its own share of the noise.
"""

import math
from dataclasses import dataclass, replace
from typing import ClassVar, Self

import numpy as np
from dp_accounting import DpEvent, GaussianDpEvent
from numpy.typing import NDArray

from fedrec.errors import FedrecError, RefusedError
from fedrec.privacy.accounting.rdp import epsilon_bound
from fedrec.privacy.grid import LEAST_BITS, Grid, packed_bits, reach
from fedrec.privacy.guarantee import PrivacyGuarantee, Relation, Trust, Unit
from fedrec.privacy.mechanisms.base import check_positive, multiplier_for
from fedrec.privacy.mechanisms.protocol import TrainingPlan
from fedrec.privacy.mechanisms.user import share_factor
from fedrec.privacy.mechanisms.user_local import UserLocal

LEAST_SHARE = 12  # of a device's variance, in steps squared: sums of smaller ones are no discrete Gaussians
FEWEST = 3  # devices of a secure sum


@dataclass(frozen=True)
class UserSecure(UserLocal):
    """Noises each clipped update by a share of `noise_multiplier * clip`, which the sum then has at least.

    Of a cohort, at most the share `dropped` drops out and `corrupt` is corrupt; where null, `least` and `colluding`
    follow from them and the expected cohort. With `secure` "real" a simulation plays every message of the protocol;
    "ideal" adds up what the messages would have added up, to the bit.
    """

    name: ClassVar[str] = "user_secure"
    terms: ClassVar[PrivacyGuarantee] = PrivacyGuarantee(
        unit=Unit.USER,
        relation=Relation.ADD_REMOVE,
        trust=Trust.SUMS,
        adversary="the server and everyone after it, with the devices that collude",
        release_set="the sum over the devices of each round",
    )
    dropped: float = 0.3
    corrupt: float = 0.05
    least: int | None = None
    colluding: int | None = None
    secure: str = "ideal"

    def __post_init__(self) -> None:
        """Check every field."""
        super().__post_init__()
        if not (0 <= self.corrupt < 0.5 and self.dropped >= 0 and self.corrupt / 2 + self.dropped < 0.5):
            raise FedrecError(
                f"privacy.dropped={self.dropped}, privacy.corrupt={self.corrupt}: half of the corrupt devices and all "
                "that drop out must be less than half of a cohort"
            )
        if self.secure not in ("ideal", "real"):
            raise FedrecError(f"privacy.secure={self.secure}: ideal or real expected")
        check_positive("least", self.least)
        if self.colluding is not None and self.colluding < 0:
            raise FedrecError(f"privacy.colluding={self.colluding}: a number of devices, 0 or more, is expected")

    def calibrated(self, plan: TrainingPlan, sensitivity: float | None) -> Self:
        """Return the mechanism with a statistic's clip, the fewest devices of a sum, and the noise that keeps epsilon.

        Too few devices for a secure sum are `RefusedError`.
        """
        bounded, uses = self.bounded_by(sensitivity), ((1.0, 1.0, self.participation_limit(plan)),)
        if plan.cohort_rate == 1:
            uses = tuple((1.0, share_factor(plan, number), 1) for number in range(1, plan.rounds + 1))
        cohort = plan.expected_cohort
        least = math.floor((1 - self.dropped) * cohort) if self.least is None else self.least
        colluding = math.ceil(self.corrupt * cohort) if self.colluding is None else self.colluding
        if not (FEWEST <= least <= cohort and colluding < least):
            raise RefusedError(
                f"UserSecure: {least} devices in a sum at least, {colluding} of them colluding, of {cohort:g} asked: "
                f"a secure sum takes {FEWEST} or more, not all colluding and no more than are asked"
            )
        z = multiplier_for(self.epsilon, self.delta_for(plan), uses, self.noise_multiplier)
        return replace(bounded, noise_multiplier=z, least=least, colluding=colluding)

    @property
    def least_devices(self) -> int:
        """The fewest devices whose sum may be released."""
        return self.least or FEWEST

    @property
    def honest(self) -> int:
        """How many honest devices add noise at least."""
        if self.least is None or self.colluding is None:
            raise FedrecError("the mechanism has no least number of devices yet: call calibrated(plan, sensitivity)")
        return self.least - self.colluding

    def device_variance(self, grid: Grid) -> int:
        """Return a device's share of the variance that the sum must have, in grid steps squared."""
        return max(-(-grid.variance(self.multiplier()) // self.honest), LEAST_SHARE)

    def device_std(self) -> float:
        """Return the standard deviation of a device's share on the coarsest grid, where rounding up adds most."""
        grid = Grid(LEAST_BITS, self.clip)
        return math.sqrt(self.device_variance(grid)) * grid.step

    def most_devices(self, plan: TrainingPlan) -> int:
        """Return the largest cohort that the modulus has room for: a larger Poisson one has a chance below 1e-14."""
        if plan.cohort_rate == 1:
            return plan.population
        return min(plan.population, math.ceil(plan.expected_cohort + 8 * math.sqrt(plan.expected_cohort) + 12))

    def modulus_bits(self, plan: TrainingPlan, grid: Grid) -> int:
        """Return the bits of a masked number: a sum of the largest cohort does not wrap around."""
        return packed_bits(reach(self.most_devices(plan), grid.length, self.device_variance(grid)))

    def in_round(self, plan: TrainingPlan, round_number: int) -> Self:
        """Return the mechanism with the noise of a round: where all take part in all, each has its part of the budget.

        To be asked of the calibrated mechanism, once.
        """
        return replace(self, noise_multiplier=self._round_multiplier(plan, round_number))

    def _round_multiplier(self, plan: TrainingPlan, round_number: int) -> float:
        return self.multiplier() * (share_factor(plan, round_number) if plan.cohort_rate == 1 else 1.0)

    def event(self, plan: TrainingPlan, round_number: int) -> DpEvent:
        """Return what one participation costs its device: with it or without, the sum moves by the clip."""
        return GaussianDpEvent(self._round_multiplier(plan, round_number))

    def participation_limit(self, plan: TrainingPlan) -> int:
        """Return in how many rounds one device may take part: in all where everybody always does."""
        return plan.rounds if plan.cohort_rate == 1 else super().participation_limit(plan)

    def matched_filter(self, plan: TrainingPlan) -> NDArray[np.float64]:
        """Return each round's precision over the sum of all, in units of the clip."""
        precision = np.array([self._round_multiplier(plan, number) ** -2.0 for number in range(1, plan.rounds + 1)])
        return precision / precision.sum() / self.clip

    def epsilon_among_strangers(self, plan: TrainingPlan) -> float:
        """Return an upper bound of a device's epsilon where the server invents all the others of every sum."""
        alone = self.multiplier() / math.sqrt(self.honest)
        return epsilon_bound([(alone, 1.0, self.participation_limit(plan))], self.delta_for(plan))
