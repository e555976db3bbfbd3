"""Any recommender as it ranks for one person."""

from dataclasses import dataclass

import torch

from fedrec.models.base import Recommender
from fedrec.recommend.taste import Floats, Items


@dataclass(frozen=True, slots=True)
class ModelTaste:
    """A recommender, its arrays loaded, and the history [n] of the person that it ranks for."""

    model: Recommender
    history: Items

    @torch.no_grad()
    def scores(self) -> Floats:
        """Return a score for every item [V]."""
        return self.model.scores(self._rows()).cpu().numpy()

    @torch.no_grad()
    def shares(self, item: int) -> Floats | None:
        """Return what each item of the history adds to one item's score [n]; None where the model can't say."""
        found = self.model.shares(self._rows(), item)
        return None if found is None else found.cpu().numpy()

    def _rows(self) -> torch.Tensor:
        return torch.from_numpy(self.history.astype("int64"))
