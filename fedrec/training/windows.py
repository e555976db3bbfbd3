"""Which windows and negatives devices learn from in a round: the same draws for one device or many at once."""

from dataclasses import dataclass

import numpy as np
import torch

from fedrec.models.sequential import Windows
from fedrec.rng import below
from fedrec.training.batches import Histories, Keyed

START, NEGATIVES = 0, 1  # indices of the draws: one for the place of the window, then the negatives


@dataclass(frozen=True, slots=True)
class Draws:
    """What is drawn for each device: a window of `length` + 1 items, `negatives` out of `items`."""

    length: int
    negatives: int
    items: int

    def windows(self, histories: Histories, random: Keyed) -> Windows:
        """Return a window at a uniform place of each history, all of it where it is short, and negatives.

        Negatives are uniform over the catalogue, drawn without looking at anybody's items.
        """
        sizes, users = histories.sizes, histories.users
        spare = np.maximum(sizes - self.length - 1, 0)
        start = below(random.keyed(users, np.full((1, 1), START)), spare[:, None] + 1)  # [C, 1]
        width = min(self.length + 1, max(int(sizes.max(initial=0)), 2))
        place = np.minimum(start + np.arange(width), max(histories.items.shape[1] - 1, 0))
        items = np.take_along_axis(histories.items, place, axis=1) if histories.items.shape[1] else place
        negatives = below(random.keyed(users, NEGATIVES + np.arange(self.negatives)[None]), self.items)
        real = np.clip(sizes - 1, 0, self.length)
        parts = (items.astype(np.int64), real, negatives)
        return Windows(*(torch.from_numpy(np.ascontiguousarray(part)) for part in parts))
