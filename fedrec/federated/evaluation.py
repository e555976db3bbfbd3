"""The evaluation of the devices that a node hosts."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from fedrec.evaluation.batched import Users, evaluate_users, squared_errors
from fedrec.evaluation.candidates import CandidateBook, Part
from fedrec.evaluation.metrics import Scores
from fedrec.evaluation.per_device import history_of
from fedrec.evaluation.per_user import PerUserResults
from fedrec.messages import Arrays
from fedrec.models.base import Recommender, TrainableRecommender
from fedrec.storage.private_arrays import MmapPrivateStore, PrivateStore
from fedrec.training.batches import first_private


@dataclass(frozen=True, slots=True)
class PrivateStateView:
    """The private arrays of devices as they were before `round`; of one that never trained, the first of its seed."""

    store: PrivateStore
    round: int
    seed: int

    def of(self, model: Recommender, users: Users) -> Arrays:
        """Return the private arrays [C, ...] of some devices."""
        shapes = {name: array.shape for name, array in model.private_arrays().items()}
        arrays, found = stacked(self.store, users, self.round, shapes)
        if isinstance(model, TrainableRecommender):
            for name, array in first_private(shapes, model.private_std, self.seed, users[~found]).items():
                arrays[name][~found] = array
        return arrays


def stacked(
    store: PrivateStore, users: Users, before_round: int, shapes: Mapping[str, tuple[int, ...]]
) -> tuple[Arrays, NDArray[np.bool_]]:
    """Return (arrays [C, ...], which of the devices have saved any [C]) of any store; what was never saved is zero."""
    if isinstance(store, MmapPrivateStore):
        return store.load_many(users, before_round)
    rows = [store.load(user, before_round) for user in users.tolist()]
    arrays = {
        name: np.array([row.get(name, np.zeros(shape)) for row in rows], np.float32).reshape(len(rows), *shape)
        for name, shape in shapes.items()
    }
    return arrays, np.array([bool(row) for row in rows], np.bool_)


@torch.no_grad()
def evaluate_devices(
    model: Recommender, kept: PrivateStateView, book: CandidateBook, asked: tuple[Users, Part], accelerator: str = "cpu"
) -> PerUserResults:
    """Return the rows of those of the asked (users, part) who have something held out; the shared arrays are loaded."""
    users, part = asked
    errors = list[NDArray[np.float64]]()

    def score(some: Users) -> Scores:
        histories = [history_of(book.devices[user], part).astype(np.int64) for user in some.tolist()]
        private = {name: torch.from_numpy(array).to(accelerator) for name, array in kept.of(model, some).items()}
        found = model.scores_many([torch.from_numpy(history).to(accelerator) for history in histories], private)
        scores = found.cpu().numpy()
        if model.ratings and part == "test":
            errors.append(squared_errors(scores, book.devices, some))
        book.devices.release_pages()
        return scores

    rows = evaluate_users(score, users, part, book, type(model).__name__)
    return {**rows, "squared_error": np.concatenate(errors)} if errors else rows
