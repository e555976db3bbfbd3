"""Who is asked each round."""

import math
from dataclasses import dataclass

from fedrec.errors import FedrecError


@dataclass(frozen=True, slots=True)
class CohortConfig:
    """How many enrolled devices a round asks: `size` of them on average (all where None).

    The mechanism draws them, because its accounting rests on how: independently, where it says nothing else. Drawn
    devices that never answer are simulated with probability `dropout`; answers after `deadline_seconds` do not count;
    a round with fewer than `minimum` devices is charged and not released, but where the server adds the noise: how many
    came is then a secret, and each round is released. On real devices a run stops after `lost_rounds` of those in a
    row, and can be resumed.
    """

    size: float | None = None
    dropout: float = 0.0
    deadline_seconds: float = 3600.0
    minimum: int = 1
    lost_rounds: int = 3

    def __post_init__(self) -> None:
        if self.size is not None and not (math.isfinite(self.size) and self.size > 0):
            raise FedrecError(f"cohort.size={self.size} must be a positive number of devices, or null for all")
        if not 0 <= self.dropout < 1:
            raise FedrecError(f"cohort.dropout={self.dropout} must lie in [0, 1)")
        if not self.deadline_seconds > 0:
            raise FedrecError(f"cohort.deadline_seconds={self.deadline_seconds} must be positive")
        if self.minimum < 1:
            raise FedrecError(f"cohort.minimum={self.minimum} must be at least 1")
        if self.lost_rounds < 1:
            raise FedrecError(f"cohort.lost_rounds={self.lost_rounds} must be at least 1")

    def rate(self, population: int) -> float:
        """Return the probability with which each of `population` devices is drawn."""
        return 1.0 if self.size is None else min(1.0, self.size / population)
