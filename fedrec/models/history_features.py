"""What a history says of items, as features: the score of order statistics is a weighted sum of them.

Past items weigh decay^k, k counted back from the last one, over a window of last items (`Past`); "all" weighs them
alike. z is the logarithm of the released counts, less its mean, in standard deviations. Of a history and an item j:

- near, far, last: log sum_k weight_k P[s_k, j], over either window, and from the last item alone;
- level, level2, fresh: log counts[j], z[j]^2, and how much more of j's use is late than of others';
- level near, level all: the weighted mean of z over the history, times z[j];
- of each public kernel, near and all: its weighted mean over the history; the logarithm of it where a kernel is
  nearness of two places.

All are functions of what was released, of public data, and of the device's own history, which never leaves it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedrec.data.catalogue import Catalogue
from fedrec.models.item_kernels import NUMBER_SCALES, Kernel, Place, Rows

Floats = NDArray[np.float32]
Transitions = Callable[[Rows, Rows | None], Floats]
LEAST_CHANCE, LEAST_NEARNESS = 1e-12, 1e-3  # added before a logarithm
POSITION_SCALE = 300.0  # of the item file: the wide neighbourhood in the publisher's own order
PLAIN = ("near", "far", "last", "level", "level2", "fresh", "level near", "level all")


@dataclass(frozen=True, slots=True)
class Past:
    """The last `items` of a history, each older one weighing `decay` of the next; all of it where `items` is None."""

    items: int | None = None
    decay: float = 1.0

    def weights(self, length: int) -> NDArray[np.float64]:
        """Return the weights [n] of the last n items of a history of this length, the last one first."""
        return np.power(
            self.decay, np.arange(length if self.items is None else min(length, self.items)), dtype=np.float64
        )


def feature_kernels(kernels: Mapping[str, Kernel], catalogue: Catalogue) -> dict[str, Kernel]:
    """Return the public kernels that histories are compared by: every cosine, every number on its wide scale."""
    found = {
        name: kernel
        for name, kernel in kernels.items()
        if not isinstance(kernel, Place) or name.endswith(f" {NUMBER_SCALES[1]:g}")
    }
    if "position" in catalogue.feature_names:
        place = catalogue.features[:, list(catalogue.feature_names).index("position")] * len(catalogue)
        found[f"position {POSITION_SCALE:g}"] = Place((place / POSITION_SCALE).astype(np.float32))
    return found


def feature_names(kernels: Mapping[str, Kernel]) -> tuple[str, ...]:
    """Return the names of the features in their order."""
    return (*PLAIN, *(f"{name} {past}" for name in kernels for past in ("near", "all")))


class HistoryFeatures:
    """The features of histories over items, from what was released and what is public.

    `counts` [V] are above 0. `transitions(rows, columns)` returns P there [n, m], over all items where `columns` is
    None. `pasts` has a "near" and a "far" one.
    """

    def __init__(
        self,
        kernels: Mapping[str, Kernel],
        counts: Floats,
        freshness: Floats,
        transitions: Transitions,
        pasts: Mapping[str, Past],
    ) -> None:
        self.kernels, self.names, self.transitions = kernels, feature_names(kernels), transitions
        self.items = len(counts)
        self._pasts = {"near": pasts["near"], "far": pasts["far"], "last": Past(1), "all": Past()}
        level = np.log(counts.astype(np.float64).clip(LEAST_CHANCE))
        self._standard = ((level - level.mean()) / max(float(level.std()), 1e-12)).astype(np.float32)
        self._plain = {"level": level.astype(np.float32), "level2": self._standard**2, "fresh": freshness}

    def of(
        self, history: NDArray[np.integer], items: Rows | None = None, wanted: Sequence[int] | None = None
    ) -> Floats:
        """Return the features [K, m] of a history [n], n > 0, in the order of time; all items where `items` is None.

        `wanted` are the places of the features that are computed, all where it is None.
        """
        names = self.names if wanted is None else [self.names[place] for place in wanted]
        seen = history[::-1].astype(np.int64)
        found = np.empty((len(names), len(self._standard) if items is None else len(items)), np.float32)
        chances = self._chances(seen, items, {"near", "far", "last"}.intersection(names))
        for row, name in zip(found, names, strict=True):
            row[:] = chances[name] if name in chances else self._feature(name, seen, items)
        return found

    def _chances(self, seen: Rows, items: Rows | None, names: set[str]) -> dict[str, Floats]:
        weights = {name: self._pasts[name].weights(len(seen)).astype(np.float32) for name in names}
        if not weights:
            return {}
        rows = self.transitions(seen[: max(map(len, weights.values()))], items)
        return {name: np.log(one @ rows[: len(one)] + np.float32(LEAST_CHANCE)) for name, one in weights.items()}

    def _feature(self, name: str, seen: Rows, items: Rows | None) -> Floats:
        every = slice(None) if items is None else items
        if name in self._plain:
            return self._plain[name][every]
        kernel, _, past = name.rpartition(" ")
        weights = self._pasts[past].weights(len(seen))
        weights /= weights.sum()
        rows = seen[: len(weights)]
        if kernel == "level":
            return np.float32(weights @ self._standard[rows]) * self._standard[every]
        columns = np.arange(len(self._standard)) if items is None else items
        nearness = self.kernels[kernel].mean_block(rows, weights, columns)
        return np.log(nearness + LEAST_NEARNESS) if isinstance(self.kernels[kernel], Place) else nearness
