"""Local only: a device that ranks with what it alone knows, and nobody else's data (federation off)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from fedrec.data.catalogue import Catalogue
from fedrec.evaluation.baselines.base import Floats, Scorer
from fedrec.models.item_features import feature_vectors

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


def fit(catalogue: Catalogue) -> LocalOnly:
    """Make the features of the catalogue; nothing is learned."""
    if not catalogue.feature_names:
        return LocalOnly(np.zeros((len(catalogue), 0), np.float32))
    return LocalOnly(feature_vectors(catalogue, CENTRES))
