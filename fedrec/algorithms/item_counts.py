"""Popularity as a sum over devices: one round, one vector of counts from each."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from fedrec.algorithms.base import StatisticAlgorithm
from fedrec.data.catalogue import Catalogue
from fedrec.data.interactions import DeviceData
from fedrec.messages import Arrays
from fedrec.models.base import Recommender
from fedrec.models.popularity import Popularity
from fedrec.privacy.guarantee import Unit
from fedrec.privacy.mechanisms.protocol import Aggregate


def bounded_counts(history: NDArray[np.int32], items: int, unit: Unit) -> NDArray[np.float32]:
    """Return one device's counts [V]; at user level scaled to length one.

    Repeats are coalesced first, so that the length is one whatever the history repeats. At interaction level the
    counts are raw: one interaction moves one of them by one.
    """
    counts = np.bincount(history, minlength=items).astype(np.float64)
    norm = float(np.linalg.norm(counts))
    return (counts / norm if unit == Unit.USER and norm > 0 else counts).astype(np.float32)


@dataclass(frozen=True, slots=True)
class ItemCounts(StatisticAlgorithm):
    """Sums counts. Sensitivity 1: at interaction level of the raw counts, at user level of counts of length one."""

    name: ClassVar[str] = "counts"
    accepts: ClassVar[tuple[type[Recommender], ...]] = (Popularity,)

    def init(self, model: Recommender, catalogue: Catalogue) -> Arrays:
        """Start from zero counts."""
        return model.shared_arrays()

    def rounds(self, rounds: int) -> int:
        """Take one round, whatever is asked for."""
        return 1

    def budget_shares(self, rounds: int) -> tuple[float, ...] | None:
        """Spend the whole budget on the one round."""
        return None

    def broadcast(self, state: Arrays) -> Arrays:
        """Send the counts so far."""
        return state

    def sensitivity(self, unit: Unit) -> float | None:
        """One, at either unit."""
        return 1.0

    def shapes(self, state: Arrays) -> dict[str, tuple[int, ...]]:
        """Expect one vector of counts [V]."""
        return {"counts": state["counts"].shape}

    def statistic(self, broadcast: Arrays, device: DeviceData, unit: Unit) -> Arrays:
        """Return the device's bounded counts."""
        return {"counts": bounded_counts(device.history, len(broadcast["counts"]), unit)}

    def step(self, state: Arrays, total: Aggregate) -> Arrays:
        """Take the sum."""
        return {"counts": total.arrays["counts"]}
