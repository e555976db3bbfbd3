"""The protocol of a mechanism, and the public plan that it is accounted for.

Fields of these values are public; arguments of methods are the secrets. Sampler, clip, noise and event come from ONE
mechanism, so that they cannot disagree.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from fedrec.messages import Arrays, ModelUpdate
from fedrec.privacy.clipping import NormClipper
from fedrec.privacy.contributions import CohortUpdates
from fedrec.privacy.grid import Grid
from fedrec.privacy.guarantee import PrivacyGuarantee
from fedrec.privacy.release import Release, Released
from fedrec.privacy.step_grid import EXAMPLE_BITS, StepGrid

if TYPE_CHECKING:  # devices without torch use these values too
    from dp_accounting import DpEvent

Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class TrainingPlan:
    """What everybody may know of a run before it starts.

    `population` and `interactions` are nominal public sizes, never counted again on the data at run time;
    `cohort_rate` is the probability with which each device is drawn in each round, independently;
    `shares[rounds]` are the parts of the budget (of mu squared) that each round may spend, summing to 1, or None for
    equal parts. `trains` says whether devices train (as against releasing a bounded statistic once a round).
    """

    population: int
    interactions: int
    cohort_rate: float
    rounds: int
    trains: bool
    shares: tuple[float, ...] | None = None

    @property
    def expected_cohort(self) -> float:
        """How many devices a round expects: the public denominator."""
        return self.cohort_rate * self.population


@dataclass(frozen=True, slots=True)
class DPSGDConfig:
    """The public constants of DP-SGD, the same for every device: noise of noise_multiplier * clip on every sum.

    Each of `local_steps` steps takes a Poisson sample of the device's interactions, drawn with `sample_rate`. Gradients
    lie on steps of clip / 2^`bits`, those of a linear layer's weights on finer ones.
    """

    clip: float
    noise_multiplier: float
    sample_rate: float
    local_steps: int
    denominator: float
    bits: int = EXAMPLE_BITS

    def grid(self) -> StepGrid:
        """Return the grids that every step's sums and noise lie on."""
        return StepGrid.of(self.clip, self.noise_multiplier, self.bits)


class NoiseSource(Protocol):
    """Draws that a guarantee rests on: from the operating system, or seeded in test mode."""

    def gaussian(self, shape: tuple[int, ...], std: float) -> NDArray[np.float32]:
        """Return independent N(0, std^2) draws, right beyond 8 standard deviations."""
        ...

    def discrete_gaussian(self, shape: tuple[int, ...], variance: int) -> NDArray[np.int32]:
        """Return independent whole numbers k of P(k) proportional to exp(-k^2 / (2 variance)), exact to 2^-130."""
        ...

    def uniform(self, size: int) -> NDArray[np.float64]:
        """Return independent draws from [0, 1) with 53 random bits each."""
        ...

    def keyed(self, users: NDArray[np.int64], index: NDArray[Any]) -> NDArray[np.uint64]:
        """Return uniform words [C, ...] for users [C] and whole numbers `index` [C or 1, ...].

        A seeded source gives the same word for the same key, user and index, in whatever company; the operating
        system's gives words that were never given before.
        """
        ...


@dataclass(frozen=True, slots=True)
class Aggregate:
    """The sum over the devices that arrived, noised where the mechanism does, and its public denominator.

    `mechanism_state` is what the mechanism carries into the next round; `noise_std` is the standard deviation of the
    noise on every coordinate of the sum, which is public, 0 where there is none. `release` holds the noised whole
    numbers that `arrays` follow from, which anybody may see; None where nothing was noised, or not on a grid.
    """

    arrays: Arrays
    denominator: float
    mechanism_state: Arrays = field(default_factory=dict[str, NDArray[np.float32]])
    noise_std: float = 0.0
    release: Release | None = None

    def mean(self) -> Arrays:
        """Return the arrays over the denominator."""
        return {name: (array / np.float32(self.denominator)).astype(np.float32) for name, array in self.arrays.items()}


class Mechanism(Protocol):
    """One way to protect users. "No privacy" is a mechanism too, with an epsilon that is infinite.

    A mechanism is frozen. What changes over rounds (a clip that adapts, noise that is taken back later) is its
    *memory*: named float32 arrays that the round loop carries and keeps in the checkpoint, outside every release.
    What devices have to know of it is *announced* to them with the round's request.
    """

    name: ClassVar[str]  # what results call it
    terms: ClassVar[PrivacyGuarantee]  # what is promised, to whom

    @property
    def private(self) -> bool:
        """Whether an epsilon may be reported: not where there is no noise, or noise that a seed can draw again."""
        ...

    @property
    def epsilon(self) -> float:
        """What the whole run may spend; infinite where nothing is promised."""
        ...

    @property
    def delta(self) -> float | None:
        """The delta that was set by hand; None where `delta_for` finds it from the plan."""
        ...

    @property
    def clip(self) -> float | None:
        """The largest norm of what is clipped; None where nothing is."""
        ...

    @property
    def clipping(self) -> str:
        """How an update is clipped: "whole", or "split" into item rows and dense parameters."""
        ...

    @property
    def rule(self) -> NormClipper | None:
        """How one device's whole update is clipped; None where that is not what is bounded."""
        ...

    @property
    def noise_multiplier(self) -> float | None:
        """The noise's standard deviation over the clip; None before it is calibrated, and where there is no noise."""
        ...

    @property
    def randomness(self) -> str:
        """Where the draws come from: "system", or "seeded" where they can be drawn again."""
        ...

    def delta_for(self, plan: TrainingPlan) -> float:
        """Return the delta of this run: the configured one, else min(1e-5, N^-1.1) over its privacy units."""
        ...

    @property
    def pools_users(self) -> bool:
        """Whether the devices of a node train as one (a gateway), by DP-SGD with one user as the example."""
        ...

    @property
    def least_devices(self) -> int:
        """The fewest devices whose sum may be released, where how many came is no secret."""
        ...

    @property
    def skips_lost_rounds(self) -> bool:
        """Whether a round that was charged and never committed is left out, instead of charged and played again."""
        ...

    def with_sampling_rate(self, plan: TrainingPlan) -> TrainingPlan:
        """Return the plan with the cohort's rate that this mechanism's sampler really has."""
        ...

    def calibrated(self, plan: TrainingPlan, sensitivity: float | None) -> "Mechanism":
        """Return the mechanism with the noise that keeps `epsilon` over the plan.

        `sensitivity` is the algorithm's for this unit, None where there is no argument: then `RefusedError` is raised.
        """
        ...

    def sample_cohort(self, plan: TrainingPlan, round_number: int, random: NoiseSource) -> NDArray[np.int64]:
        """Return the rows of the devices that this round invites, ascending."""
        ...

    def init_state(self, shapes: Shapes) -> Arrays:
        """Return the memory before the first round, for updates of these shapes."""
        ...

    def state_after_lost_round(self, state: Arrays) -> Arrays:
        """Return the memory after rounds that were charged and released nothing."""
        ...

    def round_params(self, state: Arrays) -> dict[str, float]:
        """Return what of the memory is public and devices have to know: part of what the round before released."""
        ...

    def with_round_params(self, params: Mapping[str, float]) -> Self:
        """Return the mechanism as it is in the round of this announcement, on the server and on devices alike."""
        ...

    def in_round(self, plan: TrainingPlan, round_number: int) -> Self:
        """Return the mechanism as devices carry it out in a round, which may have its own part of the budget."""
        ...

    def shapes(self, shapes: Shapes) -> Shapes:
        """Return the shapes that a released update has, given those of the algorithm's."""
        ...

    @property
    def trains_by_dp_sgd(self) -> bool:
        """Whether devices train by DP-SGD, by the constants of `dp_sgd` once it is calibrated."""
        ...

    def dp_sgd(self) -> DPSGDConfig | None:
        """Return the constants where devices train by DP-SGD on Poisson samples; None for shuffled minibatches.

        An example is one interaction: negatives are drawn without looking at the device's positives, and every draw is
        the mechanism's. Where devices train `pools_users`, an example is one user.
        """
        ...

    def random(self, *key: int) -> NoiseSource:
        """Return the source of draws for this key: the operating system, or seeded by the key in test mode."""
        ...

    def grid(self, shapes: Shapes) -> Grid | None:
        """Return the grid of releases of these shapes, public; None where they are floating point."""
        ...

    def reach(self, count: int, grid: Grid) -> int:
        """Return the largest whole number that an honest release of `count` devices holds, but for a chance < 2^-90."""
        ...

    def privatize_update(self, update: ModelUpdate, random: NoiseSource) -> Released:
        """Return what may leave the device of one device's update; a non-finite update becomes zero."""
        ...

    def privatize_cohort(self, changes: CohortUpdates, random: NoiseSource) -> Released:
        """Return the sum of what may leave the devices: in law that of `privatize_update` on each of them."""
        ...

    def privatize_node_sum(self, total: Released, random: NoiseSource) -> Released:
        """Return what may leave a node of the sum over its devices."""
        ...

    def clip_node_sum(self, total: Released) -> Released:
        """Return what counts of a node's sum at the server: as much as `total.count` devices may change."""
        ...

    def largest_norm(self, values: int, count: int, plan: TrainingPlan, learning_rate: float) -> float:
        """Return the length that an honest release of `count` devices, of so many values, exceeds with chance < 1e-9.

        Public: it follows from the plan, this mechanism and the devices' learning rate alone.
        """
        ...

    def noise_on_values(self, count: int) -> float:
        """Return how far noise may move one value of what the server is sent of `count` devices; 0 without any."""
        ...

    def privatize_aggregate(
        self,
        total: Released,
        plan: TrainingPlan,
        round_number: int,
        random: NoiseSource,
        state: Arrays | None = None,
    ) -> Aggregate:
        """Return the sum with the server's noise and its denominator, which never depends on who arrived."""
        ...

    def event(self, plan: TrainingPlan, round_number: int) -> "DpEvent":
        """Return what one participation (device trust) or one round (server trust) costs, from the public plan."""
        ...

    def participation_limit(self, plan: TrainingPlan) -> int:
        """Return how many rounds one device may take part in."""
        ...

    def matched_filter(self, plan: TrainingPlan) -> NDArray[np.float64]:
        """Return weights [rounds] under which what the adversary sees tells best whether one unit was there.

        The weighted sum over the rounds of what leaves (the released sums, or where devices add the noise their own
        updates) has mean 1 at a unit that moves it as far as it may, in every round that it may take part in.
        """
        ...
