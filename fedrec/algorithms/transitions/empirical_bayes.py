"""Noisy counts made into positive ones: empirical Bayes with public features, at no cost of privacy.

A count is prior mean times a log-normal factor. The prior mean is a ridge regression of the noisy counts on public
features; the factor's spread is the one under which the noisy counts are most likely (marginal likelihood); what is
returned is the posterior mean. All of it only looks at what was noised already.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

Floats = NDArray[np.float64]
SPREADS = (0.2, 0.3, 0.45, 0.6, 0.8, 1.0, 1.2, 1.4, 1.7, 2.0)  # standard deviations of the factor's logarithm
STEPS = np.linspace(-4.0, 3.0, 71)  # the factor's logarithm, in units that every spread reaches
LEAST = 0.1  # of the mean: no prior mean is below


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


def shrunk(noisy: Floats, std: float, features: Floats, base: Floats | None = None) -> Floats:
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
    least = LEAST * (max(float(noisy.mean()), std / np.sqrt(len(noisy))) if base is None else base)
    return posterior_mean(noisy, std, np.maximum(fitted, least))
