"""Noise of the steps of DP-SGD that waits: the law of a draw a step, with few draws.

The rest of a step of plain gradient descent is linear, so that noise on a row that nothing reads can be drawn later,
for all steps at once (for centralised training: Ren et al., "LazyDP", 2024). For models of any layers,
`fedrec.training.vectorized.stacked_model` does the same.

Shapes: C devices, P steps, M rows that are due, V items, d dimensions.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedrec.privacy.grid import Grid
from fedrec.privacy.mechanisms.protocol import DPSGDConfig, NoiseSource
from fedrec.privacy.step_grid import summed_noise
from fedrec.training.kernels.places import Due, Places

DEVIATIONS = 14  # of noise that a sum may hold
WholeKind = type[np.int32] | type[np.int64]
Whole = NDArray[Any]


class LateNoise:
    """The noise of DP-SGD's steps for the devices of one sum, whole numbers on the grid of each array.

    Of item rows it waits until a row is read; what is never read, and the last step's on all else that is shared, is
    drawn once for the sum of all devices.
    """

    def __init__(self, public: DPSGDConfig, rate: float, items: int, random: NoiseSource) -> None:
        self.grid, self.steps = public.grid(), public.local_steps
        self._rate, self._denominator, self._random = rate, public.denominator, random
        self._variances = {
            grid: grid.variance(public.noise_multiplier) for grid in (self.grid.vectors, self.grid.products)
        }
        self._done, self._devices = np.zeros(items, np.int64), 0

    def unit(self, grid: Grid) -> float:
        """Return what a whole step of a grid moves a parameter by."""
        return grid.step * self._rate / self._denominator

    def kind(self, places: Places, products: bool = False) -> WholeKind:
        """Return the whole numbers that hold a device's sums of examples, each at most one clip, and of all noise."""
        grid, passes = self.grid.products if products else self.grid.vectors, self.steps
        examples = int((places.passes[passes::passes] - places.passes[:-1:passes]).max(initial=0))
        noise = DEVIATIONS * (math.isqrt(self._variances[grid] * passes) + 1)
        return np.int32 if examples * grid.length + noise < 1 << 31 else np.int64

    def of_steps(self, shape: tuple[int, ...], kind: WholeKind, products: bool = False) -> Whole:
        """Return the noise of one step for each number."""
        grid = self.grid.products if products else self.grid.vectors
        return self._random.discrete_gaussian(shape, self._variances[grid]).astype(kind, copy=False)

    def of_rows(self, due: Due, columns: int, kind: WholeKind) -> Whole:
        """Return the noise of the rows that are due [M, columns]."""
        drawn = summed_noise(self._random, due.counts, (columns,), self._variances[self.grid.vectors])
        return drawn.astype(kind, copy=False)

    def note(self, places: Places, due: Due, devices: int) -> None:
        """Note up to which step each row of a tile has its noise."""
        self._done += np.bincount(places.item, due.read, len(self._done)).astype(np.int64)
        self._devices += devices

    def remaining(
        self, rows: Mapping[str, tuple[int, ...]], dense: Mapping[str, tuple[int, ...]], products: frozenset[str]
    ) -> dict[str, Tensor]:
        """Return, for the sum over all devices, the noise that nothing has got yet, by name.

        `rows` are the shapes of what items have, `dense` of all else; `products` lie on the finer grid.
        """
        left = (self.steps * self._devices - self._done).clip(min=0)
        drawn = {n: self._summed(left, width, self.grid.vectors) for n, width in rows.items()}
        for name, shape in dense.items():
            grid = self.grid.products if name in products else self.grid.vectors
            drawn[name] = self._summed(np.array([self._devices]), shape, grid)[0]
        return {name: torch.from_numpy(whole).double() for name, whole in drawn.items()}

    def _summed(self, counts: NDArray[np.int64], shape: tuple[int, ...], grid: Grid) -> Whole:
        return summed_noise(self._random, counts, shape, self._variances[grid])
