"""What every baseline is, and the matrices that they are fitted to."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from fedrec.data.devices import DeviceTable

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
