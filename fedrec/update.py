"""The only thing that leaves a node: named arrays summed over devices, and how many devices they are from."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedrec.sparse import SparseArray

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


class RunningSum:
    """Updates added one by one in float64, so that no more than one of them is held at a time."""

    def __init__(self, like: Mapping[str, NDArray[np.float32]] | None = None) -> None:
        """Start from zeros shaped as `like`, or from nothing: then the first update gives names and shapes."""
        self._sums = {name: np.zeros(array.shape, np.float64) for name, array in (like or {}).items()}
        self._open, self._count = like is None, 0
        self._double = set[str]()

    def add(self, update: Update) -> None:
        """Add an update of the same names and shapes."""
        if self._open:
            self._sums = {name: np.zeros(array.shape, np.float64) for name, array in update.arrays.items()}
            self._open = False
        self._count += update.count
        for name, array in update.arrays.items():
            if array.dtype == np.float64:
                self._double.add(name)
            if isinstance(array, SparseArray):
                array.add_to(self._sums[name])
            else:
                self._sums[name] += array

    def update(self) -> Update:
        """Return the sum: in single precision, but for arrays that came in double."""
        kinds: dict[str, type[Any]] = {n: np.float64 if n in self._double else np.float32 for n in self._sums}
        return Update({name: array.astype(kinds[name]) for name, array in self._sums.items()}, self._count)


def total(updates: Iterable[Update], like: Mapping[str, NDArray[np.float32]]) -> Update:
    """Return the sum in the given order, accumulated in float64; zeros shaped as `like` where there is no update."""
    summed = RunningSum(like)
    for update in updates:
        summed.add(update)
    return summed.update()
