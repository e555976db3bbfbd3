"""Any recommender as it ranks for one person."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

from fedrec.data.catalogue import Catalogue
from fedrec.data.interactions import DeviceData
from fedrec.experiment.experiment import Experiment, train_newcomer
from fedrec.messages import Arrays
from fedrec.models.base import Recommender, TrainableRecommender
from fedrec.recommend.ranker import Floats, Items, check_rows

NOBODY = (1 << 32) - 1  # the row under which somebody trains who is no user of the data set


@dataclass(frozen=True)
class ModelRanker:
    """A recommender, its arrays loaded, and the history [n] of the person that it ranks for."""

    model: Recommender
    history: Items

    def __post_init__(self) -> None:
        check_rows(self.history, self.model.items)

    @cached_property
    def _found(self) -> Floats:
        with torch.no_grad():
            return self.model.scores(self._rows()).cpu().numpy()

    def scores(self) -> Floats:
        """Return a score for every item [V]."""
        return self._found

    @torch.no_grad()
    def item_contributions(self, item: int) -> Floats | None:
        """Return what each item of the history adds to one item's score [n]; None where the model can't say."""
        found = self.model.item_contributions(self._rows(), item)
        return None if found is None else found.cpu().numpy()

    def _rows(self) -> torch.Tensor:
        return torch.from_numpy(self.history.astype("int64"))


def model_ranker(
    experiment: Experiment, catalogue: Catalogue, arrays: Arrays, private: Arrays, rows: NDArray[np.int32], number: int
) -> ModelRanker:
    """Return how a model of round `number`, its broadcast `arrays` loaded, ranks for a history.

    A model with private arrays and no `private` to load is that of a device which joins now: it trains once, and what
    it would send is thrown away.
    """
    model = experiment.build_model(catalogue)
    shared = {name: array for name, array in arrays.items() if name in model.shared}
    model.load(shared)
    if isinstance(model, TrainableRecommender) and model.private_arrays():
        model.load(shared | (private or train_newcomer(experiment, model, arrays, _newcomer(rows), number)))
    return ModelRanker(model, rows)


def _newcomer(rows: NDArray[np.int32]) -> DeviceData:
    empty, values = np.empty(0, np.int32), np.ones(len(rows), np.float32)
    return DeviceData(NOBODY, rows, values, empty, empty, np.empty(0, np.float32))
