"""What public features and popularity alone expect of item-to-item transitions: a linear model of few coefficients.

expected[i, j] = base[i, j] * sum_l weights[l] feature_l[i, j], base[i, j] = counts[i] counts[j] / sum(counts); one such
model for the symmetric part of the transitions and one for their direction. The coefficients are fitted to noisy sums
over millions of cells, so that next to no noise is left in them; a device evaluates them on the rows that it needs.
"""

from collections.abc import Iterator, Sequence
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from fedrec.data.catalogue import Catalogue
from fedrec.models.item_kernels import Block, Kernel, Rows, public_kernels

Floats = NDArray[np.float32]
NEAR_SHARE = 0.06  # of a column's range: how far items differ until their order is fully felt
CHUNK = 256  # rows whose features are held at once


def sizes(catalogue: Catalogue, encoder: str | None = None) -> tuple[int, int]:
    """Return how many coefficients the symmetric and the antisymmetric model have for this catalogue and encoder."""
    few = np.arange(min(len(catalogue), 1))
    expectation = Expectation(catalogue, np.ones(len(catalogue), np.float32), encoder)
    return len(list(expectation.symmetric(few, few))), len(list(expectation.antisymmetric(few, few)))


class Expectation:
    """The features of pairs of items, for counts [V] above 0; `encoder` is that of `public_kernels`."""

    def __init__(self, catalogue: Catalogue, counts: Floats, encoder: str | None = None) -> None:
        self.kernels: dict[str, Kernel] = public_kernels(catalogue, encoder)
        self.counts = counts.astype(np.float64)
        level = np.log(self.counts)
        self.level = ((level - level.mean()) / max(float(level.std()), 1e-12)).astype(np.float32)
        self._ordered = {
            name: (column / max(float(np.ptp(column)), 1e-12)).astype(np.float32)
            for name, column in zip(catalogue.feature_names, catalogue.features.T, strict=True)
            if ":" not in name
        }

    def base(self, rows: Rows, columns: Rows) -> Block:
        """Return what popularity alone expects, [n, m]."""
        return np.outer(self.counts[rows] / self.counts.sum(), self.counts[columns]).astype(np.float32)

    def symmetric(self, rows: Rows, columns: Rows) -> Iterator[Block]:
        """Yield the features of the symmetric part: a constant, every kernel, every product of two families."""
        yield np.ones((len(rows), len(columns)), np.float32)
        kernels = {**self._public(rows, columns), **self._popular(rows, columns)}
        if "title" in kernels:
            kernels["title cubed"] = np.maximum(kernels["title"], 0) ** 3
        yield from kernels.values()
        for (one, a), (other, b) in combinations(kernels.items(), 2):
            if one.split()[0] != other.split()[0]:
                yield a * b

    def antisymmetric(self, rows: Rows, columns: Rows) -> Iterator[Block]:
        """Yield the features of the direction: the signs of differences, alone and times each kernel."""
        near = [*self._public(rows, columns).values(), self._popular(rows, columns)["popularity near"]]
        for sign in self._signs(rows, columns):
            yield sign
            yield from (sign * kernel for kernel in near)

    def expected(self, weights: tuple[Floats, Floats], rows: Rows, columns: Rows) -> tuple[Block, Block]:
        """Return both parts [n, m] for their coefficients."""
        shape = (len(rows), len(columns))
        found = np.empty(shape, np.float32), np.empty(shape, np.float32)
        for first in range(0, len(rows), CHUNK):
            part = rows[first : first + CHUNK]
            for out, features, theta in zip(
                found, (self.symmetric(part, columns), self.antisymmetric(part, columns)), weights, strict=True
            ):
                out[first : first + CHUNK] = _weighted(features, theta, len(part), len(columns))
                out[first : first + CHUNK] *= self.base(part, columns)
        return found

    def _public(self, rows: Rows, columns: Rows) -> dict[str, Block]:
        return {name: kernel.block(rows, columns) for name, kernel in self.kernels.items()}

    def _popular(self, rows: Rows, columns: Rows) -> dict[str, Block]:
        one, other = self.level[rows, None], self.level[columns][None]
        square = (one - other) ** 2
        return {
            "popularity near": np.exp(-0.5 * square),
            "popularity nearer": np.exp(-3.125 * square),
            "popularity sum": np.maximum(one + other, np.float32(-3)) / 2,
        }

    def _signs(self, rows: Rows, columns: Rows) -> Iterator[Block]:
        yield np.tanh(self.level[columns][None] - self.level[rows, None])
        for name, column in self._ordered.items():
            change = column[columns][None] - column[rows, None]
            yield np.sign(change) if name == "position" else np.tanh(change / np.float32(NEAR_SHARE))


def _weighted(features: Iterator[Block], theta: Sequence[float] | Floats, rows: int, columns: int) -> Block:
    found = np.zeros((rows, columns), np.float32)
    for feature, weight in zip(features, theta, strict=True):
        found += feature * np.float32(weight)
    return found
