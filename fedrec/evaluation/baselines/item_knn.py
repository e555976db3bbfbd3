"""Item-kNN: cosine between items, shrunk, the nearest neighbours only."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from fedrec.data.devices import DeviceTable
from fedrec.evaluation.baselines.base import Floats, Scorer, Sparse, pooled, stacked

BLOCK = 512  # items whose similarities are dense at a time: 512 x V doubles


@dataclass(frozen=True, slots=True)
class ItemKnn(Scorer):
    """`similarity[V, V]` in CSC: column j holds the neighbours of item j."""

    similarity: Sparse

    def scores_many(self, histories: Sequence[NDArray[np.int32]]) -> Floats:
        """Return the sum of similarities between each item and the history."""
        return (stacked(histories, self.similarity.shape[0]) @ self.similarity).toarray()


def fit(devices: DeviceTable, shrink: float = 20.0, neighbours: int = 50) -> ItemKnn:
    """Keep for every item the `neighbours` largest n_ij / (sqrt(n_i n_j) + shrink), n_ij the users who have both."""
    matrix = pooled(devices).tocsc()
    root = np.sqrt(np.asarray(matrix.sum(axis=0)))
    blocks = [
        _nearest(matrix, root, np.arange(first, min(first + BLOCK, devices.items)), shrink, neighbours)
        for first in range(0, devices.items, BLOCK)
    ]
    return ItemKnn(sparse.hstack(blocks, format="csc"))


def _nearest(matrix: Sparse, root: Floats, block: NDArray[np.int64], shrink: float, neighbours: int) -> Sparse:
    together = (matrix.T @ matrix[:, block]).toarray()
    similarity = together / (np.outer(root, root[block]) + shrink)
    similarity[block, np.arange(len(block))] = 0
    keep = min(neighbours, len(similarity))
    best = np.argpartition(-similarity, keep - 1, axis=0)[:keep]
    column = np.broadcast_to(np.arange(len(block)), best.shape)
    values = np.take_along_axis(similarity, best, axis=0)
    return sparse.csc_array((values.ravel(), (best.ravel(), column.ravel())), shape=similarity.shape)
