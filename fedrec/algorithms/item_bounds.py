"""How much one device may say of one item, and of all pairs of one item: public bounds that come before the norm's.

A clip of the whole update leaves a device free to spend all of it on one item, which moves that item as far as hundreds
of honest devices do, each of which spreads its own over what it used. So each value, and for pairs each item's row,
is bounded by what a history of `shortest_history` different items says: longer ones say less of each item, shorter ones
are scaled down to it. All of this only shrinks an update, so that no sensitivity grows.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedrec.errors import FedrecError
from fedrec.messages import SparseArray, cells
from fedrec.privacy.guarantee import Unit

SHARES = {"auto": 0.25, "strict": 0.5}  # of the mean history, where an algorithm says nothing else
ROUNDING = 1e-5  # how much larger an honest sum in float32 may come out than its bound


def check_shortest_history(value: int | str | None) -> None:
    """Raise unless algorithm.shortest_history is a number of items from 1, auto, strict, or null for no bound."""
    if not (value is None or value in SHARES or (isinstance(value, int) and value >= 1)):
        names = ", ".join(SHARES)
        raise FedrecError(f"algorithm.shortest_history={value} must be at least 1, {names}, or null for no bound")


def find_shortest_history(share: float, users: int, interactions: int) -> int:
    """Return a share of the mean history by the public sizes, at least 1."""
    return max(int(share * interactions / max(users, 1)), 1)


def bounding(shortest_history: int | str | None, unit: Unit) -> int | None:
    """Return the shortest history where a mechanism protects something; without one, nothing is bounded."""
    if unit == Unit.NONE or shortest_history is None:
        return None
    if not isinstance(shortest_history, int):
        raise FedrecError(f"algorithm.shortest_history={shortest_history}: a calibrated experiment has a number")
    return shortest_history


@dataclass(frozen=True, slots=True)
class ItemBound:
    """What one device may send at most for an item or a pair, and in sum for all pairs of one item.

    Values lie in [0, `value`], where `signed` in [-`value`, `value`]. Of pairs, the array is a flat upper triangle,
    with its diagonal or without, and the absolute values of an item's pairs add up to at most `row`. Where `places` are
    given, the array holds but these flat places of the triangle over so many items.
    """

    value: float
    row: float = math.inf
    signed: bool = False
    diagonal: bool = False
    places: tuple[NDArray[np.int64], int] | None = None

    def clip(
        self, array: NDArray[np.floating], count: int = 1, reach: float = 0.0, step: float = 0.0
    ) -> NDArray[np.float32]:
        """Return what counts of an array summed over `count` devices, itself where it lies within the bounds already.

        `reach` is how far noise may have moved each value; rows are looked at only where there is none. Devices round
        to a grid of this `step`, by half of it at most. What one item's row has too much of is taken from each of its
        pairs in proportion.
        """
        values = array.values if isinstance(array, SparseArray) else array
        most = count * (self.value * (1 + ROUNDING) + step / 2) + reach
        least = -most if self.signed else -reach
        if not values.size:
            return array  # pyright: ignore[reportReturnType]
        found = values
        if values.max() > most or values.min() < least:
            found = np.clip(values, least, most).astype(values.dtype)
        if math.isfinite(self.row) and reach == 0:
            found = self._clip_rows(found, array, count, step)
        if found is values:
            return array  # pyright: ignore[reportReturnType]
        return cells(array.index, found, array.shape) if isinstance(array, SparseArray) else found

    def _clip_rows(
        self, values: NDArray[np.floating], array: NDArray[np.floating], count: int, step: float
    ) -> NDArray[np.floating]:
        place = array.index if isinstance(array, SparseArray) else np.arange(len(values))
        length = array.shape[0]
        if self.places is not None:
            place, length = self.places[0][place], self.places[1] * (self.places[1] - 1) // 2
        one, other, size = pair_of(place, length, self.diagonal)
        weight = np.abs(values, dtype=np.float64)
        sums = np.bincount(one, weight, size) + np.bincount(other, np.where(one == other, 0.0, weight), size)
        said = weight > 0
        pairs = np.bincount(one, said, size) + np.bincount(other, said & (one != other), size)
        most = count * (self.row + pairs * step / 2)
        if (sums <= most * (1 + ROUNDING)).all():
            return values
        factor = most / np.maximum(sums, most)
        return (values * np.minimum(factor[one], factor[other])).astype(values.dtype)


def pair_of(place: NDArray[np.int64], length: int, diagonal: bool) -> tuple[NDArray[np.int64], NDArray[np.int64], int]:
    """Return (row, column, items) of flat places in an upper triangle of this length, with its diagonal or without."""
    size = (math.isqrt(8 * length + 1) + (-1 if diagonal else 1)) // 2
    long = size - np.arange(size) - (not diagonal)  # cells of each row
    start = np.cumsum(long) - long
    one = np.searchsorted(start, place, side="right") - 1
    one = np.minimum(one, size - 1 if diagonal else max(size - 2, 0))
    return one, place - start[one] + one + (not diagonal), size
