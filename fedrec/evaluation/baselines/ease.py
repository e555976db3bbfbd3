"""EASE: the linear item-item model with a closed form (Steck 2019).

With P = (X'X + lambda I)^-1 the weights are B = I - P diag(P)^-1, whose diagonal is 0, and scores are x B.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import lapack

from fedrec.data.devices import DeviceTable
from fedrec.errors import FedrecError
from fedrec.evaluation.baselines.base import Floats, Scorer, Sparse, pooled, stacked


@dataclass(frozen=True, slots=True)
class EaseOfItems(Scorer):
    """EASE over the items `head[h]` by their inverse P [h, h]; the others follow, by their popularity `users_of[V]`."""

    inverse: Floats
    head: NDArray[np.int64]
    users_of: Floats

    def scores_many(self, histories: Sequence[NDArray[np.int32]]) -> Floats:
        """Return x - (x P) / diag(P) on the head, and below its lowest score the rest."""
        inside = stacked(histories, len(self.users_of))[:, self.head]
        head = inside.toarray() - (inside @ self.inverse) / self.inverse.diagonal()
        scores = head.min(axis=1, keepdims=True) - 2 + self.users_of / (1 + self.users_of.max())
        scores[:, self.head] = head
        return scores


@dataclass(frozen=True, slots=True)
class EaseOfUsers(Scorer):
    """EASE over all items by the smaller inverse over users, M = (X X' + lambda I)^-1: P = (I - X' M X) / lambda.

    Holds X [U, V] sparse, M [U, U] and lambda * diag(P) [V].
    """

    matrix: Sparse
    inverse: Floats
    diagonal: Floats

    def scores_many(self, histories: Sequence[NDArray[np.int32]]) -> Floats:
        """Return x - (x P) / diag(P) without ever forming P."""
        given = stacked(histories, self.matrix.shape[1])
        explained = (self.matrix.T @ ((given @ self.matrix.T) @ self.inverse).T).T
        dense = given.toarray()
        return dense - (dense - explained) / self.diagonal


def fit(devices: DeviceTable, ridge: float = 300.0, head: int = 5000) -> EaseOfItems | EaseOfUsers:
    """Fit exactly over all items where items or users are at most `head`, else over the `head` most popular items.

    Costs one inverse of that size in double precision: 200 MB at 5,000.
    """
    if ridge <= 0 or head < 1:
        raise FedrecError(f"EASE with ridge {ridge} and head {head}: both must be positive")
    matrix = pooled(devices)
    if matrix.shape[0] < min(matrix.shape[1], head):
        inverse = _inverse((matrix @ matrix.T).toarray(), ridge)
        diagonal = 1 - np.asarray(matrix.multiply(inverse @ matrix).sum(axis=0))
        return EaseOfUsers(matrix, inverse, diagonal)
    users_of = np.asarray(matrix.sum(axis=0), np.float64)
    kept = np.sort(np.argsort(-users_of, kind="stable")[:head])
    columns = matrix[:, kept]
    return EaseOfItems(_inverse((columns.T @ columns).toarray(), ridge), kept, users_of)


def _inverse(gram: Floats, ridge: float) -> Floats:
    gram.flat[:: len(gram) + 1] += ridge
    # LAPACK wants columns: the transpose of a symmetric matrix is itself, so nothing is copied.
    factor, failed = lapack.dpotrf(gram.T, overwrite_a=True, clean=True)  # pyright: ignore[reportAttributeAccessIssue]
    upper, also = lapack.dpotri(factor, overwrite_c=True)  # pyright: ignore[reportAttributeAccessIssue]
    if failed or also:
        raise FedrecError(f"EASE's matrix is not positive definite with ridge {ridge}: a larger ridge is needed")
    upper += np.triu(upper, 1).T
    return upper
