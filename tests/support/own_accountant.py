"""An accountant of its own, written from the papers: it shares no line with the one that it is held against.

What goes in is what was executed: how far one unit moved a sum, the variance of the noise on it, both in whole steps of
a grid, and how often the unit was drawn.

- Noise D(v), the discrete Gaussian of variance parameter v, on whole numbers: it hides what N(0, v - 6) hides, because
  rounding a real number at random by a discrete Gaussian of parameter 6 makes one of the other (Poisson summation).
  `discrete_delta` computes the delta of one number exactly, to hold that against.
- Gaussians that always take part: mu^2 = sum of (moved / deviation)^2, and delta(epsilon) = Phi(mu / 2 - epsilon / mu)
  - e^epsilon Phi(-mu / 2 - epsilon / mu) (Balle & Wang, "Improving the Gaussian mechanism", 2018).
- Poisson samples: the privacy loss of (1 - q) N(0, s^2) + q N(1, s^2) against N(0, s^2), in both directions, put on a
  grid of losses, always upwards, and convolved (Koskela, Jaelkoe & Honkela, "Computing tight differential privacy
  guarantees using FFT", 2020; Zhu, Dong & Wang, "Optimal accounting of differential privacy via characteristic
  function", 2022, for the two directions).
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.signal import fftconvolve
from scipy.special import ndtr

Losses = tuple[int, NDArray[np.float64]]  # the first loss in steps, and the probability of each from there on
STEP = 1e-4  # of the grid of losses
SMOOTHING = 6
FAR = 12.0  # deviations beyond which all probability counts as certainly lost


def moved_by(steps: float, variance: int) -> float:
    """Return mu of one release: how many deviations one unit moves it."""
    return steps / math.sqrt(variance - SMOOTHING)


def gaussian_delta(mu: float, epsilon: float) -> float:
    """Return delta of the Gaussian mechanism at epsilon."""
    return float(ndtr(mu / 2 - epsilon / mu) - math.exp(epsilon) * ndtr(-mu / 2 - epsilon / mu))


def discrete_delta(steps: int, variance: int, epsilon: float) -> float:
    """Return delta at epsilon of one number with noise D(variance), moved by whole steps: the sum itself."""
    reach = int(40 * math.sqrt(variance)) + abs(steps)
    k = np.arange(-reach, reach + 1, dtype=np.float64)
    weights = np.exp(-(k**2) / (2 * variance))
    moved = np.exp(-((k - steps) ** 2) / (2 * variance))
    return float(np.maximum(moved - math.exp(epsilon) * weights, 0).sum() / weights.sum())


def sampled_losses(mu: float, rate: float, removed: bool) -> Losses:
    """Return the privacy losses of one Gaussian on a Poisson sample, added or `removed`, rounded up to the grid."""
    deviation = 1 / mu
    x = np.linspace(-FAR * deviation, FAR * deviation + 1, 400_001)
    loss = np.log1p(rate * np.expm1((2 * x - 1) / (2 * deviation**2)))
    without, with_it = ndtr(x / deviation), (1 - rate) * ndtr(x / deviation) + rate * ndtr((x - 1) / deviation)
    mass = np.diff(without if removed else with_it)
    # The loss rises with x: its larger end in each cell is an upper bound.
    steps = np.ceil((-loss[:-1] if removed else loss[1:]) / STEP).astype(np.int64)
    first = int(steps.min())
    return first, np.bincount(steps - first, weights=mass).astype(np.float64)


def composed(parts: Sequence[Losses]) -> Losses:
    """Return the losses of independent releases together."""
    first, total = parts[0]
    for start, more in parts[1:]:
        first, total = first + start, np.maximum(fftconvolve(total, more), 0)
    return first, total


def losses_delta(losses: Losses, epsilon: float) -> float:
    """Return delta at epsilon; what the grid does not hold counts in full."""
    first, mass = losses
    loss = STEP * (first + np.arange(len(mass)))
    above = loss > epsilon
    return float((mass[above] * -np.expm1(epsilon - loss[above])).sum() + max(0.0, 1 - mass.sum()))


def epsilon_at(delta: float, releases: Sequence[tuple[float, float]]) -> float:
    """Return the least epsilon at delta of releases (mu, rate of the unit's draws), to 1e-6."""
    if all(rate == 1 for _, rate in releases):
        mu = math.sqrt(math.fsum(mu**2 for mu, _ in releases))
        curves = [lambda epsilon: gaussian_delta(mu, epsilon)]
    else:
        both = [composed([sampled_losses(mu, rate, removed) for mu, rate in releases]) for removed in (False, True)]
        curves = [lambda epsilon, losses=losses: losses_delta(losses, epsilon) for losses in both]
    low, high = 0.0, 100.0
    while high - low > 1e-6:
        middle = (low + high) / 2
        low, high = (middle, high) if max(curve(middle) for curve in curves) > delta else (low, middle)
    return high
