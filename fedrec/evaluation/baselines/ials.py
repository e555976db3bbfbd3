"""iALS: matrix factorisation for implicit feedback by alternating least squares (Rendle et al. 2022).

Minimises the sum over observed (1 - p.q)^2 + w0 * that over all (p.q)^2 + that over rows reg * (n_row + w0 * n_other)
|row|^2, n_row the row's observations and n_other the number of rows on the other side (their nu = 1).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedrec.data.devices import DeviceTable
from fedrec.evaluation.baselines.base import Floats, Scorer, Sparse, pooled, stacked

CHUNK = 1024  # rows whose [d, d] systems are solved together


@dataclass(frozen=True, slots=True)
class Weights:
    """`unobserved` weight w0 of every pair, and `regulariser` per observation."""

    unobserved: float = 0.3
    regulariser: float = 0.01


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


def fit(
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
    ridge = weights.regulariser * (counts + weights.unobserved * len(other))
    solved = np.empty_like(wanted)
    for first in range(0, len(wanted), CHUNK):
        rows = slice(first, first + CHUNK)
        systems = ridge[rows, None, None] * np.eye(other.shape[1]) + every
        for system, start, end in zip(systems, matrix.indptr[rows], matrix.indptr[first + 1 :], strict=False):
            seen = other[matrix.indices[start:end]]
            system += seen.T @ seen
        solved[rows] = np.linalg.solve(systems, wanted[rows, :, None])[:, :, 0]
    return solved
