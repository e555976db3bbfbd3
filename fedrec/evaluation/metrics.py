"""HR, NDCG and MRR of one target, in expectation over a random order of what is tied with it; sums that merge."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedrec.evaluation.ranking import Ranks

Columns = dict[str, NDArray[np.float64]]

# What a target at rank r = 1, 2, ... earns; with one target the ideal DCG is 1.
GAINS: Mapping[str, Callable[[NDArray[Any]], NDArray[Any]]] = {
    "hr": np.ones_like,
    "ndcg": lambda rank: 1 / np.log2(rank + 1),
    "mrr": lambda rank: 1 / rank,
}


def expected(name: str, ranks: Ranks, cutoff: int) -> NDArray[np.float64]:
    """Return E[metric@cutoff] per target: the mean gain over the ranks above+1 .. above+tied+1, 0 past the cutoff."""
    earned = np.concatenate([[0.0], np.cumsum(GAINS[name](np.arange(1.0, cutoff + 1)))])
    first, last = np.minimum(ranks.above, cutoff), np.minimum(ranks.above + ranks.tied + 1, cutoff)
    return (earned[last] - earned[first]) / (ranks.tied + 1)


def pessimistic(name: str, ranks: Ranks, cutoff: int) -> NDArray[np.float64]:
    """Return metric@cutoff per target with every tie decided against it, as PFedRec and its kin count."""
    rank = ranks.above + ranks.tied + 1.0
    return np.where(rank <= cutoff, GAINS[name](rank), 0.0)


def metrics(ranks: Ranks, cutoffs: tuple[int, ...]) -> Columns:
    """Return one array per metric, an entry per target: "hr@5", "ndcg@5", "mrr@5", "hr@10" and so on."""
    return {f"{name}@{cutoff}": expected(name, ranks, cutoff) for cutoff in cutoffs for name in GAINS}


@dataclass(frozen=True, slots=True)
class Sums:
    """Metric sums over `count` devices: all that a real device sends of its results, never a list."""

    values: dict[str, float] = field(default_factory=dict[str, float])
    count: int = 0

    @classmethod
    def zero(cls) -> "Sums":
        """Return the sum over no device."""
        return cls()

    def merge(self, other: "Sums") -> "Sums":
        """Return the sum over both groups of devices; a metric that one of them lacks counts 0 there."""
        names = [*self.values, *(name for name in other.values if name not in self.values)]
        merged = {name: self.values.get(name, 0.0) + other.values.get(name, 0.0) for name in names}
        return Sums(merged, self.count + other.count)

    def result(self) -> dict[str, float]:
        """Return the mean of every metric; nothing where no device was counted."""
        return {name: value / self.count for name, value in self.values.items()} if self.count else {}


def device_sums(ranks: Ranks, cutoffs: tuple[int, ...]) -> Sums:
    """Return the metrics of one device, averaged over its targets, as a sum over one device."""
    return Sums({name: float(value.mean()) for name, value in metrics(ranks, cutoffs).items()}, 1)
