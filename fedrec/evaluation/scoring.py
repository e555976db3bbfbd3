"""The evaluation of many devices by a scorer that takes them in batches."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from fedrec.data.devices import DeviceTable
from fedrec.evaluation.device import Part, Row, evaluate_device, history_of
from fedrec.evaluation.options import Evaluation
from fedrec.evaluation.ranking import Scores
from fedrec.evaluation.table import Table, table

ScoreMany = Callable[[Sequence[NDArray[np.int32]]], Scores]
BATCH = 256


def evaluate_many(
    score_many: ScoreMany, devices: DeviceTable, part: Part, options: Evaluation, model: str = "the model"
) -> Table:
    """Return the rows of all devices that `options` chooses; `score_many(histories)` gives scores [B, V]."""
    chosen = options.chosen(len(devices))
    rows: list[Row | None] = []
    for first in range(0, len(chosen), BATCH):
        batch = [devices[int(user)] for user in chosen[first : first + BATCH]]
        scores = score_many([history_of(device, part) for device in batch])
        rows += [
            evaluate_device(line, device, part, options, model=model)
            for line, device in zip(scores, batch, strict=True)
        ]
    return table([row for row in rows if row is not None], options.cutoffs)
