"""Private arrays of many devices at once: their first values, and one device's part of them."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from fedrec.rng import Counter, normal
from fedrec.update import Arrays

PRIVATE_STREAM = 7  # keeps a device's first private parameters apart from the draws of its rounds


def first_private(shapes: Mapping[str, tuple[int, ...]], std: float, seed: int, users: NDArray[np.int64]) -> Arrays:
    """Return what devices start from, as if they had never trained: N(0, std^2), arrays [C, ...] of these shapes."""
    if not shapes:
        return {}
    sizes = {name: int(np.prod(shape)) for name, shape in sorted(shapes.items())}
    width = sum(sizes.values())
    if std:
        flat = std * normal(Counter(seed, PRIVATE_STREAM).keyed(users, np.arange(width + width % 2)[None]))
    else:
        flat = np.zeros((len(users), width))
    starts = np.cumsum([0, *sizes.values()])
    return {
        name: flat[:, start : start + size].reshape(len(users), *shapes[name]).astype(np.float32)
        for (name, size), start in zip(sizes.items(), starts, strict=False)
    }
