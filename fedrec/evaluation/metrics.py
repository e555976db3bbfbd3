"""Where a target ranks, and HR, NDCG and MRR of it, in expectation over ties; as sums that merge.

A rank is found by counting what scores higher, never by sorting.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedrec.errors import FedrecError

Scores = NDArray[np.float32] | NDArray[np.float64]
Items = NDArray[np.integer]


@dataclass(frozen=True, slots=True)
class Ranks:
    """One entry per target: how many candidates score strictly `above` it and how many are `tied` with it."""

    above: NDArray[np.int64]
    tied: NDArray[np.int64]


def check_scores(scores: Scores, where: str) -> None:
    """Refuse NaN and infinite scores [..., V]: `score > NaN` is false, so a broken model would get perfect ranks."""
    finite = np.isfinite(scores)
    if not finite.all():
        wrong = np.argwhere(~finite)
        raise FedrecError(
            f"{where}: {len(wrong)} of {scores.size} scores are NaN or infinite, the first at position "
            f"{wrong[0].tolist()}; a model must give a finite score to every item"
        )


def full_ranks(scores: Scores, targets: Items, excluded: Items) -> Ranks:
    """Rank each target against the whole catalogue.

    `scores[V]` are one device's; items in `excluded` (what the device knows) and the other targets are left out.
    The target itself always takes part, also where it was consumed before.
    """
    out = np.union1d(excluded, targets)
    tops = scores[targets]
    above = _counts(scores, tops, "above") - _counts(scores[out], tops, "above")
    tied = _counts(scores, tops, "tied") - _counts(scores[out], tops, "tied")
    return Ranks(above, tied)


def sampled_ranks(scores: Scores, targets: Items, candidates: Items) -> Ranks:
    """Rank each target of one device against the given candidates, in any order; targets among them are left out."""
    against = scores[candidates[~np.isin(candidates, targets)]]
    tops = scores[targets]
    return Ranks(_counts(against, tops, "above"), _counts(against, tops, "tied"))


def ranks_many(scores: Scores, targets: Items, excluded: NDArray[np.bool_]) -> Ranks:
    """Rank one target per row of `scores[B, V]`, all at once; equal to `full_ranks` row by row.

    `excluded[B, V]` is true where an item is left out; the row's own target `targets[B]` is left out of its rivals.
    """
    rivals = ~excluded
    rivals[np.arange(len(targets)), targets] = False
    tops = scores[np.arange(len(targets)), targets][:, None]
    return Ranks(((scores > tops) & rivals).sum(1), ((scores == tops) & rivals).sum(1))


def top_items(scores: Scores, excluded: Items, length: int, generator: np.random.Generator) -> NDArray[np.int32]:
    """Return the `length` best items of one device, best first, without `excluded`; fewer where fewer are left.

    Items tied at the end of the list are drawn at random: a constant score must not make the first rows popular.
    """
    left = np.array(scores, np.float64)
    left[excluded] = -np.inf
    length = min(length, int(np.isfinite(left).sum()))
    if length == 0:
        return np.empty(0, np.int32)
    last = np.partition(left, len(left) - length)[len(left) - length]
    sure, tied = np.flatnonzero(left > last), np.flatnonzero(left == last)
    if len(tied) > length - len(sure):
        tied = generator.choice(tied, length - len(sure), replace=False)
    sure = sure[np.argsort(-left[sure], kind="stable")]
    return np.concatenate([sure, tied]).astype(np.int32)


def _counts(scores: Scores, tops: Scores, kind: str) -> NDArray[np.int64]:
    compare = np.greater if kind == "above" else np.equal
    return np.array([np.count_nonzero(compare(scores, top)) for top in tops], np.int64)


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


def ranking_metrics(ranks: Ranks, cutoffs: tuple[int, ...]) -> Columns:
    """Return one array per metric, an entry per target: "hr@5", "ndcg@5", "mrr@5", "hr@10" and so on."""
    return {f"{name}@{cutoff}": expected(name, ranks, cutoff) for cutoff in cutoffs for name in GAINS}


@dataclass(frozen=True, slots=True)
class MetricSums:
    """Metric sums over `count` devices: all that a real device sends of its results, never a list."""

    values: dict[str, float] = field(default_factory=dict[str, float])
    count: int = 0

    @classmethod
    def zero(cls) -> "MetricSums":
        """Return the sum over no device."""
        return cls()

    def merge(self, other: "MetricSums") -> "MetricSums":
        """Return the sum over both groups of devices; a metric that one of them lacks counts 0 there."""
        names = [*self.values, *(name for name in other.values if name not in self.values)]
        merged = {name: self.values.get(name, 0.0) + other.values.get(name, 0.0) for name in names}
        return MetricSums(merged, self.count + other.count)

    def result(self) -> dict[str, float]:
        """Return the mean of every metric; nothing where no device was counted."""
        return {name: value / self.count for name, value in self.values.items()} if self.count else {}


def device_sums(ranks: Ranks, cutoffs: tuple[int, ...]) -> MetricSums:
    """Return the metrics of one device, averaged over its targets, as a sum over one device."""
    return MetricSums({name: float(value.mean()) for name, value in ranking_metrics(ranks, cutoffs).items()}, 1)
