"""Bootstrap intervals over users."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedrec.errors import FedrecError

RESAMPLES = 1000
LEVEL = 0.95


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean and the percentile interval around it."""

    mean: float
    low: float
    high: float


def intervals(values: NDArray[np.floating], seed: int = 0) -> list[Interval]:
    """Return the 95 % percentile interval of the mean of each column of `values[users, m]`.

    1000 resamples of users, the same for every column. One user gives an interval of width 0, none NaN.
    """
    users = len(values)
    if users == 0:
        return [Interval(np.nan, np.nan, np.nan)] * values.shape[1]
    generator = np.random.default_rng(seed)
    means = np.empty((RESAMPLES, values.shape[1]))
    for line in means:
        drawn = np.bincount(generator.integers(0, users, users), minlength=users)
        line[:] = drawn @ values / users
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    return [Interval(float(m), float(a), float(b)) for m, a, b in zip(values.mean(0), low, high, strict=True)]


def paired_interval(a: NDArray[np.floating], b: NDArray[np.floating], seed: int = 0) -> Interval:
    """Return the mean of `a - b` per user and its 95 % interval; both hold the same users in the same order."""
    if a.shape != b.shape or a.ndim != 1:
        raise FedrecError(f"a paired interval needs one value per user on both sides; shapes are {a.shape}, {b.shape}")
    return intervals((np.asarray(a, np.float64) - b)[:, None], seed)[0]
