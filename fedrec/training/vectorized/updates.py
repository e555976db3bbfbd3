"""What many devices contribute, before anything is summed: changes of touched rows, and of dense parameters.

A tile is a group of devices and the rows that they can touch, numbered once for each device. Shapes: C devices, R rows
that they touched together, V items.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedrec.errors import FedrecError
from fedrec.messages import Arrays, ModelUpdate
from fedrec.privacy.contributions import CohortUpdates, Scales
from fedrec.privacy.grid import Floats, Whole
from fedrec.training.batches import Epoch, Histories, Slots

Kind = TypeVar("Kind", bound=CohortUpdates, covariant=True)
ROWS = 1 << 14  # taken at a time, so that what is made of them stays in the cache


Factors = Mapping[str, NDArray[np.float64]] | NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class TileUpdates:
    """The changes of a tile of C devices. Row r is a change of item `items[r]` by device `owner[r]`, each pair once.

    `rows` holds changes [R, ...] of arrays with `catalogue` items, `dense` changes [C, ...] of the others.
    """

    catalogue: int
    count: int
    items: Tensor
    owner: Tensor
    rows: dict[str, Tensor]
    dense: dict[str, Tensor]

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shape of each array of one device's update."""
        rows = {name: (self.catalogue, *change.shape[1:]) for name, change in self.rows.items()}
        return rows | {name: tuple(change.shape[1:]) for name, change in self.dense.items()}

    def squared_norms(self) -> dict[str, NDArray[np.float64]]:
        """Return each array's squared norm for every device [C]; not finite where a change is not."""
        found = dict[str, NDArray[np.float64]]()
        for name, change in self.rows.items():
            parts = [part.flatten(1).double().square().sum(1) for part in change.split(ROWS)]
            square = torch.cat(parts) if parts else change.new_zeros(0, dtype=torch.float64)
            found[name] = square.new_zeros(self.count).index_add_(0, self.owner, square).cpu().numpy()
        for name, change in self.dense.items():
            found[name] = change.flatten(1).double().square().sum(1).cpu().numpy()
        return found

    def zeros(self) -> dict[str, Tensor]:
        """Return sums over no device: [V, ...] for arrays of items, in double precision."""
        place = self.items.device
        return {n: torch.zeros(shape, dtype=torch.float64, device=place) for n, shape in self.shapes().items()}

    def whole_squares(self, scales: Scales) -> dict[str, Floats]:
        """Return the squared norm [C] of each array in `scales`, scaled and rounded to whole numbers."""
        found = dict[str, Floats]()
        for name, scale in scales.items():
            there = torch.from_numpy(scale).to(self.items.device)
            if name in self.dense:
                found[name] = _whole(self.dense[name], there).flatten(1).square().sum(1).cpu().numpy()
                continue
            square = there.new_zeros(self.count)
            for change, owner in zip(self.rows[name].split(ROWS), self.owner.split(ROWS), strict=True):
                square.index_add_(0, owner, _whole(change, there[owner]).flatten(1).square().sum(1))
            found[name] = square.cpu().numpy()
        return found

    def add_to(self, sums: dict[str, Tensor], factors: Mapping[str, NDArray[np.float64]], whole: bool = False) -> None:
        """Add every device's changes, times its factors [C] by name; what has factor 0 adds nothing, finite or not.

        `whole` rounds each product: sums of whole numbers below 2^53 are exact in double precision, in any order.
        """
        there, product = {n: torch.from_numpy(f).to(self.items.device) for n, f in factors.items()}, _times
        if whole:
            product = _whole
        for name, change in self.rows.items():
            for start in range(0, len(change), ROWS):
                part = slice(start, start + ROWS)
                sums[name].index_add_(0, self.items[part], product(change[part], there[name][self.owner[part]]))
        for name, change in self.dense.items():
            sums[name] += product(change, there[name]).sum(0)

    def update_of(self, device: int) -> ModelUpdate:
        """Return what one device alone contributes, dense."""
        own = self.owner == device
        arrays: Arrays = {}
        for name, change in self.rows.items():
            whole = change.new_zeros(self.catalogue, *change.shape[1:])
            arrays[name] = whole.index_add_(0, self.items[own], change[own]).cpu().numpy()
        return ModelUpdate({**arrays, **{name: change[device].cpu().numpy() for name, change in self.dense.items()}}, 1)


class CohortTile(Protocol):
    """The changes of C devices, as `StackedUpdates` takes them: `TileUpdates`, or another way to hold the same."""

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

    def zeros(self) -> dict[str, Tensor]:
        """Return sums over no device, in double precision."""
        ...

    def whole_squares(self, scales: Scales) -> dict[str, Floats]:
        """Return the squared norm [C] of each array in `scales`, scaled and rounded to whole numbers."""
        ...

    def add_to(self, sums: dict[str, Tensor], factors: Scales, whole: bool = False) -> None:
        """Add every device's changes, times its factors [C] by name, to the sums; `whole` rounds each product."""
        ...

    def update_of(self, device: int) -> ModelUpdate:
        """Return what one device alone contributes, dense."""
        ...


Held = TypeVar("Held", bound=CohortTile, covariant=True)


@dataclass(frozen=True, slots=True)
class StackedUpdates(Generic[Held]):
    """The changes of the C devices of some tiles, one after the other.

    `late` is what is to be added to the sum besides: noise that no device's own steps would ever have read, drawn once
    for all. With `units`, the tiles and `late` hold whole numbers, each worth minus its array's unit: their sum is
    exact, in any order, before a float is made of it.
    """

    tiles: tuple[Held, ...]
    late: dict[str, Tensor] = field(default_factory=dict[str, Tensor])
    units: Mapping[str, float] = field(default_factory=dict[str, float])

    @property
    def starts(self) -> list[int]:
        """The first device of each tile, and C."""
        return np.cumsum([0, *(tile.count for tile in self.tiles)]).tolist()

    @property
    def count(self) -> int:
        """How many devices: C."""
        return self.starts[-1]

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shape of each array of one device's update."""
        return self.tiles[0].shapes()

    def squared_norms(self) -> dict[str, NDArray[np.float64]]:
        """Return each array's squared norm for every device [C]; not finite where a change is not."""
        found = [tile.squared_norms() for tile in self.tiles]
        return {n: np.concatenate([squares[n] for squares in found]) * self._worth(n) ** 2 for n in found[0]}

    def weighted_sum(self, factors: Factors) -> ModelUpdate:
        """Return the sum over devices, each array of device c times its `factors[c]`, in double precision.

        `factors` [C] are for all arrays, or by name. What has factor 0 counts for nothing, be it finite or not.
        """
        sums = self.tiles[0].zeros()
        for name, noise in self.late.items():
            sums[name] += noise
        named = {n: np.asarray(factors[n] if isinstance(factors, Mapping) else factors, np.float64) for n in sums}
        for tile, own in self._by_tile(named):
            tile.add_to(sums, own)
        return ModelUpdate({n: (array * self._worth(n)).float().cpu().numpy() for n, array in sums.items()}, self.count)

    def whole_squares(self, scales: Scales) -> dict[str, Floats]:
        """Return the squared norm [C] of each array in `scales`, scaled and rounded to whole numbers."""
        scales = {name: scale * self._worth(name) for name, scale in scales.items()}
        found = [tile.whole_squares(own) for tile, own in self._by_tile(scales)]
        return {name: np.concatenate([squares[name] for squares in found]) for name in scales}

    def whole_sum(self, scales: Scales) -> dict[str, Whole]:
        """Return the sum over devices of their arrays, scaled by [C] and rounded to whole numbers."""
        if self.late:
            raise FedrecError("noise that is not whole has no place in a sum of whole numbers")
        sums, scales = self.tiles[0].zeros(), {name: scale * self._worth(name) for name, scale in scales.items()}
        for tile, own in self._by_tile(scales):
            tile.add_to(sums, own, whole=True)
        return {name: array.to(torch.int64).cpu().numpy() for name, array in sums.items()}

    def _by_tile(self, named: Scales) -> Iterator[tuple[Held, dict[str, Floats]]]:
        """Yield each tile with what its devices have of arrays [C]."""
        for tile, first, end in zip(self.tiles, self.starts, self.starts[1:], strict=False):
            yield tile, {name: factor[first:end] for name, factor in named.items()}

    def update_of(self, device: int) -> ModelUpdate:
        """Return what one device alone contributes, dense, without what is late."""
        tile = int(np.searchsorted(self.starts, device, side="right")) - 1
        own = self.tiles[tile].update_of(device - self.starts[tile])
        if not self.units:
            return own
        wide: Any = {name: array.astype(np.float64) * self._worth(name) for name, array in own.arrays.items()}
        return ModelUpdate(wide, 1)

    def _worth(self, name: str) -> float:
        """Return what a number of an array is worth."""
        return -self.units[name] if self.units else 1.0


def _times(change: Tensor, factor: Tensor) -> Tensor:
    """Return change * factor along the first dimension, in double precision; 0 where the factor is 0."""
    wide = factor.view(-1, *(1,) * (change.dim() - 1))
    product = change.double()
    if bool((factor != 1).any()):
        product *= wide
    return torch.where(wide == 0, 0.0, product) if bool((factor == 0).any()) else product


def _whole(change: Tensor, scale: Tensor) -> Tensor:
    """Return change * scale along the first dimension, rounded, in double precision; 0 where the scale is 0."""
    wide = scale.view(-1, *(1,) * (change.dim() - 1))
    product = (change.double() * wide).round_()
    return torch.where(wide == 0, 0.0, product) if bool((scale == 0).any()) else product


@dataclass(frozen=True, slots=True)
class Contributions(Generic[Kind]):
    """What C devices contribute, their new private arrays [C, ...], exact losses [C]: sums over `examples` [C]."""

    users: NDArray[np.int64]
    stack: Kind
    private: Arrays
    loss: NDArray[np.float64]
    examples: NDArray[np.int64]


def joined(
    parts: Sequence[Contributions[StackedUpdates[Held]]],
    late: dict[str, Tensor] | None = None,
    units: Mapping[str, float] | None = None,
) -> Contributions[StackedUpdates[Held]]:
    """Return the contributions of all parts as one: `late` and `units` as of `StackedUpdates`."""
    return Contributions(
        users=np.concatenate([part.users for part in parts]),
        stack=StackedUpdates(tuple(tile for part in parts for tile in part.stack.tiles), late or {}, units or {}),
        private={name: np.concatenate([part.private[name] for part in parts]) for name in parts[0].private},
        loss=np.concatenate([part.loss for part in parts]),
        examples=np.concatenate([part.examples for part in parts]),
    )


@dataclass(frozen=True, slots=True)
class Tile:
    """Passes of C devices with items as row numbers: row r is item `items[r]` on device `owner[r]`.

    `rows[p]` [C, n, 1+k] and `values[p]` [C, n] are those of pass p, of which the first `counts[p]` [C] are real.
    """

    items: NDArray[np.int64]
    owner: NDArray[np.int64]
    rows: list[NDArray[np.int64]]
    values: list[NDArray[np.float32]]
    counts: list[NDArray[np.int64]]


class RowIndex:
    """Numbers (device, item) pairs in the order in which they first come up.

    Sort-free: each key writes its place into a slot, and is the first of its kind where it finds its own place there
    again. Stale slots need no clearing, because every slot that is read was just written.
    """

    def __init__(self, slots: Slots | None = None) -> None:
        self._slots = slots or Slots()

    def number(self, keys: NDArray[np.int64], limit: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return (keys [R], each once; the number of each of `keys` [N] among them), for keys below `limit`."""
        slot, place = self._slots.upto(limit), np.arange(len(keys), dtype=np.int32)
        slot[keys[::-1]] = place[::-1]
        found = slot[keys]
        first = found == place
        number = np.cumsum(first) - 1
        return keys[first], number[found]

    def tile(self, histories: Histories, passes: list[Epoch], catalogue: int) -> Tile:
        """Return the passes of these devices by row number; slots past a device's count read its first item."""
        c, n = histories.items.shape
        first = np.arange(c)[:, None] * catalogue
        positives = first + histories.items if n else first
        parts, values, counts = [positives[:, :1].ravel()], list[NDArray[np.float32]](), list[NDArray[np.int64]]()
        for one in passes:
            width = int(one.count.max(initial=0))
            order = np.where(np.arange(width) < one.count[:, None], one.order[:, :width], 0)
            items = np.empty((c, width, 1 + one.negatives.shape[2]), np.int64)
            items[..., 0] = np.take_along_axis(positives, order, axis=1)
            items[..., 1:] = first[..., None] + one.negatives[:, :width]
            items = np.where((np.arange(width) < one.count[:, None])[..., None], items, positives[:, :1, None])
            parts.append(items.ravel())
            values.append(np.take_along_axis(histories.values, order, axis=1) if n else np.empty((c, 0), np.float32))
            counts.append(one.count)
        keys, numbers = self.number(np.concatenate(parts), c * catalogue)
        ends = np.cumsum([len(part) for part in parts])
        shapes = [(c, len(v[0]) if c else 0, 1 + one.negatives.shape[2]) for v, one in zip(values, passes, strict=True)]
        rows = [
            numbers[start:end].reshape(shape) for start, end, shape in zip(ends[:-1], ends[1:], shapes, strict=True)
        ]
        return Tile(keys % catalogue, keys // catalogue, rows, values, counts)
