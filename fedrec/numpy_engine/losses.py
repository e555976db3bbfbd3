"""Losses on logits [B, 1+k], positive first, and their derivatives: the NumPy side of `fedrec.models.losses`."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedrec.errors import FedrecError, nearest

Floats = NDArray[Any]
LossAndSlope = Callable[[Floats, Floats], tuple[Floats, Floats]]  # (logits, values) -> (loss [B], d loss / d logits)


def sigmoid(logits: Floats) -> Floats:
    """Return 1 / (1 + exp(-logits)) without overflow."""
    return 0.5 * (1.0 + np.tanh(0.5 * logits))


def bce(logits: Floats, values: Floats) -> tuple[Floats, Floats]:
    """Binary cross-entropy, summed over the positive and its negatives (He et al. 2017, eq. 7)."""
    slope = sigmoid(logits)
    slope[:, 0] -= 1.0
    return np.logaddexp(0.0, logits).sum(1) - logits[:, 0], slope


def bpr(logits: Floats, values: Floats) -> tuple[Floats, Floats]:
    """Bayesian personalised ranking, summed over the negatives of each positive (Rendle et al. 2009)."""
    margin = logits[:, 1:] - logits[:, :1]
    negative = sigmoid(margin)
    return np.logaddexp(0.0, margin).sum(1), np.concatenate([-negative.sum(1, keepdims=True), negative], axis=1)


def mse(logits: Floats, values: Floats) -> tuple[Floats, Floats]:
    """Squared error on the rating of the positive; negatives play no part."""
    error, slope = logits[:, 0] - values, np.zeros_like(logits)
    slope[:, 0] = 2.0 * error
    return error**2, slope


LOSSES: dict[str, LossAndSlope] = {"bce": bce, "bpr": bpr, "mse": mse}


def loss_named(name: str) -> LossAndSlope:
    """Return the loss of that name."""
    if name not in LOSSES:
        raise FedrecError(f"model.loss={name} is not a loss.{nearest(name, LOSSES)}")
    return LOSSES[name]
