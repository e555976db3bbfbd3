"""What all mechanisms at user level share: settings, the clip of a device's whole update, ordinary local training."""

import math
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from numpy.typing import NDArray

from fedrec.errors import FedrecError, Refused
from fedrec.models.base import TrainableRecommender
from fedrec.privacy.accounting.composition import checked_delta, default_delta
from fedrec.privacy.clipping import ClipRule, group_of
from fedrec.privacy.mechanisms.base import Ordinary
from fedrec.privacy.mechanisms.options import check_common, check_positive
from fedrec.privacy.mechanisms.protocol import Changes, LocalSettings, Plan, Random
from fedrec.privacy.noise import source
from fedrec.training.plain import PlainStep
from fedrec.update import Arrays, Update


@dataclass(frozen=True)
class Clipped(Ordinary):
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
        _ = self.rule

    @property
    def rule(self) -> ClipRule:
        """How one device's update is bounded."""
        return ClipRule(self.clip, self.clipping, self.dense_share)

    @property
    def private(self) -> bool:
        """Whether an epsilon may be reported: not where the noise can be drawn again from a seed."""
        return self.randomness == "system"

    def delta_for(self, plan: Plan) -> float:
        """Return delta, below one over the number of users."""
        return checked_delta(default_delta(plan.population) if self.delta is None else self.delta, plan.population)

    def bounded_by(self, sensitivity: float | None) -> Self:
        """Return the mechanism with the clip of a statistic of this sensitivity, whole; as it is for training."""
        if sensitivity is None:
            raise Refused(
                f"nothing bounds what one user changes: {type(self).__name__} has no argument for this algorithm"
            )
        return replace(self, clip=sensitivity, clipping="whole") if math.isfinite(sensitivity) else self

    def on_device(self, model: TrainableRecommender, settings: LocalSettings, random: Random) -> PlainStep:
        """Return ordinary minibatch training: the clip and the noise come after it."""
        return PlainStep(model, settings)

    def random(self, *key: int) -> Random:
        """Return the operating system's draws, or those of the key with randomness=seeded."""
        return source(self.randomness, key)

    def release(self, update: Update, random: Random) -> Update:
        """Return the update, of count 1, clipped; a non-finite one becomes zero."""
        return replace(self.rule.clipped(update), count=1)

    def factors(self, changes: Changes) -> dict[str, NDArray[np.float64]]:
        """Return by how much each array of each device [C] is shortened."""
        squares = changes.squares()
        groups = {name: group_of(name, self.clipping) for name in squares}
        sums = {g: np.sum([squares[name] for name in squares if groups[name] == g], axis=0) for g in self.rule.bounds}
        found = self.rule.factors({group: np.broadcast_to(square, changes.count) for group, square in sums.items()})
        return {name: found[group] for name, group in groups.items()}

    def release_many(self, changes: Changes, random: Random) -> Update:
        """Return the sum of the clipped updates."""
        return changes.total(self.factors(changes))

    def admit(self, total: Update) -> Update:
        """Return what the server counts of a node's sum: within `count` clips, so that no node can claim more."""
        return self.rule.admitted(total)

    def participations(self, plan: Plan) -> int:
        """Return the number of rounds: each is charged to all users."""
        return plan.rounds

    def matched_filter(self, plan: Plan) -> NDArray[np.float64]:
        """Return the mean over the rounds, in units of the clip: each round gets the same noise."""
        return np.full(plan.rounds, 1 / (plan.rounds * self.clip))

    def multiplier(self) -> float:
        """Return the noise multiplier, which only a calibrated mechanism has."""
        if self.noise_multiplier is None:
            raise FedrecError("the mechanism has no noise multiplier yet: call calibrated(plan, sensitivity) first")
        return self.noise_multiplier


def noised(arrays: Arrays, std: float, random: Random) -> Arrays:
    """Return the arrays + N(0, std^2) on every coordinate, added in double precision."""
    return {name: (array + random.gaussian(array.shape, std)).astype(np.float32) for name, array in arrays.items()}
