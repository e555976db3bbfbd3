"""From noisy sums of order statistics to what the model takes: positive counts, freshness, transitions.

Noisy counts made into positive ones: empirical Bayes with public features, at no cost of privacy.

A count is prior mean times a log-normal factor. The prior mean is a ridge regression of the noisy counts on public
features; the factor's spread is the one under which the noisy counts are most likely (marginal likelihood); what is
returned is the posterior mean. All of it only looks at what was noised already.

Noisy sums over pairs of items made into estimates: a regression on public features, then a Gaussian process.

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
from scipy.special import logsumexp

from fedrec.data.catalogue import Catalogue
from fedrec.data.item_features import feature_vectors
from fedrec.messages import Arrays
from fedrec.models.item_kernels import Block, Rows
from fedrec.models.transitions import CHUNK, LARGEST_EXCESS, LEAST, LEAST_EXPECTED, TransitionPrior, unfolded

Floats = NDArray[np.float64]
SPREADS = (0.2, 0.3, 0.45, 0.6, 0.8, 1.0, 1.2, 1.4, 1.7, 2.0)  # standard deviations of the factor's logarithm
STEPS = np.linspace(-4.0, 3.0, 71)  # the factor's logarithm, in units that every spread reaches
LEAST_OF_MEAN = 0.1  # of the mean: no prior mean is below


def posterior_mean(noisy: Floats, std: float, prior: Floats) -> Floats:
    """Return E[count | noisy] [V], noisy = count + N(0, std^2), count = prior * exp(N(-spread^2 / 2, spread^2))."""
    best, found = -np.inf, prior
    for spread in SPREADS:
        log_prior = -0.5 * (STEPS / spread) ** 2
        value = prior[:, None] * np.exp(STEPS - spread**2 / 2)
        joint = -0.5 * ((noisy[:, None] - value) / std) ** 2 + log_prior - logsumexp(log_prior)
        evidence = logsumexp(joint, axis=1)
        if (total := float(evidence.sum())) > best:
            best, found = total, (np.exp(joint - evidence[:, None]) * value).sum(axis=1)
    return found


def shrink_counts(noisy: Floats, std: float, features: Floats, base: Floats | None = None) -> Floats:
    """Return positive counts [V] from noisy ones; `features[V, F]` say what to expect, as a multiple of `base[V]`.

    Without noise, counts stay what they are, but for zeros, which are raised to a tenth of the smallest positive one.
    """
    if std == 0:
        positive = noisy[noisy > 0]
        return np.maximum(noisy, 0.1 * float(positive.min()) if len(positive) else 1.0)
    scale = np.ones(len(noisy)) if base is None else base
    inputs = features * scale[:, None]
    gram = inputs.T @ inputs
    ridge = 0.01 * np.trace(gram) / len(gram)
    fitted = inputs @ np.linalg.solve(gram + ridge * np.eye(len(gram)), inputs.T @ noisy)
    least = LEAST_OF_MEAN * (max(float(noisy.mean()), std / np.sqrt(len(noisy))) if base is None else base)
    return posterior_mean(noisy, std, np.maximum(fitted, least))


Floats = NDArray[np.float32]
Features = Callable[[Rows, Rows], Iterator[Block]]
SCALES = tuple(0.02 * 1.35**n for n in range(20))  # of the residual's prior, in units of the noisy sums
RIDGE = 1e-6  # of each feature's own square: only keeps equal features apart


def fit_prior_mean(target: Floats, features: Features, expectation: TransitionPrior, head: Rows) -> Floats:
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
    def of(cls, expectation: TransitionPrior, head: Rows, own: float) -> "Prior":
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


Floats = NDArray[np.float32]
CENTRES = 40  # bumps over each number among the features that counts are expected from


@dataclass(frozen=True, slots=True)
class Sums:
    """Noisy sums over the head, flat: both orders and the excess of ascending ones, and the noise on either.

    `noise` is the standard deviation on `both`; on `ascending`, which was sent with the weight `direction`, it is
    noise / direction.
    """

    both: Floats
    ascending: Floats
    noise: float
    direction: float


def estimate_counts(catalogue: Catalogue, sums: dict[str, NDArray[np.float64]], stds: dict[str, float]) -> Arrays:
    """Return positive `counts[V]`, and `freshness[V]`: how much more of an item's use is late than of others'.

    Freshness is 0 where no counts of late items were sent.
    """
    features = count_features(catalogue)
    counts = shrink_counts(sums["counts"], stds["counts"], features)
    freshness = np.zeros(len(counts))
    if "late" in sums:
        usual = counts * max(float(sums["late"].sum()), 1e-12) / counts.sum()
        freshness = np.log(shrink_counts(sums["late"], stds["late"], features, usual) / usual)
        freshness = np.clip(freshness, -3.0, 3.0)
    return {"counts": counts.astype(np.float32), "freshness": freshness.astype(np.float32)}


def count_features(catalogue: Catalogue) -> NDArray[np.float64]:
    """Return the public features of items that their counts are expected from, a constant among them [V, F]."""
    vectors = feature_vectors(catalogue, CENTRES).astype(np.float64)
    return np.concatenate([np.ones((len(catalogue), 1)), vectors], axis=1)


def estimate_transitions(
    expectation: TransitionPrior, head: NDArray[np.int64], sums: Sums, own: float, prior_scale: float | None
) -> Arrays:
    """Return the coefficients of what public features expect, and both parts of the transitions over the head, flat."""
    size = len(head)
    base = expectation.base(head, head)
    np.fill_diagonal(base, 0)
    both, ascending = (unfolded(part, size) for part in (sums.both, sums.ascending))
    both, ascending = both + both.T, ascending - ascending.T
    unit = max(float((both * base).sum() / max(float((base * base).sum()), 1e-30)), 1e-12)
    both, ascending, noise = both / np.float32(unit), ascending / np.float32(unit), sums.noise / unit
    weights = (
        fit_prior_mean(both, expectation.symmetric, expectation, head),
        fit_prior_mean(ascending, expectation.antisymmetric, expectation, head),
    )
    mean, lean = expectation.expected(weights, head, head)
    mean = np.maximum(mean, LEAST_EXPECTED * base)
    prior = Prior.of(expectation, head, own)
    mean += prior.estimate(both - mean, noise, prior_scale)
    lean += prior.estimate(ascending - lean, noise / sums.direction, prior_scale)
    mean = np.maximum(mean, LEAST * base)
    upper = np.triu_indices(size, 1)
    return {
        "symmetric": mean[upper],
        "antisymmetric": np.clip(lean, -LARGEST_EXCESS * mean, LARGEST_EXCESS * mean)[upper],
        "symmetric_weights": weights[0],
        "antisymmetric_weights": weights[1],
    }
