"""Item-kNN from the sums of EASE: the same counts and Gram matrix, read as cosines.

Sarwar et al., "Item-based collaborative filtering recommendation algorithms", 2001, with a shrunk cosine:
g_ij / (sqrt(g_ii g_jj) + shrink), every user weighing 1/n.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from fedrec.algorithms.gram_matrix import GramMatrix, unfolded_gram
from fedrec.errors import FedrecError
from fedrec.models.base import Recommender
from fedrec.models.item_knn import ItemKnn


@dataclass(frozen=True, slots=True)
class Neighbours(GramMatrix):
    """Keeps the `neighbours` most similar items of each; `shrink` is in units of the Gram matrix's mean diagonal."""

    name: ClassVar[str] = "neighbours"
    shrink: float = 1.0
    neighbours: int = 50

    accepts: ClassVar[tuple[type[Recommender], ...]] = (ItemKnn,)

    def __post_init__(self) -> None:
        GramMatrix.__post_init__(self)
        if not (math.isfinite(self.shrink) and self.shrink >= 0):
            raise FedrecError(f"algorithm.shrink={self.shrink} must be a number from 0")
        if self.neighbours < 1:
            raise FedrecError(f"algorithm.neighbours={self.neighbours} must be at least 1")

    def weights(self, flat: NDArray[np.floating], size: int) -> NDArray[np.float32]:
        """Return the similarities [H, H], column j those of the neighbours of item j, zeros elsewhere."""
        gram = unfolded_gram(flat, size)
        diagonal = np.maximum(gram.diagonal(), 1e-12)
        similarity = gram / (np.sqrt(np.outer(diagonal, diagonal)) + self.shrink * diagonal.mean())
        np.fill_diagonal(similarity, 0.0)
        if self.neighbours < size:
            least = -np.partition(-similarity, self.neighbours - 1, axis=0)[self.neighbours - 1]
            similarity[similarity < least] = 0.0
        return similarity.astype(np.float32)
