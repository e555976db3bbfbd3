"""What a sequential recommender is: it learns from a history in the order of time, a window of which is one example.

Shapes: C devices, n positions of a window, k negatives of each device, V items.
"""

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from fedrec.models.base import Recommender


@dataclass(frozen=True, slots=True)
class Windows:
    """What devices learn from: position t < real of a window predicts its item t + 1 against the device's negatives.

    What lies past `real + 1` items fills the line and counts for nothing. Any leading dimensions, C or none.
    """

    items: Tensor  # [C, n + 1] int64, in the order of time
    real: Tensor  # [C] int64: positions that predict something, at most n
    negatives: Tensor  # [C, k] int64

    def to(self, device: torch.device) -> "Windows":
        """Return the same on another device."""
        return Windows(self.items.to(device), self.real.to(device), self.negatives.to(device))

    def touched(self) -> Tensor:
        """Return the items [C, n + 1 + k] whose rows are read, repeats included."""
        return torch.cat([self.items, self.negatives], dim=-1)


class SequentialRecommender(Recommender):
    """A recommender without private arrays that learns from windows of at most `window` positions.

    `by_item` names its arrays of one row an item: of these, training computes the rows that a device touches. `forward`
    takes them looked up, names dimensions from the end, and so runs on one device or on many at once.
    """

    window: int
    by_item: frozenset[str]

    @abstractmethod
    def forward(self, windows: Windows, rows: Mapping[str, Tensor]) -> Tensor:
        """Return one loss per device [C]: the sum over its positions.

        `rows` holds, for every array of `by_item`, its rows of `windows.touched()` [C, n + 1 + k, ...].
        """
