"""Banded Toeplitz strategies for correlated noise: their sensitivity, their error, and the best one for a plan.

Choquette-Choo et al., "(Amplified) banded matrix factorization: a unified approach to private training", 2023. The
lower-triangular Toeplitz matrix C has the coefficients c_0 = 1, c_1, ... on its bands; what is released is x + C^-1 z
for a sum x a round and white noise z. Two rounds of one device lie at least `separation` apart, and there are no more
bands than that: the columns of C that one device touches then share no row, so that their squared norms add up.
"""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.signal import lfilter

Coefficients = NDArray[np.float64]


def squared_sensitivity(coefficients: Coefficients, rounds: int, separation: int, at_most: int | None = None) -> float:
    """Return the largest squared norm of the columns that one device can touch in the first `rounds` rows of C.

    Taking part as early as the separation allows is the worst: a column loses what lies below the last row. For at
    most as many coefficients as `separation`; `at_most` is the largest number of participations, all where null.
    """
    norms = np.concatenate([[0.0], np.cumsum(np.square(coefficients))])
    left = np.arange(rounds, 0, -separation)[:at_most]  # rows from each participation to the end
    return float(norms[np.minimum(left, len(coefficients))].sum())


def squared_error(coefficients: Coefficients, rounds: int) -> float:
    """Return the variance of the noise in the sum of all rounds so far, its mean over rounds, for unit white noise."""
    running = filtered(coefficients, np.ones(rounds))  # the running sum's coefficients: 1 / ((1 - x) c(x))
    return float(np.square(running) @ np.arange(rounds, 0, -1)) / rounds


def gain(coefficients: Coefficients, rounds: int, separation: int) -> float:
    """Return how many times smaller the error (standard deviation) is than with independent noise at the same cost."""
    alone = np.ones(1)
    cost = [squared_sensitivity(c, rounds, separation) * squared_error(c, rounds) for c in (alone, coefficients)]
    return float(np.sqrt(cost[0] / cost[1]))


def filtered(coefficients: Coefficients, values: Coefficients) -> Coefficients:
    """Return C^-1 applied to values [rounds], by the recurrence that the bands define."""
    return np.asarray(lfilter([1.0], coefficients, values), np.float64)


@lru_cache(maxsize=32)
def best(rounds: int, bands: int, separation: int) -> tuple[float, ...]:
    """Return the coefficients with the least error at a given cost, found from those of the square root of the sums."""
    start = np.cumprod(np.concatenate([[1.0], (np.arange(1, bands) - 0.5) / np.arange(1, bands)]))
    if bands == 1:
        return (1.0,)
    weights, left = np.arange(rounds, 0, -1), np.arange(rounds, 0, -separation)
    touched = np.array([float((left > band).sum()) for band in range(bands)])  # columns of a device that hold the band

    def logarithm(tail: Coefficients) -> tuple[float, Coefficients]:
        c = np.concatenate([[1.0], tail])
        running = filtered(c, np.ones(rounds))
        error, cost = float(np.square(running) @ weights), float(touched @ np.square(c))
        # d error / d c_k: the adjoint of the recurrence, run backwards.
        adjoint = filtered(c, (2 * weights * running)[::-1])[::-1]
        slope = np.array([-(adjoint[k:] @ running[: rounds - k]) for k in range(1, bands)])
        return np.log(error) + np.log(cost), slope / error + 2 * (touched * c)[1:] / cost

    found = minimize(logarithm, start[1:], jac=True, method="L-BFGS-B", options={"maxiter": 500})
    return (1.0, *(float(value) for value in found.x))
