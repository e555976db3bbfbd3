"""What every baseline is, the matrices it is fitted to, and the two that need no fit: popularity and local only.

A baseline over the head covers the most popular items, as matrix statistics do; the others follow by popularity. A
local-only device ranks with what it alone knows (federation off).
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from fedrec.data.catalogue import Catalogue
from fedrec.data.interactions import DeviceTable
from fedrec.data.item_features import feature_vectors

Sparse = Any  # scipy ships no types
Floats = NDArray[np.float64]


class Scorer(ABC):
    """A fitted baseline; `pooled` says that it saw the histories of all users in one place."""

    pooled: ClassVar[bool] = True

    @abstractmethod
    def scores_many(self, histories: Sequence[NDArray[np.int32]]) -> Floats:
        """Return the scores [B, V] for B histories; their order and repeats are of no matter."""

    def scores(self, history: NDArray[np.int32]) -> Floats:
        """Return the scores [V] for one history."""
        return self.scores_many([history])[0]


def stacked(histories: Sequence[NDArray[np.int32]], items: int) -> Sparse:
    """Return histories as a 0/1 matrix [B, V] in CSR, float64; an item used twice counts once."""
    row = np.repeat(np.arange(len(histories)), [len(history) for history in histories])
    column = np.concatenate([np.empty(0, np.int32), *histories])
    return _binary(row, column, (len(histories), items))


def pooled(devices: DeviceTable) -> Sparse:
    """Return the training histories of all devices as a 0/1 matrix [U, V] in CSR, float64."""
    user, item, _ = devices.train_rows()
    return _binary(user, item, (len(devices), devices.items))


def _binary(row: NDArray[np.integer], column: NDArray[np.integer], shape: tuple[int, int]) -> Sparse:
    matrix = sparse.csr_array((np.ones(len(row)), (row, column)), shape=shape)
    matrix.sum_duplicates()
    matrix.data[:] = 1
    return matrix


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


@dataclass(frozen=True, slots=True)
class Popularity(Scorer):
    """Items by the number of users who have them: `users_of[V]`."""

    users_of: Floats

    def scores_many(self, histories: Sequence[NDArray[np.int32]]) -> Floats:
        """Return the same counts for every history."""
        return np.broadcast_to(self.users_of, (len(histories), len(self.users_of)))


def fit_popularity(devices: DeviceTable) -> Popularity:
    """Count the users of every item."""
    return Popularity(np.asarray(pooled(devices).sum(axis=0), np.float64))


CENTRES, RECENT, DECAY = 60, 10, 0.9  # those of model=content, whose ranking this is without what devices share


@dataclass(frozen=True, slots=True)
class LocalOnly(Scorer):
    """Items by how near their public features `vectors[V, F]` are to those of the device's own last items.

    Where the catalogue has no features (F = 0) a device alone knows nothing to rank by: all scores are equal, which is
    chance.
    """

    pooled: ClassVar[bool] = False

    vectors: NDArray[np.float32]

    def scores_many(self, histories: Sequence[NDArray[np.int32]]) -> Floats:
        """Return the products of all features with those of each history's last ten items, older ones weighing less."""
        tastes = np.zeros((len(histories), self.vectors.shape[1]))
        for taste, history in zip(tastes, histories, strict=True):
            last = self.vectors[history[-RECENT:]]
            weight = DECAY ** np.arange(len(last) - 1.0, -1.0, -1.0)
            taste[:] = weight @ last / max(weight.sum(), 1e-12)
        return (tastes @ self.vectors.T).astype(np.float64)


def fit_local(catalogue: Catalogue) -> LocalOnly:
    """Make the features of the catalogue; nothing is learned."""
    if not catalogue.feature_names:
        return LocalOnly(np.zeros((len(catalogue), 0), np.float32))
    return LocalOnly(feature_vectors(catalogue, CENTRES))
