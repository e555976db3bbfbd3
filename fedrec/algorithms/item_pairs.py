"""What one device says of pairs of items: windowed transitions of its history, or which items it holds together.

Coalesced per unordered pair before anything is bounded, so that a history that repeats items weighs what any other does
(invariant P4). A pair of head places a < b has the flat place a (2 H - a - 1) / 2 + b - a - 1 in
the strict upper triangle of a head of H items.
"""

from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray


class Pairs(NamedTuple):
    """Flat places, each once, with the weight of the pair in either order and the excess of ascending order."""

    place: NDArray[np.int64]
    both: NDArray[np.float64]
    ascending: NDArray[np.float64]

    def norm(self, direction: float) -> float:
        """Return the L2 norm over the weights and `direction` times the excesses together."""
        return float(np.sqrt(np.square(self.both).sum() + direction**2 * np.square(self.ascending).sum()))

    def only(self, places: NDArray[np.int64]) -> Self:
        """Return those of the pairs that stand at one of the flat `places`, ascending, by their row in them."""
        row = np.searchsorted(places, self.place)
        kept = places[np.minimum(row, len(places) - 1)] == self.place
        return type(self)(row[kept], self.both[kept], self.ascending[kept])


def triangle(size: int) -> int:
    """Return how many pairs a head of `size` items has."""
    return size * (size - 1) // 2


def flat_place(one: NDArray[np.int64], other: NDArray[np.int64], size: int) -> NDArray[np.int64]:
    """Return the flat places of pairs of different head places, in either order."""
    low, high = np.minimum(one, other), np.maximum(one, other)
    return low * (2 * size - low - 1) // 2 + high - low - 1


def transitions(places: NDArray[np.int64], size: int, window: int, decay: float) -> Pairs:
    """Return the pairs at most `window` steps apart, a pair at lag l weighing decay^(l - 1).

    `places[n]` are the history's places in the head, -1 for items outside it, which take up their step all the same.
    """
    ones, others, weights = list[NDArray[np.int64]](), list[NDArray[np.int64]](), list[NDArray[np.float64]]()
    for lag in range(1, min(window, len(places) - 1) + 1):
        before, after = places[:-lag], places[lag:]
        kept = (before >= 0) & (after >= 0) & (before != after)
        ones.append(before[kept])
        others.append(after[kept])
        weights.append(np.full(int(kept.sum()), decay ** (lag - 1)))
    one, other, weight = (np.concatenate(part) if part else np.empty(0) for part in (ones, others, weights))
    place, back = np.unique(flat_place(one.astype(np.int64), other.astype(np.int64), size), return_inverse=True)
    sign = np.where(one < other, 1.0, -1.0)
    both, ascending = (np.bincount(back, values, len(place)).astype(np.float64) for values in (weight, weight * sign))
    return Pairs(place, both, ascending)


def together(places: NDArray[np.int64], size: int) -> Pairs:
    """Return every pair of different items that the history holds, each of weight one, in no order."""
    held = np.unique(places[places >= 0])
    one, other = np.triu_indices(len(held), 1)
    place = flat_place(held[one], held[other], size)
    return Pairs(place, np.ones(len(place)), np.zeros(len(place)))


def plain_norm(length: int, window: int, decay: float, direction: float) -> float:
    """Return the norm of the pairs of `length` different items in ascending order, at most `window` steps apart."""
    lag = np.arange(1, min(window, length - 1) + 1)
    return float(np.sqrt(((length - lag) * decay ** (2 * (lag - 1))).sum() * (1 + direction**2)))
