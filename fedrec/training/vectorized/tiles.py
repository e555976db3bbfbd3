"""The rows that a tile of devices can touch: every item of their batches, numbered once for each device."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedrec.training.batches import Histories, Pass, Slots


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


class Numbering:
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

    def tile(self, histories: Histories, passes: list[Pass], catalogue: int) -> Tile:
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
