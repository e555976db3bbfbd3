"""Negatives for training: never drawn by looking beyond the train items.

A sampler that avoids validation or test items leaks them: the held-out item is then the only one never pushed down
(`notes/evaluation.md` section 1.1 measured a counter of negatives, with no model at all, at HR@10 = 1.0).
"""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from fedrec.privacy.base import Random

Matrix = NDArray[np.int64]


def draw_uniform(random: "Random", items: int, shape: tuple[int, int]) -> Matrix:
    """Return item rows [B, k] drawn uniformly from the catalogue, without looking at any data."""
    return (random.uniform(shape[0] * shape[1]) * items).astype(np.int64).reshape(shape)


def draw_outside(generator: np.random.Generator, used: NDArray[np.bool_], shape: tuple[int, int]) -> Matrix:
    """Return item rows [B, k] drawn uniformly from those with `used[V]` False; from all items if none is left."""
    items = len(used)
    if used.all():
        return generator.integers(0, items, size=shape)
    drawn = generator.integers(0, items, size=shape)
    bad = used[drawn]
    while bad.any():
        drawn[bad] = generator.integers(0, items, size=int(bad.sum()))
        bad = used[drawn]
    return drawn
