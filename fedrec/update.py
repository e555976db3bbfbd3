"""The only thing that leaves a node: named arrays summed over devices, and how many devices they are from."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Arrays = dict[str, NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class Update:
    """Arrays summed over `count` devices."""

    arrays: Arrays
    count: int

    def norm(self) -> float:
        """Return the L2 norm over all arrays together, in double precision so that 1e30 does not overflow."""
        return float(np.sqrt(sum(float(np.sum(np.square(a, dtype=np.float64))) for a in self.arrays.values())))

    def scaled(self, factor: float) -> "Update":
        """Return the update times a factor."""
        return Update({k: (a * np.float64(factor)).astype(np.float32) for k, a in self.arrays.items()}, self.count)

    def finite(self) -> bool:
        """Say whether every value is a number."""
        return all(bool(np.isfinite(a).all()) for a in self.arrays.values())


def total(updates: Iterable[Update], like: Mapping[str, NDArray[np.float32]]) -> Update:
    """Return the sum in the given order, accumulated in float64; zeros shaped as `like` where there is no update."""
    sums = {name: np.zeros(array.shape, np.float64) for name, array in like.items()}
    count = 0
    for update in updates:
        count += update.count
        for name, array in update.arrays.items():
            sums[name] += array
    return Update({name: array.astype(np.float32) for name, array in sums.items()}, count)
