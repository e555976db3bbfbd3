"""The kernel engine: local training in compiled loops, one device after the other, with the result of `local.train`.

What a device contributes hangs on nobody who trains beside it, to the bit. Draws without privacy are the counter's own;
with DP-SGD they are the mechanism's, and the law of noise is that of the cohort engine
(`fedrec.training.vectorized.engine`): a row's noise waits until the row is read, what is never read is drawn once for
the sum of all devices.

Shapes: C devices, P passes, V items, R rows.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fedrec.messages import Arrays
from fedrec.models.base import TrainableRecommender
from fedrec.models.closed_forms import NeuralCF
from fedrec.privacy.mechanisms.protocol import DPSGDConfig, Mechanism, NoiseSource
from fedrec.rng import Stream
from fedrec.training.batches import CohortData, LocalTrainingConfig, first_private, open_draws, samples
from fedrec.training.kernels.compiled import compiled_before
from fedrec.training.kernels.dot_product_trainer import DotProductTrainer
from fedrec.training.kernels.forms import checked_form
from fedrec.training.kernels.late_noise import LateNoise
from fedrec.training.kernels.neural_cf_trainer import NeuralCFTrainer
from fedrec.training.kernels.places import Places, epoch_places, sample_places
from fedrec.training.kernels.rows import TouchedRows
from fedrec.training.kernels.trainer import Trained, Trainer
from fedrec.training.vectorized.engine import keep_freed_memory
from fedrec.training.vectorized.updates import Contributions, StackedUpdates, joined

TILE_NUMBERS = 1 << 20  # of the rows of a tile: their memory then comes from what the process keeps
ROW_BYTES = 4  # of a row's item
Contributed = Contributions[StackedUpdates[TouchedRows]]


def trainer_of(model: TrainableRecommender, settings: LocalTrainingConfig) -> Trainer[Any]:
    """Return what trains by the loops of the model's closed form; `RefusedError` says why there are none."""
    form = checked_form(model)
    if isinstance(form, NeuralCF):
        return NeuralCFTrainer(model, settings, form)
    return DotProductTrainer(model, settings, form)


def is_compiled(model: TrainableRecommender, settings: LocalTrainingConfig, dp_sgd: bool) -> bool:
    """Say whether the model's kernel was compiled already, that of DP-SGD where `dp_sgd`."""
    return compiled_before(trainer_of(model, settings).compiled[dp_sgd])


class KernelEngine:
    """Trains many devices of one model; its scratch memory stays with it."""

    def __init__(self, model: TrainableRecommender, settings: LocalTrainingConfig) -> None:
        self._trainer, self._settings, self._items = trainer_of(model, settings), settings, model.items
        self._negatives = settings.negatives if model.negatives_useful else 0
        self._private = {name: array.shape for name, array in model.private_arrays().items()}
        self._std, self._where = model.private_std, np.zeros(self._items, np.int32)
        keep_freed_memory()

    def first_private(self, seed: int, users: NDArray[np.int64]) -> Arrays:
        """Return the private arrays [C, ...] that devices start from."""
        return first_private(self._private, self._std, seed, users)

    def bytes_in_flight(self, chosen: CohortData, mechanism: Mechanism) -> int:
        """Return how many bytes the changes of these devices may take until they are summed: no item is met twice."""
        rows, (columns, dense) = self._most_rows(chosen.sizes, mechanism.dp_sgd()), self._trainer.numbers
        return int(rows.sum()) * (4 * columns + ROW_BYTES) + 4 * dense * len(rows)

    def _most_rows(self, sizes: NDArray[np.int64], public: DPSGDConfig | None) -> NDArray[np.int64]:
        passes = public.local_steps * public.sample_rate if public else self._settings.epochs
        return np.minimum(np.ceil(sizes * passes * (1 + self._negatives)) + 1, self._items).astype(np.int64)

    @torch.no_grad()
    def train(
        self, broadcast: Arrays, chosen: CohortData, private: Arrays, mechanism: Mechanism, key: tuple[int, int]
    ) -> Contributed:
        """Return what the devices contribute after local training in the round of `key`: (seed, round).

        `private` holds their private arrays [C, ...]. Devices come back in an order of the engine's own.
        """
        trainer, public, sizes = self._trainer, mechanism.dp_sgd(), chosen.sizes
        trainer.check(broadcast)
        sent, order, parts = trainer.sent(broadcast), np.argsort(-sizes, kind="stable"), list[Contributed]()
        late = None
        if public is not None:
            random = mechanism.random(*key, *chosen.users[:1].tolist(), Stream.NOISE)
            late = LateNoise(public, self._settings.learning_rate, self._items, random)
        columns, dense = trainer.numbers
        for tile in tiles(self._most_rows(sizes[order], public) * columns + dense):
            own = CohortData(chosen.table, chosen.users[order[tile]])
            mine = {name: array[order[tile]] for name, array in private.items()}
            if late is None or public is None:
                parts.append(self._descend(sent, own, mine, key))
            else:
                random = mechanism.random(*key, Stream.TRAIN)
                parts.append(self._descend_privately(sent, own, mine, (late, public, random)))
        if late is None:
            return joined(parts)
        return joined(parts, *trainer.late_parts(late))

    def _descend(self, sent: Any, own: CohortData, private: Arrays, key: tuple[int, int]) -> Contributed:
        """Train C devices without privacy."""
        histories = own.part(np.arange(len(own.users)))
        places = epoch_places(histories, open_draws(*key), self._settings, self._negatives, self._where)
        return self._contributed(own, places, self._trainer.descend(sent, places, private))

    def _descend_privately(
        self, sent: Any, own: CohortData, private: Arrays, noise: tuple[LateNoise, DPSGDConfig, NoiseSource]
    ) -> Contributed:
        """Train C devices by DP-SGD."""
        histories, (late, public, random) = own.part(np.arange(len(own.users))), noise
        places, due = sample_places(
            histories, list(samples(histories, public, self._negatives, self._items, random)), self._where
        )
        made = self._trainer.descend_privately(sent, places, due, private, late)
        late.note(places, due, len(own.users))
        return self._contributed(own, places, made)

    def _contributed(self, own: CohortData, places: Places, made: Trained) -> Contributed:
        passes = (len(places.passes) - 1) // max(len(own.users), 1)
        tile = TouchedRows(self._items, places.first, places.item, made.rows, made.dense)
        examples = np.diff(places.passes[::passes]) if passes else np.zeros(len(own.users), np.int64)
        return Contributions(own.users, StackedUpdates((tile,)), made.private, made.loss, examples)


def tiles(numbers: NDArray[np.int64]) -> Iterator[slice]:
    """Yield slices of devices whose rows, of so many numbers each, fit into a tile together."""
    start = 0
    while start < max(len(numbers), 1):
        count = max(int(np.searchsorted(np.cumsum(numbers[start:]), TILE_NUMBERS, side="right")), 1)
        yield slice(start, start + count)
        start += count
