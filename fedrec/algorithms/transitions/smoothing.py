"""Noisy sums over pairs of items made into estimates: a regression on public features, then a Gaussian process.

The regression says what is expected (`fedrec/models/expected.py`). What is left is taken for R ~ N(0, K (x) K) + noise,
K = D (own I + (1 - own) P) D with D the counts and P the mean of the public kernels, scaled to trace H, times `scale`.
With K = Q diag(e) Q', the posterior mean is Q [(e_a e_b / (e_a e_b + (noise / scale)^2)) o (Q' R Q)] Q', exactly, and
the scale is the one of greatest marginal likelihood. All of it is post-processing of what was noised already.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import linalg

from fedrec.models.item_kernels import Block, Rows
from fedrec.models.transition_prior import CHUNK, Expectation

Floats = NDArray[np.float32]
Features = Callable[[Rows, Rows], Iterator[Block]]
SCALES = tuple(0.02 * 1.35**n for n in range(20))  # of the residual's prior, in units of the noisy sums
RIDGE = 1e-6  # of each feature's own square: only keeps equal features apart


def regression(target: Floats, features: Features, expectation: Expectation, head: Rows) -> Floats:
    """Return the least-squares weights of base * features for `target[H, H]`, the diagonal left out."""
    gram, moment = 0.0, 0.0
    for first in range(0, len(head), CHUNK):
        rows = head[first : first + CHUNK]
        base = expectation.base(rows, head)
        base[np.arange(len(rows)), first + np.arange(len(rows))] = 0
        inputs = np.stack([(feature * base).ravel() for feature in features(rows, head)])
        gram = gram + (inputs @ inputs.T).astype(np.float64)
        moment = moment + (inputs @ target[first : first + CHUNK].ravel()).astype(np.float64)
    square = np.asarray(gram)
    square[np.diag_indices(len(square))] += RIDGE * np.diag(square) + 1e-12 * np.trace(square) + 1e-30
    return linalg.solve(square, moment, assume_a="pos").astype(np.float32)


@dataclass(frozen=True, slots=True)
class Prior:
    """The eigenvectors [H, H] and eigenvalues [H] of the residual's kernel."""

    vectors: Floats
    values: NDArray[np.float64]

    @classmethod
    def of(cls, expectation: Expectation, head: Rows, own: float) -> "Prior":
        """Return the prior over the head; `own` is the part of an item that public features don't share."""
        kernels = [kernel.block(head, head) for kernel in expectation.kernels.values()]
        shared = np.mean(kernels, axis=0) if kernels else np.zeros((len(head), len(head)))
        counts = expectation.counts[head]
        kernel = counts[:, None] * (own * np.eye(len(head)) + (1 - own) * shared) * counts
        values, vectors = linalg.eigh(kernel * (len(head) / max(float(np.trace(kernel)), 1e-30)))
        return cls(vectors.astype(np.float32), np.maximum(values, 0.0))

    def estimate(self, residual: Floats, noise: float, scale: float | None = None) -> Floats:
        """Return the posterior mean of what is behind residual[H, H]; `scale` None takes the most likely one."""
        if noise == 0:
            return residual
        turned = self.vectors.T @ residual @ self.vectors
        product = np.outer(self.values, self.values)
        if scale is None:
            scale = _most_likely(np.square(turned, dtype=np.float64), product, noise)
        keep = product / (product + (noise / scale) ** 2)
        return (self.vectors @ (keep.astype(np.float32) * turned) @ self.vectors.T).astype(np.float32)


def _most_likely(squares: NDArray[np.float64], product: NDArray[np.float64], noise: float) -> float:
    """Return the scale under which independent N(0, scale^2 product + noise^2) draws of these squares are likeliest."""

    def cost(scale: float) -> float:
        variance = scale**2 * product + noise**2
        return float((np.log(variance) + squares / variance).sum())

    return min(SCALES, key=cost)
