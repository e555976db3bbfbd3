"""From noisy sums of order statistics to what the model takes: positive counts, freshness, transitions."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedrec.algorithms.transitions.empirical_bayes import shrunk
from fedrec.algorithms.transitions.smoothing import Prior, regression
from fedrec.data.catalogue import Catalogue
from fedrec.models.item_features import feature_vectors
from fedrec.models.transition_prior import Expectation
from fedrec.models.transitions import LARGEST_EXCESS, LEAST, LEAST_EXPECTED, unfolded
from fedrec.update import Arrays

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


def estimated_counts(catalogue: Catalogue, sums: dict[str, NDArray[np.float64]], stds: dict[str, float]) -> Arrays:
    """Return positive `counts[V]`, and `freshness[V]`: how much more of an item's use is late than of others'.

    Freshness is 0 where no counts of late items were sent.
    """
    features = count_features(catalogue)
    counts = shrunk(sums["counts"], stds["counts"], features)
    freshness = np.zeros(len(counts))
    if "late" in sums:
        usual = counts * max(float(sums["late"].sum()), 1e-12) / counts.sum()
        freshness = np.log(shrunk(sums["late"], stds["late"], features, usual) / usual)
        freshness = np.clip(freshness, -3.0, 3.0)
    return {"counts": counts.astype(np.float32), "freshness": freshness.astype(np.float32)}


def count_features(catalogue: Catalogue) -> NDArray[np.float64]:
    """Return the public features of items that their counts are expected from, a constant among them [V, F]."""
    vectors = feature_vectors(catalogue, CENTRES).astype(np.float64)
    return np.concatenate([np.ones((len(catalogue), 1)), vectors], axis=1)


def estimated(
    expectation: Expectation, head: NDArray[np.int64], sums: Sums, own: float, prior_scale: float | None
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
        regression(both, expectation.symmetric, expectation, head),
        regression(ascending, expectation.antisymmetric, expectation, head),
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
