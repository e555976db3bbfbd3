"""What devices contribute, as a mechanism takes it: many at once or one alone, bounded before anything leaves.

Devices without torch use this file too.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from fedrec.messages import ModelUpdate, SparseArray, UpdateSum
from fedrec.privacy.grid import Floats, Whole, rounded

Scales = Mapping[str, Floats]


class CohortUpdates(Protocol):
    """What many devices contribute, before anything of it leaves: one mechanism bounds all of it at once."""

    @property
    def count(self) -> int:
        """How many devices: C."""
        ...

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shape of each array of one device's update."""
        ...

    def squared_norms(self) -> dict[str, Floats]:
        """Return each array's squared norm for every device [C]; not finite where a change is not."""
        ...

    def weighted_sum(self, factors: Mapping[str, Floats] | Floats) -> ModelUpdate:
        """Return the sum over devices, each array of device c times its `factors[c]`, for all arrays or by name."""
        ...

    def whole_squares(self, scales: Scales) -> dict[str, Floats]:
        """Return the squared norm [C] of each array in `scales`, times its scale [C] and rounded to whole numbers."""
        ...

    def whole_sum(self, scales: Scales) -> dict[str, Whole]:
        """Return the sum over devices of arrays that were scaled and rounded so; a scale of 0 makes zeros."""
        ...

    def update_of(self, device: int) -> ModelUpdate:
        """Return what one device alone contributes."""
        ...


@dataclass(frozen=True, slots=True)
class OneUpdate:
    """One device's update as what many devices contribute; its sparse arrays stay sparse."""

    update: ModelUpdate

    @property
    def count(self) -> int:
        """One."""
        return 1

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shape of each array."""
        return {name: array.shape for name, array in self._items()}

    def squared_norms(self) -> dict[str, Floats]:
        """Return each array's squared norm [1]."""
        with np.errstate(over="ignore"):
            return {n: np.array([np.sum(np.square(_values(a), dtype=np.float64))]) for n, a in self._items()}

    def weighted_sum(self, factors: Mapping[str, Floats] | Floats) -> ModelUpdate:
        """Return the update, each array times its factor."""
        named = {n: factors[n] if isinstance(factors, Mapping) else factors for n, _ in self._items()}
        return ModelUpdate({n: (a * named[n][0]).astype(np.float32) for n, a in self._items()}, 1)

    def whole_squares(self, scales: Scales) -> dict[str, Floats]:
        """Return the squared norm [1] of each array in `scales`, scaled and rounded."""
        arrays = self.update.arrays
        squares = {n: np.square(rounded(_values(arrays[n]), float(scale[0]))) for n, scale in scales.items()}
        return {name: np.array([square.sum()]) for name, square in squares.items()}

    def whole_sum(self, scales: Scales) -> dict[str, Whole]:
        """Return the arrays, scaled and rounded."""
        found = dict[str, Whole]()
        for name, array in self._items():
            whole = rounded(_values(array), float(scales[name][0])).astype(np.int64)
            sparse = isinstance(array, SparseArray)
            found[name] = cast(Whole, SparseArray(array.index, whole, array.shape)) if sparse else whole
        return found

    def update_of(self, device: int) -> ModelUpdate:
        """Return the update."""
        return self.update

    def _items(self) -> Iterable[tuple[str, Any]]:
        return cast("Iterable[tuple[str, Any]]", self.update.arrays.items())


@dataclass(frozen=True, slots=True)
class UpdateList:
    """The updates of some devices, one or more, as what many devices contribute."""

    updates: Sequence[ModelUpdate]

    @property
    def count(self) -> int:
        """How many devices."""
        return len(self.updates)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shape of each array of one update."""
        return OneUpdate(self.updates[0]).shapes()

    def squared_norms(self) -> dict[str, Floats]:
        """Return each array's squared norms [C]."""
        return _joined([OneUpdate(update).squared_norms() for update in self.updates])

    def weighted_sum(self, factors: Mapping[str, Floats] | Floats) -> ModelUpdate:
        """Return the sum of the updates, each times its factor."""
        named = factors if isinstance(factors, Mapping) else dict.fromkeys(self.shapes(), factors)
        summed = UpdateSum()
        for place, update in enumerate(self.updates):
            summed.add(OneUpdate(update).weighted_sum(_of(named, place)))
        return summed.update()

    def whole_squares(self, scales: Scales) -> dict[str, Floats]:
        """Return the squared norms [C] of each array in `scales`, scaled and rounded."""
        return _joined([OneUpdate(update).whole_squares(_of(scales, c)) for c, update in enumerate(self.updates)])

    def whole_sum(self, scales: Scales) -> dict[str, Whole]:
        """Return the sum of the arrays, scaled and rounded."""
        sums = {name: np.zeros(shape, np.int64) for name, shape in self.shapes().items()}
        for place, update in enumerate(self.updates):
            for name, array in cast("Mapping[str, Any]", OneUpdate(update).whole_sum(_of(scales, place))).items():
                array.add_to(sums[name]) if isinstance(array, SparseArray) else np.add(sums[name], array, sums[name])
        return sums

    def update_of(self, device: int) -> ModelUpdate:
        """Return the update of one device."""
        return self.updates[device]


def _of(scales: Scales, place: int) -> dict[str, Floats]:
    return {name: scale[place : place + 1] for name, scale in scales.items()}


def _joined(parts: Sequence[Mapping[str, Floats]]) -> dict[str, Floats]:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _values(array: Any) -> NDArray[np.floating]:
    return array.values if isinstance(array, SparseArray) else array
