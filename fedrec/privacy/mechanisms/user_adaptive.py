"""User level with a clip that follows a quantile of the updates' norms, and pays for what it learns of them.

Andrew, Thakkar, McMahan & Ramaswamy, "Differentially private learning with adaptive clipping", 2021. Each device adds
one bit to its update, whether it lay *within* the clip, centred: +1/2 or -1/2, so that a user changes the sum by at
most 1/2. Noise is added to the sum of updates and to that of bits, and the two together cost what is accounted:
1/z^2 = 1/z_update^2 + 1/(2 sigma_bit)^2, where the bit's part of the budget is `bit_share`.

Threat model: as of privacy=user. The server is trusted; protected is one user's whole data from everyone who sees the
released models and the clips, which are a release too.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Self

import numpy as np

from fedrec.errors import FedrecError
from fedrec.messages import Arrays
from fedrec.privacy.contributions import CohortUpdates
from fedrec.privacy.grid import Grid
from fedrec.privacy.guarantee import PrivacyGuarantee
from fedrec.privacy.mechanisms.base import (
    noised_aggregate,
)
from fedrec.privacy.mechanisms.protocol import Aggregate, NoiseSource, Shapes, TrainingPlan
from fedrec.privacy.mechanisms.user import UserLevel
from fedrec.privacy.release import Released, as_release, bounded

BIT = "unclipped"


@dataclass(frozen=True)
class UserAdaptive(UserLevel):
    """Moves the clip towards the `target` quantile of the norms, from `clip` on: C *= exp(-rate * (share - target)).

    `share` is the noised share of devices that lay within the clip, over the expected cohort: with drop-outs it leans
    towards 1/2. `clip_learning_rate` 0 holds the clip and spends nothing on the bit, and so does a statistic, whose
    sensitivity is known.
    """

    name: ClassVar[str] = "user_adaptive"
    terms: ClassVar[PrivacyGuarantee] = replace(
        UserLevel.terms, release_set="the model after each round and the clip of each round"
    )
    target: float = 0.5
    clip_learning_rate: float = 0.2
    bit_share: float = 0.01

    def __post_init__(self) -> None:
        """Check every field."""
        super().__post_init__()
        for name in ("target", "bit_share"):
            if not 0 < getattr(self, name) < 1:
                raise FedrecError(f"privacy.{name}={getattr(self, name)}: must lie between 0 and 1")
        if not 0 <= self.clip_learning_rate <= 1:
            raise FedrecError(f"privacy.clip_learning_rate={self.clip_learning_rate}: must lie in [0, 1]")

    @property
    def adapts(self) -> bool:
        """Whether the clip moves."""
        return self.clip_learning_rate > 0

    def bounded_by(self, sensitivity: float | None) -> Self:
        """Return the mechanism with the fixed clip of a statistic; as it is for training."""
        bounded = super().bounded_by(sensitivity)
        return bounded if sensitivity == math.inf else replace(bounded, clip_learning_rate=0.0)

    def init_state(self, shapes: Shapes) -> Arrays:
        """Return the clip [1] to start from."""
        return {"clip": np.array([self.clip], np.float32)} if self.adapts else {}

    def round_params(self, state: Arrays) -> dict[str, float]:
        """Return the clip of the round."""
        return {"clip": float(state["clip"][0])} if self.adapts else {}

    def with_round_params(self, params: Mapping[str, float]) -> Self:
        """Return the mechanism with the announced clip."""
        return replace(self, clip=float(params["clip"])) if "clip" in params else self

    def shapes(self, shapes: Shapes) -> Shapes:
        """Return the shapes with the sum of bits [1] beside them."""
        return {**shapes, BIT: (1,)} if self.adapts else shapes

    def clip_grid(self, shapes: Shapes) -> Grid:
        """Return the grid for the update's numbers; the bit lies on it too, half the clip's steps from zero."""
        return super().clip_grid({name: shape for name, shape in shapes.items() if name != BIT})

    def privatize_cohort(self, changes: CohortUpdates, random: NoiseSource) -> Released:
        """Return the sum of the clipped updates, and of their bits: of +1/2 where nothing was clipped, -1/2 elsewhere.

        An update that is not finite says -1/2.
        """
        return bounded(changes, self.rule, self.clip_grid(changes.shapes()), BIT if self.adapts else None)

    def clip_node_sum(self, total: Released) -> Released:
        """Return what counts of a node's sum: within `count` clips, its bits within half of `count`."""
        whole = as_release(total)
        if not self.adapts:
            return super().clip_node_sum(whole)
        admitted = as_release(super().clip_node_sum(whole.without(BIT)))
        return admitted.beside(whole, BIT, whole.count * (whole.grid.length // 2))

    def largest_norm(self, values: int, count: int, plan: TrainingPlan, learning_rate: float) -> float:
        """Return `count` clips and as many bits of one half."""
        return math.hypot(super().largest_norm(values, count, plan, learning_rate), count / 2 * (1 + 1e-3))

    def privatize_aggregate(
        self,
        total: Released,
        plan: TrainingPlan,
        round_number: int,
        random: NoiseSource,
        state: Arrays | None = None,
    ) -> Aggregate:
        """Return the noised sum over the expected cohort, and the next clip."""
        if not self.adapts:
            return super().privatize_aggregate(total, plan, round_number, random, state)
        whole, z = as_release(total), self.multiplier()
        bit, of_bit = whole.only(BIT), z / (2 * math.sqrt(self.bit_share))
        made = noised_aggregate(whole.without(BIT), z / math.sqrt(1 - self.bit_share), plan.expected_cohort, random)
        bits = bit.noised(whole.grid.variance(of_bit), random)
        share = int(bits.arrays[BIT][0]) / whole.grid.length / plan.expected_cohort + 0.5
        factor = math.exp(-self.clip_learning_rate * (min(max(share, 0.0), 1.0) - self.target))
        clip = np.array([min(max(self.clip * factor, 1e-12), 1e12)], np.float32)
        return replace(made, mechanism_state={"clip": clip}, release=as_release(made.release).joined(bits))
