"""What devices contribute as the rows that they touched: bounded, rounded to the grid and summed in compiled loops.

Shapes: C devices, R rows of all of them, V items. What is added up are sums in double precision, whole numbers exact.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedrec.messages import Arrays, ModelUpdate
from fedrec.privacy.contributions import Scales
from fedrec.privacy.grid import Floats
from fedrec.training.kernels.compiled import compiled

Changes = NDArray[np.float32] | NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class TouchedRows:
    """The changes of a tile of C devices: row r, of item `item[r]`, by the device c with first[c] <= r < first[c + 1].

    `rows` holds the changes [R, d] of each array of `catalogue` items, each (device, item) once, `dense` the changes
    [C, ...] of all others.
    """

    catalogue: int
    first: NDArray[np.int64]
    item: NDArray[np.int32]
    rows: Mapping[str, Changes]
    dense: Mapping[str, Changes] = field(default_factory=dict[str, Changes])

    @property
    def count(self) -> int:
        """How many devices: C."""
        return len(self.first) - 1

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shape of each array of one device's update."""
        rows = {name: (self.catalogue, change.shape[1]) for name, change in self.rows.items()}
        return {**rows, **{name: change.shape[1:] for name, change in self.dense.items()}}

    def squared_norms(self) -> dict[str, Floats]:
        """Return each array's squared norm for every device [C]; not finite where a change is not."""
        return {name: squares(place[0], change) for name, place, change in self._all()}

    def zeros(self) -> dict[str, Tensor]:
        """Return sums over no device: [V, d] for arrays of items, in double precision."""
        return {name: torch.zeros(shape, dtype=torch.float64) for name, shape in self.shapes().items()}

    def whole_squares(self, scales: Scales) -> dict[str, Floats]:
        """Return the squared norm [C] of each array in `scales`, scaled and rounded to whole numbers."""
        return {
            name: whole_squares(place[0], change, scales[name]) for name, place, change in self._all() if name in scales
        }

    def add_to(self, sums: dict[str, Tensor], factors: Mapping[str, Floats], whole: bool = False) -> None:
        """Add every device's changes, times its factors [C] by name; what has factor 0 adds nothing, finite or not.

        `whole` rounds each product: sums of whole numbers below 2^53 are exact in double precision, in any order.
        """
        add = add_whole if whole else add_scaled
        for name, place, change in self._all():
            add(place, change, factors[name], sums[name].numpy().reshape(-1, change.shape[1]))

    def _all(self) -> Iterator[tuple[str, tuple[NDArray[np.int64], NDArray[np.int32]], Changes]]:
        """Yield all changes as rows [R, d], and which rows each device has of which item; what is dense is of one."""
        for name, change in self.rows.items():
            yield name, (self.first, self.item), change
        one = np.arange(self.count + 1), np.zeros(self.count, np.int32)
        for name, change in self.dense.items():
            yield name, one, change.reshape(self.count, math.prod(change.shape[1:]))

    def update_of(self, device: int) -> ModelUpdate:
        """Return what one device alone contributes, dense."""
        own = slice(self.first[device], self.first[device + 1])
        arrays: Arrays = {}
        for name, change in self.rows.items():
            arrays[name] = np.zeros((self.catalogue, change.shape[1]), np.float32)
            arrays[name][self.item[own]] = change[own]
        return ModelUpdate({**arrays, **{name: change[device] for name, change in self.dense.items()}}, 1)


@compiled
def squares(first: NDArray[np.int64], change: Changes) -> Floats:
    """Return the squared norms [C] of changes [R, d]."""
    found = np.zeros(len(first) - 1)
    for c in range(len(found)):
        for r in range(first[c], first[c + 1]):
            for i in range(change.shape[1]):
                found[c] += np.float64(change[r, i]) * np.float64(change[r, i])
    return found


@compiled
def whole_squares(first: NDArray[np.int64], change: Changes, scale: Floats) -> Floats:
    """Return the squared norms [C] of changes [R, d] that are scaled by [C] and rounded; 0 where the scale is 0."""
    found = np.zeros(len(first) - 1)
    for c in range(len(found)):
        if scale[c] == 0:
            continue
        for r in range(first[c], first[c + 1]):
            for i in range(change.shape[1]):
                whole = np.rint(change[r, i] * scale[c])
                found[c] += whole * whole
    return found


@compiled
def add_scaled(
    place: tuple[NDArray[np.int64], NDArray[np.int32]], change: Changes, factor: Floats, sums: Floats
) -> None:
    """Add changes [R, d], times factors [C], to sums [V, d]."""
    first, item = place
    for c in range(len(first) - 1):
        by = factor[c]  # read once, or sums, which might hold it for all that the compiler knows, would be one by one
        for r in range(first[c], first[c + 1] if by != 0 else first[c]):
            for i in range(change.shape[1]):
                sums[item[r], i] += change[r, i] * by


@compiled
def add_whole(place: tuple[NDArray[np.int64], NDArray[np.int32]], change: Changes, scale: Floats, sums: Floats) -> None:
    """Add changes [R, d], scaled by [C] and rounded, to sums [V, d]."""
    first, item = place
    for c in range(len(first) - 1):
        by = scale[c]
        for r in range(first[c], first[c + 1] if by != 0 else first[c]):
            for i in range(change.shape[1]):
                sums[item[r], i] += np.rint(change[r, i] * by)
