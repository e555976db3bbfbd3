"""A baseline over the most popular items only, as matrix statistics are: the others follow by popularity."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedrec.data.devices import DeviceTable
from fedrec.evaluation.baselines.base import Floats, Scorer, pooled


@dataclass(frozen=True, slots=True)
class Headed(Scorer):
    """`inner` scores the items `head[h]`, ascending; items outside rank below its lowest score by `users_of[V]`."""

    inner: Scorer
    head: NDArray[np.int64]
    users_of: Floats

    def scores_many(self, histories: Sequence[NDArray[np.int32]]) -> Floats:
        """Return the scores of the head from what of each history lies in it, and below them the rest."""
        place = np.full(len(self.users_of), -1, np.int32)
        place[self.head] = np.arange(len(self.head))
        inside = self.inner.scores_many([row[row >= 0] for row in (place[history] for history in histories)])
        scores = inside.min(axis=1, keepdims=True) - 2 + self.users_of / (1 + self.users_of.max())
        scores[:, self.head] = inside
        return scores


def over_head(fit: Callable[[DeviceTable], Scorer], devices: DeviceTable, head: int) -> Scorer:
    """Return the baseline fitted to the `head` items with most users (ties: the catalogue's order)."""
    users_of = np.asarray(pooled(devices).sum(axis=0), np.float64)
    kept = np.sort(np.argsort(-users_of, kind="stable")[:head])
    return Headed(fit(_only(devices, kept)), kept, users_of)


def _only(devices: DeviceTable, kept: NDArray[np.int64]) -> DeviceTable:
    """Return the training histories with the kept items alone, renumbered."""
    place = np.full(devices.items, -1, np.int32)
    place[kept] = np.arange(len(kept))
    user, item, value = devices.train_rows()
    inside = place[item] >= 0
    counts = np.bincount(user[inside], minlength=len(devices))
    start = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    return DeviceTable(start, start[1:], start[1:], place[item[inside]], value[inside], len(kept))
