"""Order statistics: windowed transitions and counts of every device, summed, noised once, smoothed by public features.

A device's vector holds its counts, the counts of its last items, and for every pair of head items how often one follows
the other within `window` steps (in either order, and by how much more often in ascending order of rows). The parts are
scaled to lengths whose squares are the shares below and add up to 1, so that one user changes the sum by at most 1. In
one round all of it is sent for the whole catalogue; in two, the first round's counts choose the head.

What one device says of pairs of items: windowed transitions of its history, or which items it holds together.

Coalesced per unordered pair before anything is bounded, so that a history that repeats items weighs what any other does
(invariant P4). A pair of head places a < b has the flat place a (2 H - a - 1) / 2 + b - a - 1 in
the strict upper triangle of a head of H items.
"""

from dataclasses import dataclass, replace
from typing import ClassVar, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from fedrec.algorithms.base import StatisticAlgorithm
from fedrec.algorithms.item_bounds import ItemBound, bounding, check_shortest_history
from fedrec.algorithms.item_counts import bounded_counts
from fedrec.algorithms.transition_estimation import Sums, estimate_counts, estimate_transitions
from fedrec.data.catalogue import Catalogue
from fedrec.data.interactions import DeviceData
from fedrec.errors import FedrecError
from fedrec.messages import Arrays, cells
from fedrec.models.base import Recommender
from fedrec.models.ease import check_head, same_head
from fedrec.models.transitions import ItemTransitionModel, TransitionPrior, sizes
from fedrec.privacy.guarantee import Unit
from fedrec.privacy.mechanisms.protocol import Aggregate


class Pairs(NamedTuple):
    """Flat places, each once, with the weight of the pair in either order and the excess of ascending order."""

    place: NDArray[np.int64]
    both: NDArray[np.float64]
    ascending: NDArray[np.float64]

    def norm(self, direction: float) -> float:
        """Return the L2 norm over the weights and `direction` times the excesses together."""
        return float(np.sqrt(np.square(self.both).sum() + direction**2 * np.square(self.ascending).sum()))


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


STAGE = "stage/order"  # 0: counts come next; 1: pairs do
COUNTS, PARTS = ("counts", "late"), ("symmetric", "antisymmetric")


@dataclass(frozen=True, slots=True)
class TransitionCounts(StatisticAlgorithm):
    """Sums bounded transitions; sensitivity 1 at user level.

    `head` items are modelled in pairs. `window` and `decay` say which transitions count: one at lag l weighs
    decay^(l - 1). `direction` is the weight of the ascending part. `count_share` and `late_share` of the budget go to
    the counts and to those of the last `late` items. With `order` false a device's vector holds the pairs of items that
    it used at all, in no order. `own` and `prior_scale` are those of `fedrec/algorithms/smooth.py`; `prior_scale` null
    takes the most likely one. With a `shortest_history` no device says more of an item, of a pair, or of all pairs
    of an item, than a history of so many different items does. With an `encoder`
    (`fedrec/models/text.py`), what a public language model says of items is one more thing to smooth by. The catalogue
    is that of `with_catalogue`.
    """

    name: ClassVar[str] = "order"
    head: int = 1500
    one_round: bool = False
    order: bool = True
    window: int = 10
    decay: float = 0.8
    direction: float = 0.4
    late: int = 20
    count_share: float = 0.2
    late_share: float = 0.06
    own: float = 0.85
    prior_scale: float | None = None
    encoder: str | None = None
    shortest_history: int | str | None = None
    catalogue: Catalogue | None = None

    accepts: ClassVar[tuple[type[Recommender], ...]] = (ItemTransitionModel,)

    def __post_init__(self) -> None:
        for name in ("window", "late"):
            if getattr(self, name) < 1:
                raise FedrecError(f"algorithm.{name}={getattr(self, name)} must be at least 1")
        for name in ("decay", "direction", "count_share", "late_share", "own"):
            if not 0 < getattr(self, name) <= 1:
                raise FedrecError(f"algorithm.{name}={getattr(self, name)} must lie above 0 and at most at 1")
        if self.count_share + self.late_share >= 1:
            raise FedrecError("algorithm.count_share and algorithm.late_share must leave some of the budget for pairs")
        if self.prior_scale is not None and not self.prior_scale > 0:
            raise FedrecError(f"algorithm.prior_scale={self.prior_scale} must be positive, or null")
        check_shortest_history(self.shortest_history)
        if not isinstance(self.catalogue, Catalogue | None):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise FedrecError("algorithm.catalogue is the data set's: it can't be set")

    def with_catalogue(self, catalogue: Catalogue) -> Self:
        """Return the algorithm with the catalogue that it smooths by."""
        return replace(self, catalogue=catalogue)

    def init(self, model: Recommender, catalogue: Catalogue) -> Arrays:
        """Start from what the model starts from; "stage/order" says which of two rounds comes next."""
        shared = model.shared_arrays()
        same_head(self.head, len(shared["head_items"]), len(catalogue))
        if len(shared["symmetric_weights"]) != sizes(catalogue, self.encoder)[0]:
            raise FedrecError("algorithm.encoder and model.encoder differ: leave model.encoder=${algorithm.encoder}")
        if self.one_round:
            check_head(len(catalogue), len(catalogue), 4.0, "algorithm.one_round=true sends all pairs of items")
        return {**shared, STAGE: np.zeros(1, np.float32)}

    def rounds(self, rounds: int) -> int:
        """Take one round or two, whatever is asked for."""
        return 1 if self.one_round else 2

    def budget_shares(self, rounds: int) -> tuple[float, ...] | None:
        """Spend in the first of two rounds what the counts get, and the rest in the second."""
        counted = self.count_share + self._late_share
        return None if self.one_round else (counted, 1 - counted)

    def broadcast(self, state: Arrays) -> Arrays:
        """Send everything that a device needs to know which round it is, and to score."""
        return state

    def sensitivity(self, unit: Unit) -> float | None:
        """One at user level. One interaction shifts the lags of others, for which there is no argument here."""
        return 1.0 if unit in (Unit.USER, Unit.NONE) else None

    def shapes(self, state: Arrays) -> dict[str, tuple[int, ...]]:
        """Expect two vectors of counts [V] in the first round, two flat triangles in the second; or all in one."""
        items, size = len(state["counts"]), len(state["head_items"])
        pairs = (triangle(items if self.one_round else size),)
        parts = {name: (items,) for name in COUNTS} if self.one_round or not state[STAGE][0] else {}
        return {**parts, **({name: pairs for name in PARTS} if self.one_round or state[STAGE][0] else {})}

    def statistic(self, broadcast: Arrays, device: DeviceData, unit: Unit) -> Arrays:
        """Return the parts of the device's vector that this round asks for, each of the length that is its own."""
        asked, items = self.shapes(broadcast), len(broadcast["counts"])
        lengths, found, shortest = self.lengths(), Arrays(), bounding(self.shortest_history, unit)
        if "counts" in asked:
            counts = bounded_counts(device.history, items, Unit.USER, shortest)
            last = bounded_counts(device.history[-self.late :], items, Unit.USER, shortest and min(shortest, self.late))
            found["counts"], found["late"] = counts * np.float32(lengths["counts"]), last * np.float32(lengths["late"])
        if "symmetric" in asked:
            head = np.arange(items) if self.one_round else broadcast["head_items"].astype(np.int64)
            pairs = self._pairs(device.history, head, items)
            scale = lengths["pairs"] / max(pairs.norm(self.direction), self._least_norm(shortest), 1e-30)
            for name, value in zip(PARTS, (pairs.both, self.direction * pairs.ascending), strict=True):
                found[name] = cells(pairs.place, (scale * value).astype(np.float32), asked[name])
        return found

    def item_bounds(self, unit: Unit) -> dict[str, ItemBound]:
        """Bound each count, each pair in either part, and the sum over the pairs of an item."""
        if (shortest := bounding(self.shortest_history, unit)) is None:
            return {}
        lengths, norm = self.lengths(), self._least_norm(shortest)
        pair = lengths["pairs"] / norm if norm else lengths["pairs"]
        row = 2 * sum(self.decay**lag for lag in range(self.window)) * pair
        if not self.order:  # the n - 1 pairs of an item have a length of sqrt(2 (n - 1) / n)
            row = lengths["pairs"] * 2**0.5
        return {
            "counts": ItemBound(lengths["counts"] * shortest**-0.5),
            "late": ItemBound(lengths["late"] * min(shortest, self.late) ** -0.5),
            "symmetric": ItemBound(pair, row),
            "antisymmetric": ItemBound(self.direction * pair, self.direction * row, signed=True),
        }

    def _least_norm(self, shortest: int | None) -> float:
        """Return the norm of the pairs of the shortest history: no device's are divided by less."""
        if shortest is None:
            return 0.0
        ordered = plain_norm(shortest, self.window, self.decay, self.direction)
        return ordered if self.order else triangle(shortest) ** 0.5

    def lengths(self) -> dict[str, float]:
        """Return the L2 length of each part of a device's vector; within a round their squares add up to 1."""
        counted = self.count_share + self._late_share
        whole = 1.0 if self.one_round else counted
        pairs = 1 - counted if self.one_round else 1.0
        squares = {"counts": self.count_share / whole, "late": self._late_share / whole, "pairs": pairs}
        return {name: float(np.sqrt(square)) for name, square in squares.items()}

    def step(self, state: Arrays, total: Aggregate) -> Arrays:
        """Estimate counts and choose the head, or estimate transitions, or both."""
        if self.catalogue is None:
            raise FedrecError("TransitionCounts smooths by public features: call with_catalogue(catalogue) first")
        found, noise, length = dict(state), total.noise_std, self.lengths()
        if "counts" in total.arrays:
            sent = COUNTS if self.order else COUNTS[:1]
            sums = {name: total.arrays[name].astype(np.float64) / length[name] for name in sent}
            stds = {name: noise / length[name] for name in sent}
            found |= estimate_counts(self.catalogue, sums, stds)
            head = np.argsort(-found["counts"], kind="stable")[: len(state["head_items"])]
            found |= {"head_items": np.sort(head).astype(np.float32), STAGE: np.ones(1, np.float32)}
        if "symmetric" in total.arrays:
            both, ascending = (self._on_head(found, total.arrays[name]) / np.float32(length["pairs"]) for name in PARTS)
            sums = Sums(both, ascending / np.float32(self.direction), noise / length["pairs"], self.direction)
            head = found["head_items"].astype(np.int64)
            expectation = TransitionPrior(self.catalogue, found["counts"], self.encoder)
            found |= estimate_transitions(expectation, head, sums, self.own, self.prior_scale)
        return found

    @property
    def _late_share(self) -> float:
        return self.late_share if self.order else 0.0

    def _pairs(self, history: NDArray[np.int32], head: NDArray[np.int64], items: int) -> Pairs:
        place = np.full(items, -1)
        place[head] = np.arange(len(head))
        places = place[history]
        return transitions(places, len(head), self.window, self.decay) if self.order else together(places, len(head))

    def _on_head(self, state: Arrays, flat: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the strict upper triangle over the head, flat, of one over the catalogue or over the head already."""
        head, items = state["head_items"].astype(np.int64), len(state["counts"])
        if not self.one_round:
            return flat
        one, other = np.triu_indices(len(head), 1)
        return flat[flat_place(head[one], head[other], items)]
