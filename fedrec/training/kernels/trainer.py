"""What the engine asks of a kernel: to train the devices of a tile on places that were drawn.

Shapes: C devices, P passes, R rows that the devices of a tile touch, V items.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from fedrec.errors import FedrecError
from fedrec.messages import Arrays
from fedrec.models.base import TrainableRecommender
from fedrec.training.batches import LocalTrainingConfig
from fedrec.training.kernels.forms import CRITERIA
from fedrec.training.kernels.late_noise import LateNoise
from fedrec.training.kernels.places import Due, Places
from fedrec.training.kernels.rows import Changes

Sent = TypeVar("Sent")


@dataclass(frozen=True, slots=True)
class Trained:
    """What came of a tile: private arrays [C, ...], losses [C], changes of `rows` [R, d] and `dense` ones [C, ...].

    Changes after DP-SGD are whole numbers, the sums of all steps.
    """

    private: Arrays
    loss: NDArray[np.float64]
    rows: Mapping[str, Changes]
    dense: Mapping[str, Changes]


class Trainer(ABC, Generic[Sent]):
    """Trains by the compiled loops of one closed form. `Sent` is what it makes of the arrays that devices start from.

    `products` are the arrays on the finer grid of DP-SGD.
    """

    products: frozenset[str] = frozenset()

    def __init__(self, model: TrainableRecommender, settings: LocalTrainingConfig) -> None:
        self.settings, self.loss = settings, CRITERIA.index(model.criterion)
        self.shapes = {name: array.shape for name, array in model.shared_arrays().items()}
        self.by_item = {name for name in self.shapes if name in model.by_item}

    @property
    def numbers(self) -> tuple[int, int]:
        """How many numbers learn of a row, and of a device besides."""
        rows = sum(self.shapes[name][1] for name in self.by_item)
        return rows, sum(prod(shape) for name, shape in self.shapes.items() if name not in self.by_item)

    def check(self, broadcast: Arrays) -> None:
        """Raise `FedrecError` unless these are the model's shared arrays."""
        for name, array in broadcast.items():
            expected = self.shapes.get(name, "no such array")
            if expected != array.shape:
                raise FedrecError(f"the model can't take {name} of shape {array.shape}: {expected} expected")

    def late_parts(self, late: LateNoise) -> tuple[dict[str, Tensor], dict[str, float]]:
        """Return, by name, the noise that nothing has got yet, and what a whole step of an array is worth."""
        rows = {name: shape[1:] for name, shape in self.shapes.items() if name in self.by_item}
        dense = {name: shape for name, shape in self.shapes.items() if name not in self.by_item}
        units = {
            name: late.unit(late.grid.products if name in self.products else late.grid.vectors) for name in self.shapes
        }
        return late.remaining(rows, dense, self.products), units

    @property
    @abstractmethod
    def compiled(self) -> tuple[object, object]:
        """The outermost compiled function, and that of DP-SGD."""

    @abstractmethod
    def sent(self, broadcast: Arrays) -> Sent:
        """Return what the compiled loops take of what was sent."""

    @abstractmethod
    def descend(self, sent: Sent, places: Places, private: Arrays) -> Trained:
        """Train devices whose private arrays [C, ...] are `private`, without privacy."""

    @abstractmethod
    def descend_privately(self, sent: Sent, places: Places, due: Due, private: Arrays, late: LateNoise) -> Trained:
        """Train devices by DP-SGD."""
