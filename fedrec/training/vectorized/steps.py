"""One step of all devices of a tile, and noise that waits for the rows that need it.

A batch is (rows [c, b, 1+k], values [c, b], how many of each line are real [c]). Lazy noise is drawn for a row when it
is read, and once for all devices where it never is. Shapes: V items, R rows of a tile, C devices.
"""

import torch
from torch import Tensor

from fedrec.privacy.mechanisms.protocol import DPSGDConfig, NoiseSource
from fedrec.training.config import LocalTrainingConfig
from fedrec.training.vectorized.layers import CLIP_SLACK
from fedrec.training.vectorized.stacked_model import StackedModel

Batch = tuple[Tensor, Tensor, Tensor]


def plain_step(twin: StackedModel, batch: Batch, settings: LocalTrainingConfig, loss: Tensor) -> None:
    """Descend the mean of each device's losses, or their sum over the denominator; add the sums to `loss` [C]."""
    rows, values, real = batch
    losses = twin.losses(rows, values, each=False)
    there = _there(rows, real, losses)
    share = there / (settings.denominator or there.sum(1, keepdim=True).clamp(min=1))
    losses.backward(share.mul_(-settings.learning_rate))  # slopes are then what is to be added
    for layer in twin.used():
        layer.apply_step(None)
    loss[: len(rows)] += torch.where(there > 0, losses.detach(), 0.0).sum(1)


def clipped_step(twin: StackedModel, batch: Batch, public: DPSGDConfig, rate: float, loss: Tensor) -> None:
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
    norms = torch.stack([layer.squared_grad_norms() for layer in layers]).sum(0).sqrt()  # [c, b]
    broken = ~torch.isfinite(norms)
    if bool(broken.any()):
        for layer in layers:
            layer.mask_examples(broken)
        there = there.masked_fill(broken, 0.0)
    factors = torch.where(broken, 0.0, (public.clip / (norms + CLIP_SLACK)).clamp(max=1.0)) * there * -rate
    for layer in layers:
        layer.apply_step(factors)
    loss[: len(rows)] += torch.where(there > 0, losses.detach(), 0.0).sum(1)


def _there(rows: Tensor, real: Tensor, losses: Tensor) -> Tensor:
    """Return 1 for each example [c, b] that is one, 0 for what only fills the line, in the type of the losses."""
    return (torch.arange(rows.shape[1], device=rows.device) < real.unsqueeze(1)).to(losses.dtype)


class NoiseSampler:
    """Draws of a mechanism's source, as tensors where the model computes."""

    def __init__(self, random: NoiseSource, device: torch.device) -> None:
        self._random, self._device = random, device

    def __call__(self, shape: tuple[int, ...], std: float) -> Tensor:
        """Return N(0, std^2) draws of this shape."""
        return torch.from_numpy(self._random.gaussian(shape, std)).to(self._device, torch.float32)


class LazyNoise:
    """The noise of item rows over the `local_steps` of DP-SGD, `std` a step, for the devices of one sum."""

    def __init__(
        self, twin: StackedModel, items: int, public: DPSGDConfig, rate: float, gaussian: NoiseSampler
    ) -> None:
        self.std, self.gaussian = rate * public.noise_multiplier * public.clip, gaussian
        self._stacked, self._steps, self._devices = twin, public.local_steps, 0
        self._done = torch.zeros(items, dtype=torch.float64, device=twin.device)  # steps whose noise was drawn, summed

    def tile(self, items: Tensor, devices: int) -> None:
        """Begin with the rows [R] of the next tile."""
        self._items, self._read = items, items.new_zeros(len(items))
        self._devices += devices

    def read(self, rows: Tensor, step: int) -> None:
        """Before step 0, 1, ... reads `rows`, add to them the noise of the steps since they were read last."""
        touched = torch.zeros(len(self._read), dtype=torch.bool, device=rows.device)
        touched[rows.reshape(-1)] = True
        due = torch.nonzero(touched & (self._read < step)).squeeze(1)
        if len(due):
            scale = (step - self._read[due]).sqrt()
            for table in self._stacked.item_tables():
                drawn = self.gaussian((len(due), *table.shape[1:]), self.std)
                table.index_add_(0, due, (drawn * scale.view(-1, *(1,) * (drawn.dim() - 1))).to(table))
            self._read[due] = step

    def end(self) -> None:
        """Finish the tile."""
        self._done.index_add_(0, self._items, self._read.double())

    def remaining(self) -> dict[str, Tensor]:
        """Return, for the sum over all devices, the noise that no row has got yet: [V, ...] by name."""
        std = self.std * (self._steps * self._devices - self._done).clamp(min=0).sqrt()  # [V]
        return {
            name: self.gaussian((len(std), *shape[1:]), 1.0).double() * std.view(-1, *(1,) * (len(shape) - 1))
            for name, shape in self._stacked.shapes.items()
            if name in self._stacked.by_item
        }
