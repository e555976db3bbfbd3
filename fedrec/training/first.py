"""The draw of a device's first private parameters: the same numbers with torch and without."""

import numpy as np

PRIVATE_STREAM = 7  # keeps a device's first private parameters apart from the draws of its rounds


def first_generator(seed: int, user: int) -> np.random.Generator:
    """Return the generator of a device's first private parameters."""
    return np.random.default_rng(np.random.SeedSequence((seed, PRIVATE_STREAM, user)))
