"""Noise of the steps of DP-SGD that waits: the law of a draw a step, with few draws.

The rest of a step of plain gradient descent is linear, so that noise on a row that nothing reads can be drawn later,
for all steps at once (for centralised training: Ren et al., "LazyDP", 2024). For models of any layers,
`fedrec.training.vectorized.stacked_model` does the same.

Shapes: C devices, P steps, M rows that are due, V items, d dimensions.
"""

import math

import numpy as np
import torch
from torch import Tensor

from fedrec.privacy.mechanisms.protocol import DPSGDConfig, NoiseSource
from fedrec.privacy.step_grid import summed_noise
from fedrec.training.kernels.places import Due, Places
from fedrec.training.kernels.private_dot_product import Noise

DEVIATIONS = 14  # of noise that a sum may hold
WholeKind = type[np.int32] | type[np.int64]


class LateNoise:
    """The noise of DP-SGD's steps for the devices of one sum, whole numbers on the grid of vectors.

    Of item rows it waits until a row is read; what is never read is drawn once for the sum of all devices. `unit` is
    what a whole step of the grid moves a parameter by.
    """

    def __init__(self, public: DPSGDConfig, rate: float, items: int, random: NoiseSource) -> None:
        self.public, self.grid, self._random = public, public.grid().vectors, random
        self.unit = self.grid.step * rate / public.denominator
        self._variance = self.grid.variance(public.noise_multiplier)
        self._done, self._devices = np.zeros(items, np.int64), 0

    def kind(self, examples: int) -> WholeKind:
        """Return the whole numbers that hold the sums of so many places of examples and the noise of all steps."""
        noise = DEVIATIONS * (math.isqrt(self._variance * self.public.local_steps) + 1)
        return np.int32 if examples * self.grid.length + noise < 1 << 31 else np.int64

    def draw(self, due: Due, shape: tuple[int, ...], columns: int, kind: WholeKind) -> Noise:
        """Return the noise of user vectors [C, P, d] and of the rows that are due, [M, columns] and [M]."""
        users = self._random.discrete_gaussian((shape[0], self.public.local_steps, shape[1]), self._variance)
        rows, bias = (summed_noise(self._random, due.counts, (width,), self._variance) for width in (columns, 1))
        return Noise(users.astype(kind, copy=False), rows.astype(kind, copy=False), bias[:, 0].astype(kind))

    def note(self, places: Places, due: Due, devices: int) -> None:
        """Note up to which step each row of a tile has its noise."""
        self._done += np.bincount(places.item, due.read, len(self._done)).astype(np.int64)
        self._devices += devices

    def remaining(self, widths: dict[str, tuple[int, ...]]) -> dict[str, Tensor]:
        """Return, for the sum over all devices, the noise that nothing has got yet, by name."""
        left = (self.public.local_steps * self._devices - self._done).clip(min=0)
        drawn = {n: summed_noise(self._random, left, width, self._variance) for n, width in widths.items()}
        return {name: torch.from_numpy(whole).double() for name, whole in drawn.items()}
