"""Popularity: every user is recommended what most users used."""

from collections.abc import Mapping, Sequence
from typing import ClassVar, cast

import torch
from torch import Tensor

from fedrec.data.catalogue import Catalogue
from fedrec.models.base import Recommender


class Popularity(Recommender):
    """Scores an item by its (possibly noisy) count [V]."""

    name: ClassVar[str] = "popularity"
    shared = frozenset({"counts"})

    def __init__(self, catalogue: Catalogue) -> None:
        super().__init__()
        self.items = len(catalogue)
        self.register_buffer("counts", torch.zeros(len(catalogue)))

    def scores(self, history: Tensor) -> Tensor:
        """Return the counts [V], whatever the history."""
        return cast(Tensor, self.counts)

    def scores_many(self, histories: Sequence[Tensor], private: Mapping[str, Tensor]) -> Tensor:
        """Return the counts [C, V], the same for all C devices."""
        return cast(Tensor, self.counts).expand(len(histories), -1)

    def item_contributions(self, history: Tensor, item: int) -> Tensor:
        """Return zeros [n]: the history adds nothing."""
        return torch.zeros(len(history))
