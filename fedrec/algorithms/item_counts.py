"""Popularity as a sum over devices: one round, one vector of counts from each."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from fedrec.algorithms.base import StatisticAlgorithm
from fedrec.algorithms.item_bounds import SHARES, ItemBound, bounding, check_shortest_history
from fedrec.data.catalogue import Catalogue
from fedrec.data.interactions import DeviceData
from fedrec.messages import Arrays
from fedrec.models.base import Recommender
from fedrec.models.popularity import Popularity
from fedrec.privacy.guarantee import Unit
from fedrec.privacy.mechanisms.protocol import Aggregate


def bounded_counts(
    history: NDArray[np.int32], items: int, unit: Unit, shortest_history: int | None = None
) -> NDArray[np.float32]:
    """Return one device's counts [V]; at user level scaled to length one, or less if it has fewer than the shortest.

    Repeats are coalesced first, so that the length is one whatever the history repeats. At interaction level the
    counts are raw: one interaction moves one of them by one.
    """
    counts = np.bincount(history, minlength=items).astype(np.float64)
    norm = max(float(np.linalg.norm(counts)), math.sqrt(shortest_history or 0))
    return (counts / norm if unit == Unit.USER and norm > 0 else counts).astype(np.float32)


@dataclass(frozen=True, slots=True)
class ItemCounts(StatisticAlgorithm):
    """Sums counts. Sensitivity 1: at interaction level of the raw counts, at user level of counts of length one.

    With a `shortest_history` no device says more of an item than a history of so many items does: 1 of raw counts,
    1 / sqrt(shortest_history) at user level.
    """

    name: ClassVar[str] = "counts"
    # An eighth kept every target out of all lists that a quarter did, and costs a sixth of what a quarter does.
    history_shares: ClassVar[Mapping[str, float]] = {**SHARES, "auto": 0.125}
    shortest_history: int | str | None = None

    accepts: ClassVar[tuple[type[Recommender], ...]] = (Popularity,)

    def __post_init__(self) -> None:
        check_shortest_history(self.shortest_history)

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
        shortest = bounding(self.shortest_history, unit)
        return {"counts": bounded_counts(device.history, len(broadcast["counts"]), unit, shortest)}

    def item_bounds(self, unit: Unit, state: Arrays) -> dict[str, ItemBound]:
        """Bound each count."""
        if (shortest := bounding(self.shortest_history, unit)) is None:
            return {}
        return {"counts": ItemBound(shortest**-0.5 if unit == Unit.USER else 1.0)}

    def step(self, state: Arrays, total: Aggregate) -> Arrays:
        """Take the sum."""
        return {"counts": total.arrays["counts"]}
