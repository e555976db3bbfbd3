"""Losses on logits [..., 1+k], positive first: one value per interaction [...]."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from fedrec.errors import FedrecError, nearest

Loss = Callable[[Tensor, Tensor], Tensor]


def bce(logits: Tensor, values: Tensor) -> Tensor:
    """Binary cross-entropy, summed over the positive and its negatives (He et al. 2017, eq. 7)."""
    target = torch.zeros_like(logits)
    target[..., 0] = 1.0
    return functional.binary_cross_entropy_with_logits(logits, target, reduction="none").sum(dim=-1)


def bpr(logits: Tensor, values: Tensor) -> Tensor:
    """Bayesian personalised ranking, summed over the negatives of each positive (Rendle et al. 2009)."""
    return functional.softplus(logits[..., 1:] - logits[..., :1]).sum(dim=-1)


def mse(logits: Tensor, values: Tensor) -> Tensor:
    """Squared error on the rating of the positive; negatives play no part."""
    return (logits[..., 0] - values) ** 2


LOSSES: dict[str, Loss] = {"bce": bce, "bpr": bpr, "mse": mse}


def loss_named(name: str) -> Loss:
    """Return the loss of that name."""
    if name not in LOSSES:
        raise FedrecError(f"model.loss={name} is not a loss.{nearest(name, LOSSES)}")
    return LOSSES[name]
