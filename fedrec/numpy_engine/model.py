"""A model of one device in NumPy: named arrays, gradients by back-propagation, steps of gradient descent."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedrec.errors import FedrecError
from fedrec.numpy_engine.losses import Floats, loss_named
from fedrec.update import Arrays

Items = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Gradient:
    """The derivative of a batch's summed loss: of a whole array, or of its `rows` alone (each row once)."""

    values: Floats
    rows: Items | None = None


Gradients = dict[str, Gradient]


class LightModel(ABC):
    """The NumPy twin of a `TrainableRecommender`: the same settings, the same names and shapes of arrays.

    `shared` may leave the device; every other array stays. `ratings` says that scores are ratings.
    """

    shared: frozenset[str]

    def __init__(self, items: int, shapes: Mapping[str, tuple[int, ...]], loss: str, scale: float) -> None:
        self.items, self.scale, self.ratings = items, scale, loss == "mse"
        self.criterion = loss_named(loss)
        self.arrays: dict[str, Floats] = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}

    @abstractmethod
    def gradients(self, items: Items, values: Floats) -> tuple[Floats, Gradients]:
        """Return (loss of each example [B], gradients of their sum) for items [B, 1+k] and ratings [B]."""

    @abstractmethod
    def scores(self, history: NDArray[np.integer[Any]]) -> Floats:
        """Return a score for every item [V]."""

    def load(self, arrays: Mapping[str, Floats]) -> None:
        """Copy named arrays into the model; unknown names and wrong shapes are errors."""
        for name, array in arrays.items():
            if name not in self.arrays or self.arrays[name].shape != array.shape:
                shape = self.arrays[name].shape if name in self.arrays else "no such array"
                raise FedrecError(f"{type(self).__name__} can't take {name} of shape {array.shape}: {shape} expected")
            self.arrays[name] = np.array(array)

    def shared_arrays(self) -> Arrays:
        """Return copies of the arrays that may leave."""
        return {name: array.copy() for name, array in self.arrays.items() if name in self.shared}

    def private_arrays(self) -> Arrays:
        """Return copies of the arrays that stay on the device."""
        return {name: array.copy() for name, array in self.arrays.items() if name not in self.shared}

    def step(self, items: Items, values: Floats, rate: float) -> float:
        """Go down the gradient of the batch's summed loss by `rate`; return that loss."""
        losses, gradients = self.gradients(items, values)
        for name, gradient in gradients.items():
            array = self.arrays[name]
            if gradient.rows is None:
                array -= (rate * gradient.values).astype(array.dtype)
            else:
                array[gradient.rows] -= (rate * gradient.values).astype(array.dtype)
        return float(losses.sum())


def by_row(items: Items, values: Floats) -> Gradient:
    """Return the sum of `values` [N, d] over equal `items` [N]: the gradient of a table of vectors."""
    order = np.argsort(items, kind="stable")
    rows, starts = np.unique(items[order], return_index=True)
    return Gradient(np.add.reduceat(values[order], starts, axis=0), rows)
