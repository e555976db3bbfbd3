"""The evaluation of many devices by a scorer that takes them in batches."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from fedrec.data.devices import DeviceTable
from fedrec.evaluation.batched import Users, batches, evaluate_batch, with_targets
from fedrec.evaluation.candidates import CandidateBook, Part
from fedrec.evaluation.config import Evaluation
from fedrec.evaluation.per_device import history_of
from fedrec.evaluation.per_user import Table, join, table
from fedrec.evaluation.ranking import Scores

ScoreMany = Callable[[Sequence[NDArray[np.int32]]], Scores]


def evaluate_many(
    score_many: ScoreMany, devices: DeviceTable, part: Part, options: Evaluation, model: str = "the model"
) -> Table:
    """Return the rows of all devices that `options` chooses; `score_many(histories)` gives scores [B, V]."""

    def score(users: Users) -> Scores:
        return score_many([history_of(devices[user], part) for user in users.tolist()])

    return evaluate_users(score, options.chosen(len(devices)), part, CandidateBook(devices, options), model)


def evaluate_users(
    score: Callable[[Users], Scores], users: Users, part: Part, book: CandidateBook, model: str = "the model"
) -> Table:
    """Return the rows of those of the users who have something held out; `score(users)` gives scores [B, V]."""
    users = with_targets(book.devices, users, part)
    tables = [evaluate_batch(score(batch), batch, part, book, model) for batch in batches(users, book.devices.items)]
    return join(tables) if tables else table([], book.options.cutoffs)
