"""One step of all devices of a tile.

A batch is (rows [c, b, 1+k], values [c, b], how many of each line are real [c]).
"""

import torch
from torch import Tensor

from fedrec.privacy.mechanisms.protocol import DpSgd, LocalSettings
from fedrec.training.vectorized.layers import CLIP_SLACK
from fedrec.training.vectorized.stacked_model import Twin

Batch = tuple[Tensor, Tensor, Tensor]


def plain_step(twin: Twin, batch: Batch, settings: LocalSettings, loss: Tensor) -> None:
    """Descend the mean of each device's losses, or their sum over the denominator; add the sums to `loss` [C]."""
    rows, values, real = batch
    losses = twin.losses(rows, values, each=False)
    there = _there(rows, real, losses)
    share = there / (settings.denominator or there.sum(1, keepdim=True).clamp(min=1))
    losses.backward(share.mul_(-settings.learning_rate))  # slopes are then what is to be added
    for layer in twin.used():
        layer.move(None)
    loss[: len(rows)] += torch.where(there > 0, losses.detach(), 0.0).sum(1)


def clipped_step(twin: Twin, batch: Batch, public: DpSgd, rate: float, loss: Tensor) -> None:
    """Descend the sum of each device's clipped gradients by `rate`; add the sums of the losses to `loss` [C].

    An example whose gradient is not finite counts for nothing, and the others as if it had not been there.
    """
    rows, values, real = batch
    if not rows.shape[1]:
        return
    losses = twin.losses(rows, values)
    there = _there(rows, real, losses)
    losses.backward(there)
    layers = twin.used()
    norms = torch.stack([layer.squares() for layer in layers]).sum(0).sqrt()  # [c, b]
    broken = ~torch.isfinite(norms)
    if bool(broken.any()):
        for layer in layers:
            layer.drop(broken)
        there = there.masked_fill(broken, 0.0)
    factors = torch.where(broken, 0.0, (public.clip / (norms + CLIP_SLACK)).clamp(max=1.0)) * there * -rate
    for layer in layers:
        layer.move(factors)
    loss[: len(rows)] += torch.where(there > 0, losses.detach(), 0.0).sum(1)


def _there(rows: Tensor, real: Tensor, losses: Tensor) -> Tensor:
    """Return 1 for each example [c, b] that is one, 0 for what only fills the line, in the type of the losses."""
    return (torch.arange(rows.shape[1], device=rows.device) < real.unsqueeze(1)).to(losses.dtype)
