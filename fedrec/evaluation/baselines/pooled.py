"""Centralised baselines on pooled data: EASE, iALS and item-kNN.

EASE (Steck 2019): with P = (X'X + lambda I)^-1 the weights are B = I - P diag(P)^-1, whose diagonal is 0; scores are
x B. iALS (Rendle et al. 2022) minimises the sum over observed (1 - p.q)^2 + w0 * that over all (p.q)^2 + that over rows
reg * (n_row + w0 * n_other) |row|^2, n_row the row's observations and n_other the number of rows on the other side
(their nu = 1). Item-kNN: cosine between items, shrunk, the nearest neighbours only.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.linalg import lapack

from fedrec.data.interactions import DeviceTable
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


def fit_ease(devices: DeviceTable, ridge: float = 300.0, head: int = 5000) -> EaseOfItems | EaseOfUsers:
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


CHUNK = 1024  # rows whose [d, d] systems are solved together


@dataclass(frozen=True, slots=True)
class Weights:
    """`unobserved` weight w0 of every pair, and `regularization` per observation."""

    unobserved: float = 0.3
    regularization: float = 0.01


@dataclass(frozen=True, slots=True)
class Ials(Scorer):
    """Item factors [V, d]; a history is folded in as one more user."""

    factors: Floats
    weights: Weights

    def scores_many(self, histories: Sequence[NDArray[np.int32]]) -> Floats:
        """Return the products of the histories' factors with those of all items."""
        return self.folded(stacked(histories, len(self.factors))) @ self.factors.T

    def folded(self, matrix: Sparse) -> Floats:
        """Return the best factors [n, d] of the rows of a 0/1 matrix [n, V] in CSR, given those of the items."""
        return _solve(matrix, self.factors, self.weights)


def fit_ials(
    devices: DeviceTable, dimension: int = 32, epochs: int = 10, weights: Weights | None = None, seed: int = 0
) -> Ials:
    """Alternate `epochs` times between all users and all items, from normal factors of deviation 0.1 / sqrt(d)."""
    weights = weights or Weights()
    matrix = pooled(devices)
    transposed = matrix.T.tocsr()
    items = np.random.default_rng(seed).normal(0, 0.1 / np.sqrt(dimension), (devices.items, dimension))
    for _ in range(epochs):
        users = _solve(matrix, items, weights)
        items = _solve(transposed, users, weights)
    return Ials(items, weights)


def _solve(matrix: Sparse, other: Floats, weights: Weights) -> Floats:
    """Return the best factor of every row of `matrix` [n, m] given the factors [m, d] of the other side."""
    every = weights.unobserved * (other.T @ other)
    wanted = matrix @ other
    counts = np.diff(matrix.indptr)
    ridge = weights.regularization * (counts + weights.unobserved * len(other))
    solved = np.empty_like(wanted)
    for first in range(0, len(wanted), CHUNK):
        rows = slice(first, first + CHUNK)
        systems = ridge[rows, None, None] * np.eye(other.shape[1]) + every
        for system, start, end in zip(systems, matrix.indptr[rows], matrix.indptr[first + 1 :], strict=False):
            seen = other[matrix.indices[start:end]]
            system += seen.T @ seen
        solved[rows] = np.linalg.solve(systems, wanted[rows, :, None])[:, :, 0]
    return solved


BLOCK = 512  # items whose similarities are dense at a time: 512 x V doubles


@dataclass(frozen=True, slots=True)
class ItemKnn(Scorer):
    """`similarity[V, V]` in CSC: column j holds the neighbours of item j."""

    similarity: Sparse

    def scores_many(self, histories: Sequence[NDArray[np.int32]]) -> Floats:
        """Return the sum of similarities between each item and the history."""
        return (stacked(histories, self.similarity.shape[0]) @ self.similarity).toarray()


def fit_item_knn(devices: DeviceTable, shrink: float = 20.0, neighbours: int = 50) -> ItemKnn:
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
