"""Popularity: the same list for everybody."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedrec.data.devices import DeviceTable
from fedrec.evaluation.baselines.base import Floats, Scorer, pooled


@dataclass(frozen=True, slots=True)
class Popularity(Scorer):
    """Items by the number of users who have them: `users_of[V]`."""

    users_of: Floats

    def scores_many(self, histories: Sequence[NDArray[np.int32]]) -> Floats:
        """Return the same counts for every history."""
        return np.broadcast_to(self.users_of, (len(histories), len(self.users_of)))


def fit(devices: DeviceTable) -> Popularity:
    """Count the users of every item."""
    return Popularity(np.asarray(pooled(devices).sum(axis=0), np.float64))
