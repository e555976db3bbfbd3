"""User level with noise that is correlated over rounds: what one round adds, later rounds partly take back.

Banded matrix factorisation (Choquette-Choo et al., "(Amplified) banded matrix factorization", 2023): the noise of a
round is w_t = z_t - c_1 w_{t-1} - ... - c_{b-1} w_{t-b+1} for white noise z_t, so that the running sum, which is what
the model is, holds less noise than independent noise would leave in it. The whole run is one Gaussian mechanism.

Threat model. The server is trusted: it sees every clipped update and keeps the last b - 1 sums secret. Protected is
one user's whole data from everyone who sees the released models, were it all other users together. No assumption on
sampling: who takes part when is public. Each device has its turn once every `separation` rounds, whatever was lost in
between, and the guarantee holds for that separation. Better than privacy=user from about epsilon 4 on, or wherever
cohorts can't be drawn in secret; worse below.

Banded Toeplitz strategies for correlated noise: their sensitivity, their error, and the best one for a plan.

Choquette-Choo et al., "(Amplified) banded matrix factorization: a unified approach to private training", 2023. The
lower-triangular Toeplitz matrix C has the coefficients c_0 = 1, c_1, ... on its bands; what is released is C x + z for
a sum x a round and white noise z, on the grid, with coefficients that are whole 256ths. C^-1 (C x + z) = x + C^-1 z is
then computed from releases alone, in floating point. Two rounds of one device lie at least `separation` apart, and
there are no more bands than that: the columns of C that one device touches then share no row, so that their squared
norms add up.
"""

import math
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import ClassVar, Self, cast

import numpy as np
from dp_accounting import DpEvent, GaussianDpEvent, NoOpDpEvent
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.signal import lfilter

from fedrec.errors import FedrecError, RefusedError
from fedrec.messages import Arrays
from fedrec.privacy.grid import SPARE, Grid, Whole
from fedrec.privacy.guarantee import PrivacyGuarantee, Relation, Trust, Unit
from fedrec.privacy.mechanisms.base import (
    UserClippingMechanism,
    check_positive,
    cyclic_cohort,
    multiplier_for,
)
from fedrec.privacy.mechanisms.protocol import Aggregate, NoiseSource, Shapes, TrainingPlan
from fedrec.privacy.release import Released, as_release

Coefficients = NDArray[np.float64]
PART_BITS = 8
PARTS = 1 << PART_BITS  # of one: coefficients are whole multiples of 1 / PARTS
SUM, ESTIMATE = "sum/", "estimate/"  # of the state: the last rounds' sums, which are secret, and what was told of them


def squared_sensitivity(coefficients: Coefficients, rounds: int, separation: int, at_most: int | None = None) -> float:
    """Return the largest squared norm of the columns that one device can touch in the first `rounds` rows of C.

    Taking part as early as the separation allows is the worst: a column loses what lies below the last row. For at
    most as many coefficients as `separation`; `at_most` is the largest number of participations, all where null.
    """
    norms = np.concatenate([[0.0], np.cumsum(np.square(coefficients))])
    left = np.arange(rounds, 0, -separation)[:at_most]  # rows from each participation to the end
    return float(norms[np.minimum(left, len(coefficients))].sum())


def squared_error(coefficients: Coefficients, rounds: int) -> float:
    """Return the variance of the noise in the sum of all rounds so far, its mean over rounds, for unit white noise."""
    running = correlate(coefficients, np.ones(rounds))  # the running sum's coefficients: 1 / ((1 - x) c(x))
    return float(np.square(running) @ np.arange(rounds, 0, -1)) / rounds


def error_gain(coefficients: Coefficients, rounds: int, separation: int) -> float:
    """Return how many times smaller the error (standard deviation) is than with independent noise at the same cost."""
    alone = np.ones(1)
    cost = [squared_sensitivity(c, rounds, separation) * squared_error(c, rounds) for c in (alone, coefficients)]
    return float(np.sqrt(cost[0] / cost[1]))


def correlate(coefficients: Coefficients, values: Coefficients) -> Coefficients:
    """Return C^-1 applied to values [rounds], by the recurrence that the bands define."""
    return np.asarray(lfilter([1.0], coefficients, values), np.float64)


@lru_cache(maxsize=32)
def optimal_bands(rounds: int, bands: int, separation: int) -> tuple[float, ...]:
    """Return the coefficients with the least error at a given cost, found from those of the square root of the sums."""
    start = np.cumprod(np.concatenate([[1.0], (np.arange(1, bands) - 0.5) / np.arange(1, bands)]))
    if bands == 1:
        return (1.0,)
    weights, left = np.arange(rounds, 0, -1), np.arange(rounds, 0, -separation)
    touched = np.array([float((left > band).sum()) for band in range(bands)])  # columns of a device that hold the band

    def logarithm(tail: Coefficients) -> tuple[float, Coefficients]:
        c = np.concatenate([[1.0], tail])
        running = correlate(c, np.ones(rounds))
        error, cost = float(np.square(running) @ weights), float(touched @ np.square(c))
        # d error / d c_k: the adjoint of the recurrence, run backwards.
        adjoint = correlate(c, (2 * weights * running)[::-1])[::-1]
        slope = np.array([-(adjoint[k:] @ running[: rounds - k]) for k in range(1, bands)])
        return np.log(error) + np.log(cost), slope / error + 2 * (touched * c)[1:] / cost

    found = minimize(logarithm, start[1:], jac=True, method="L-BFGS-B", options={"maxiter": 500})
    return (1.0, *(float(value) for value in found.x))


@dataclass(frozen=True)
class BandedUserLevel(UserClippingMechanism):
    """Noises the sum of the clipped updates, by white noise of `noise_multiplier * clip` made to cancel over rounds.

    The cohort's rate decides the separation: with an expected cohort of a tenth of the devices, each takes part every
    tenth round. `bands` is how many rounds the noise reaches over, at most the separation (null: as many); the server
    keeps bands - 1 sums and as many estimates of them, of the model's size. With all devices in each round the noise is
    independent.
    """

    name: ClassVar[str] = "banded"
    terms: ClassVar[PrivacyGuarantee] = PrivacyGuarantee(
        unit=Unit.USER,
        relation=Relation.ADD_REMOVE,
        trust=Trust.SERVER,
        adversary="everyone who sees the released models; the server itself is trusted",
        release_set="the model after each round",
        sampling="none assumed: devices take turns in fixed, public groups, a known number of rounds apart",
    )
    bands: int | None = None
    coefficients: tuple[float, ...] | None = None  # set by `calibrated`

    def __post_init__(self) -> None:
        """Check every field."""
        super().__post_init__()
        check_positive("bands", self.bands)

    @property
    def skips_lost_rounds(self) -> bool:
        """A row of the matrix is noised once: a lost round is left out. In test mode it is played again, as it was."""
        return self.private

    def with_sampling_rate(self, plan: TrainingPlan) -> TrainingPlan:
        """Return the plan with the rate of cohorts that take turns: one over a whole number of rounds."""
        return replace(plan, cohort_rate=1 / max(1, int(1 / plan.cohort_rate + 1e-9)))

    def calibrated(self, plan: TrainingPlan, sensitivity: float | None) -> Self:
        """Return the mechanism with the best coefficients and the noise that keeps epsilon over all rounds."""
        if not plan.trains and plan.rounds > 1:
            raise RefusedError(
                "BandedUserLevel takes back noise of the same sum in later rounds: it has no argument for an algorithm "
                "whose rounds release different statistics; use privacy=user"
            )
        bounded, separation = self.bounded_by(sensitivity), _separation(plan)
        if self.bands is not None and self.bands > min(separation, plan.rounds):
            raise RefusedError(
                f"privacy.bands={self.bands}: at most {min(separation, plan.rounds)} here, the rounds between two "
                "turns of a device (cohort.size decides) and the rounds in all"
            )
        best = optimal_bands(plan.rounds, self.bands or min(separation, plan.rounds), separation)
        found = tuple(round(PARTS * c) / PARTS for c in best)
        cost = squared_sensitivity(np.array(found), plan.rounds, separation)
        uses = ((1.0, cost**-0.5, 1),)
        z = multiplier_for(self.epsilon, self.delta_for(plan), uses, self.noise_multiplier)
        return replace(bounded, noise_multiplier=z, coefficients=found)

    def sample_cohort(self, plan: TrainingPlan, round_number: int, random: NoiseSource) -> NDArray[np.int64]:
        """Return the group whose turn it is."""
        return cyclic_cohort(plan, round_number, _separation(plan))

    def clip_grid(self, shapes: Shapes) -> Grid:
        """Return the grid for this clip and so many numbers; C x lies on one that is 256 times as fine."""
        numbers = sum(math.prod(shape) for shape in shapes.values())
        return Grid.of(self.clip, numbers, (self.noise_multiplier or 0.0) * PARTS / SPARE)

    def init_state(self, shapes: Shapes) -> Arrays:
        """Return no sums and no estimates of them: zeros [bands - 1, ...] for each array, the newest first."""
        reach, state = len(self._coefficients()) - 1, Arrays()
        for name, shape in shapes.items():
            state[SUM + name] = cast(NDArray[np.float32], np.zeros((reach, *shape), np.int64))
            state[ESTIMATE + name] = np.zeros((reach, *shape), np.float32)
        return state

    def state_after_lost_round(self, state: Arrays) -> Arrays:
        """Return nothing: it starts afresh, because what a lost round would have added was never released."""
        return {name: np.zeros_like(array) for name, array in state.items()}

    def privatize_aggregate(
        self,
        total: Released,
        plan: TrainingPlan,
        round_number: int,
        random: NoiseSource,
        state: Arrays | None = None,
    ) -> Aggregate:
        """Return what the releases up to this round's tell of its sum, over the size of a group whoever arrived."""
        whole, tail, found, kept = as_release(total), self._coefficients()[1:], Arrays(), Arrays()
        memory = state or self.init_state({name: array.shape for name, array in whole.arrays.items()})
        past = {name: list(cast(Whole, memory[SUM + name])) for name in whole.arrays}
        exact = whole.correlated([round(PARTS * c) for c in tail], past, PART_BITS)
        released = exact.noised(exact.grid.variance(self.multiplier()), random)
        for name, array in released.arrays.items():
            before = memory[ESTIMATE + name]
            estimate = released.grid.values(array)
            for weight, earlier in zip(tail, before, strict=True):
                estimate -= weight * earlier
            found[name] = estimate.astype(np.float32)
            kept[ESTIMATE + name] = np.concatenate([found[name][None], before])[: len(tail)]
            sums = np.concatenate([np.asarray(whole.arrays[name])[None], memory[SUM + name]])[: len(tail)]
            kept[SUM + name] = cast(NDArray[np.float32], sums)
        return Aggregate(found, plan.expected_cohort, kept, release=released)

    def event(self, plan: TrainingPlan, round_number: int) -> DpEvent:
        """Return what this round adds to the cost of the rounds before it; all together are one Gaussian mechanism."""
        coefficients, separation = self._coefficients(), _separation(plan)
        so_far, before = (squared_sensitivity(coefficients, r, separation) for r in (round_number, round_number - 1))
        more = so_far - before
        return GaussianDpEvent(self.multiplier() / more**0.5) if more > 1e-12 else NoOpDpEvent()

    def participation_limit(self, plan: TrainingPlan) -> int:
        """Return how often a device has its turn."""
        return -(-plan.rounds // _separation(plan))

    def matched_filter(self, plan: TrainingPlan) -> NDArray[np.float64]:
        """Return C'Cp / |Cp|^2 in units of the clip, for the turns p of a device that takes part from round 1 on.

        Whitened by C, what is released is Cp + white noise; no device shows more than one of the first group.
        """
        turns = np.zeros(plan.rounds)
        turns[:: _separation(plan)] = 1
        seen = np.convolve(self._coefficients(), turns)[: plan.rounds]
        back = np.convolve(self._coefficients(), seen[::-1])[: plan.rounds][::-1]
        return back / (seen @ seen) / self.clip

    def _coefficients(self) -> NDArray[np.float64]:
        if self.coefficients is None:
            raise FedrecError("the mechanism has no coefficients yet: call calibrated(plan, sensitivity) first")
        return np.array(self.coefficients)


def _separation(plan: TrainingPlan) -> int:
    """Return how many rounds lie between two turns of a device."""
    return round(1 / plan.cohort_rate)
