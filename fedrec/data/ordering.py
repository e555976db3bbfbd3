"""Rows in order: one key and one sort for each key, in place, with the row's number in its lowest bits.

So equal rows keep their order, and 10^8 rows take 8 bytes each to be sorted.
"""

from collections.abc import Iterator
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

Positions = NDArray[np.signedinteger[Any]]
Number = TypeVar("Number", bound=np.number)
BLOCK = 1 << 20  # rows that are gone through at a time


def order_by(*keys: NDArray[np.integer]) -> Positions:
    """Return the positions of rows by the first of the keys, then by the next; equal ones stay as they are."""
    order = None
    for key in reversed(keys):
        order = _sorted_by(key, order)
    return np.arange(0, dtype=np.int32) if order is None else order


def gather(values: NDArray[Number], places: Positions) -> NDArray[Number]:
    """Return values by place, block by block: NumPy widens all the places that it is given to 8 bytes at once."""
    found = np.empty(len(places), values.dtype)
    for block in row_blocks(len(places)):
        found[block] = values.take(places[block])
    return found


def row_blocks(rows: int) -> Iterator[slice]:
    """Yield slices that cover so many rows, one block after the other."""
    return (slice(first, min(first + BLOCK, rows)) for first in range(0, rows, BLOCK))


def position_type(rows: int) -> type[np.int32] | type[np.int64]:
    """Return the smaller type of whole numbers that counts so many rows."""
    return np.int32 if rows < 1 << 31 else np.int64


def _sorted_by(key: NDArray[np.integer], order: Positions | None) -> Positions:
    """Return an order sorted by one key more, digit by digit where a digit and a row's number don't fit 63 bits."""
    rows, kind = len(key), position_type(len(key))
    low, span = (int(key.min()), int(key.max()) - int(key.min())) if rows else (0, 0)
    place, shift = max((rows - 1).bit_length(), 1), 0
    while span >> shift:
        digit = _digits(key.copy() if order is None else gather(key, order), low, shift, 63 - place)
        shift += 63 - place
        if (digit[1:] >= digit[:-1]).all():
            continue
        digit <<= place
        for block in row_blocks(rows):
            digit[block] |= np.arange(block.start, block.stop)
        digit.sort()
        digit &= (1 << place) - 1
        order = digit.astype(kind) if order is None else gather(order, digit)
    return np.arange(rows, dtype=kind) if order is None else order


def _digits(owned: NDArray[np.integer], low: int, shift: int, bits: int) -> NDArray[np.int64]:
    """Return so many bits of each key above the lowest, in the memory of the keys; they may lie 2^64 apart."""
    digits = owned.astype(np.int64, copy=False).view(np.uint64)
    digits -= np.uint64(low % (1 << 64))
    digits >>= np.uint64(shift)
    digits &= np.uint64((1 << bits) - 1)
    return digits.view(np.int64)
