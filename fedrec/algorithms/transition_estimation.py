"""From noisy sums of order statistics to what the model takes: positive counts, freshness, transitions.

Noisy counts made into positive ones: empirical Bayes with public features, at no cost of privacy.

A count is prior mean times a log-normal factor. The prior mean is a ridge regression of the noisy counts on public
features; the factor's spread is the one under which the noisy counts are most likely (marginal likelihood); what is
returned is the posterior mean. All of it only looks at what was noised already.

Noisy sums over pairs of items made into estimates: a regression on public features, then a Gaussian process.

The regression says what is expected, M of either order and L of the direction (`fedrec.models.transitions`). What is
left is a multiple of M: F = M + M o G + noise, G ~ N(0, tau^2 K (x) K), K = own I + (1 - own) P, P the mean of the
public kernels, scaled to a diagonal of ones. So a popular pair may differ from what is expected by as large a factor as
a rare one, and pairs of items that are alike differ alike. The direction is L + M o G' in the same way. The posterior
mean is M + M o (K (M o a) K) where M o (K (M o a) K) + (noise / tau)^2 o a = F - M, by conjugate gradients. The noise
may differ from cell to cell, so that sums that were released twice are weighed by what each is worth.
All of it is post-processing of what was noised already.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray
from scipy import linalg
from scipy.special import logsumexp

from fedrec.data.catalogue import Catalogue
from fedrec.data.item_features import feature_vectors
from fedrec.messages import Arrays
from fedrec.models.item_kernels import Block, Rows
from fedrec.models.transitions import CHUNK, LARGEST_EXCESS, LEAST, LEAST_EXPECTED, TransitionPrior, unfolded

Doubles = NDArray[np.float64]
SPREADS = (0.2, 0.3, 0.45, 0.6, 0.8, 1.0, 1.2, 1.4, 1.7, 2.0)  # standard deviations of the factor's logarithm
STEPS = np.linspace(-4.0, 3.0, 71)  # the factor's logarithm, in units that every spread reaches
LEAST_OF_MEAN = 0.1  # of the mean: no prior mean is below


def posterior_mean(noisy: Doubles, std: float, prior: Doubles) -> Doubles:
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


def shrink_counts(noisy: Doubles, std: float, features: Doubles, base: Doubles | None = None) -> Doubles:
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
RIDGE = 1e-6  # of each feature's own square: only keeps equal features apart
LEAN_SCALE = 2 / 3  # of the prior's scale: how much less directions differ from what is expected
STEPS_OF_SOLVER, TOLERANCE = 25, 1e-3
CROWDED = 0.6  # exponent of the counts that hold popular columns back where cells are chosen


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
class PairSums:
    """Noisy sums over pairs of head items [H, H], in units of what popularity expects.

    `both` is symmetric, `ascending` antisymmetric. `noise` is the standard deviation on `both`, one number or one a
    cell; on `ascending`, which was sent with the weight `direction`, it is noise / direction.
    """

    both: Floats
    ascending: Floats
    noise: float | Floats
    direction: float

    @classmethod
    def of(cls, parts: tuple[Floats, Floats], noise: float, direction: float, base: Floats) -> Self:
        """Return the sums of flat triangles as they were sent, scaled to `base` [H, H]."""
        both, ascending = (unfolded(part, len(base)) for part in parts)
        both, ascending = both + both.T, ascending - ascending.T
        unit = max(float((both * base).sum() / max(float((base * base).sum()), 1e-30)), 1e-12)
        return cls(both / np.float32(unit), ascending / np.float32(unit * direction), noise / unit, direction)

    def joined(self, cells: NDArray[np.int64], parts: tuple[Floats, Floats], noise: float, known: Floats) -> Self:
        """Return these sums with those of flat `cells` weighed in by their precision.

        The cells' own sums are in units of their own: they are brought to the scale of what is `known` of them [n].
        """
        unit = float(parts[0] @ known) / max(float(known @ known), 1e-30)
        if noise == 0 or unit <= 0:  # nothing is added to what is exact, nor by what is noise alone
            return self
        there = np.zeros(len(self.both) * (len(self.both) - 1) // 2, np.float32)
        found = list[Floats]()
        for part in (*parts, np.ones_like(known)):
            flat = there.copy()
            flat[cells] = part
            found.append(unfolded(flat, len(self.both)))
        both, ascending, inside = found[0] + found[0].T, found[1] - found[1].T, found[2] + found[2].T
        mine, other = np.float32(1) / np.square(self.noise), inside * np.float32((unit / noise) ** 2)
        total = mine + other
        return type(self)(
            ((self.both * mine + both / np.float32(unit) * other) / total).astype(np.float32),
            ((self.ascending * mine + ascending / np.float32(unit * self.direction) * other) / total).astype(
                np.float32
            ),
            (total**-0.5).astype(np.float32),
            self.direction,
        )


@dataclass(frozen=True, slots=True)
class FactorPrior:
    """How the factor differs from one, pair by pair: tau^2 K (x) K, `kernel` K [H, H] with a diagonal of ones."""

    kernel: Floats
    scale: float

    @classmethod
    def of(cls, expectation: TransitionPrior, head: Rows, own: float, scale: float) -> Self:
        """Return the prior over the head; `own` is the part of an item that public features don't share."""
        kernels = [kernel.block(head, head) for kernel in expectation.kernels.values()]
        shared = np.mean(kernels, axis=0) if kernels else np.zeros((len(head), len(head)), np.float32)
        kernel = own * np.eye(len(head)) + (1 - own) * shared
        size = np.sqrt(np.diag(kernel))
        return cls((kernel / np.outer(size, size)).astype(np.float32), scale)

    def change(self, residual: Floats, mean: Floats, noise: float | Floats) -> Floats:
        """Return the posterior mean of mean o G, seen as residual [H, H] = mean o G + noise but on the diagonal."""
        if not np.any(noise):
            return residual
        ratio = np.where(mean > 0, np.square(np.float32(1 / self.scale) * noise), 0).astype(np.float32)
        seen = np.where(mean > 0, residual, 0).astype(np.float32)
        inverse = np.reciprocal(np.where(mean > 0, mean * mean + ratio, 1), dtype=np.float32)

        def explained(a: Floats) -> Floats:
            inner = self.kernel @ (mean * a) @ self.kernel
            return (mean * inner).astype(np.float32, copy=False)

        a = (seen * inverse).astype(np.float32, copy=False)
        left = seen - explained(a) - ratio * a
        step = (inverse * left).astype(np.float32, copy=False)
        product, enough = float((left * step).sum()), TOLERANCE**2 * float((seen * a).sum())
        for _ in range(STEPS_OF_SOLVER):
            if product <= enough:
                break
            image = explained(step) + ratio * step
            size = np.float32(product / float((step * image).sum()))
            a, left = (a + size * step).astype(np.float32, copy=False), left - size * image
            next_step = inverse * left
            before, product = product, float((left * next_step).sum())
            step = (next_step + np.float32(product / before) * step).astype(np.float32, copy=False)
        return explained(a)


CENTRES = 40  # bumps over each number among the features that counts are expected from


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


def expected_of_popularity(expectation: TransitionPrior, head: Rows) -> Floats:
    """Return what popularity alone expects over the head [H, H], nothing on the diagonal."""
    base = expectation.base(head, head)
    np.fill_diagonal(base, 0)
    return base


def fit_prior_means(expectation: TransitionPrior, head: Rows, sums: PairSums) -> tuple[Floats, Floats]:
    """Return the coefficients of what public features expect: of either order, and of the direction."""
    return (
        fit_prior_mean(sums.both, expectation.symmetric, expectation, head),
        fit_prior_mean(sums.ascending, expectation.antisymmetric, expectation, head),
    )


def estimate_transitions(
    expectation: TransitionPrior, head: Rows, sums: PairSums, weights: tuple[Floats, Floats], prior: FactorPrior
) -> Arrays:
    """Return both parts of the transitions over the head, flat, from sums and what the coefficients expect."""
    base = expected_of_popularity(expectation, head)
    mean, lean = expectation.expected(weights, head, head)
    mean = np.maximum(mean, LEAST_EXPECTED * base)
    for part in (mean, lean):
        np.fill_diagonal(part, 0)
    both = mean + prior.change(sums.both - mean, mean, sums.noise)
    leaning, noise = FactorPrior(prior.kernel, LEAN_SCALE * prior.scale), np.float32(1 / sums.direction) * sums.noise
    lean = lean + leaning.change(sums.ascending - lean, mean, noise)  # pyright: ignore[reportArgumentType]
    both, upper = np.maximum(both, LEAST * base), np.triu_indices(len(head), 1)
    lean = np.clip(lean, -LARGEST_EXCESS * both, LARGEST_EXCESS * both)
    return {"symmetric": both[upper], "antisymmetric": lean[upper]}


def choose_cells(both: Floats, counts: Floats, most: int) -> NDArray[np.int64]:
    """Return the flat places of the `most` most promising pairs of the head, ascending.

    Each row ranks its columns by both[i, j] / counts[j]^.6, from a flat triangle of estimates; a pair is as promising
    as the better of its two ranks says, and among equals as its larger value.
    """
    size = len(counts)
    square = unfolded(both, size)
    value = (square + square.T) / counts[None].astype(np.float32) ** np.float32(CROWDED)
    np.fill_diagonal(value, -1)
    rank = np.empty((size, size), np.int32)
    np.put_along_axis(rank, np.argsort(-value, axis=1, kind="stable"), np.arange(size, dtype=np.int32)[None], axis=1)
    upper = np.triu_indices(size, 1)
    best, most_of = np.minimum(rank, rank.T)[upper], np.maximum(value, value.T)[upper]
    return np.sort(np.lexsort((-most_of, best))[:most])
