"""The kernel engine: local training in compiled loops, one device after the other, with the result of `local.train`.

What a device contributes hangs on nobody who trains beside it, to the bit. Draws without privacy are the counter's own;
with DP-SGD they are the mechanism's, and the law of noise is that of the cohort engine
(`fedrec.training.vectorized.engine`): a row's noise waits until the row is read, what is never read is drawn once for
the sum of all devices.

Shapes: C devices, P passes, V items, R rows, d dimensions.
"""

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from fedrec.errors import FedrecError
from fedrec.messages import Arrays
from fedrec.models.base import LOSSES, TrainableRecommender
from fedrec.privacy.mechanisms.protocol import DPSGDConfig, Mechanism, NoiseSource
from fedrec.rng import Stream
from fedrec.training.batches import CohortData, LocalTrainingConfig, first_private, open_draws, samples
from fedrec.training.kernels import dot_product as kernel
from fedrec.training.kernels import private_dot_product as dp_kernel
from fedrec.training.kernels.compiled import compiled_before
from fedrec.training.kernels.forms import checked_form
from fedrec.training.kernels.late_noise import LateNoise, WholeKind
from fedrec.training.kernels.places import Places, epoch_places, sample_places
from fedrec.training.kernels.rows import TouchedRows
from fedrec.training.vectorized.engine import keep_freed_memory
from fedrec.training.vectorized.updates import Contributions, StackedUpdates, joined

TILE_NUMBERS = 1 << 20  # of the rows of a tile: their memory then comes from what the process keeps
ROW_BYTES = 8  # of a row's item and bias


def is_compiled(dp_sgd: bool) -> bool:
    """Say whether the kernel was compiled already, that of DP-SGD where `dp_sgd`."""
    return compiled_before(dp_kernel.descend_privately if dp_sgd else kernel.descend)


class KernelEngine:
    """Trains many devices of one model; its scratch memory stays with it."""

    def __init__(self, model: TrainableRecommender, settings: LocalTrainingConfig) -> None:
        self._form, self._settings, self._items = checked_form(model), settings, model.items
        self._negatives = settings.negatives if model.negatives_useful else 0
        self._loss = next(number for number, loss in enumerate(LOSSES.values()) if loss is model.criterion)
        self._shapes = {name: array.shape for name, array in model.shared_arrays().items()}
        self._private = {name: array.shape for name, array in model.private_arrays().items()}
        self._std, self._buffers = model.private_std, dict(model.named_buffers())
        self._where = np.zeros(self._items, np.int32)
        keep_freed_memory()

    @property
    def _dim(self) -> int:
        return self._private[self._form.user][1]

    @property
    def _learns(self) -> bool:
        """Whether item vectors learn."""
        return self._form.vectors in self._shapes

    def first_private(self, seed: int, users: NDArray[np.int64]) -> Arrays:
        """Return the private arrays [C, ...] that devices start from."""
        return first_private(self._private, self._std, seed, users)

    def bytes_in_flight(self, chosen: CohortData, mechanism: Mechanism) -> int:
        """Return how many bytes the changes of these devices may take until they are summed: no item is met twice."""
        rows = self._most_rows(chosen.sizes, mechanism.dp_sgd())
        return int(rows.sum()) * (4 * self._dim * self._learns + ROW_BYTES)

    def _most_rows(self, sizes: NDArray[np.int64], public: DPSGDConfig | None) -> NDArray[np.int64]:
        passes = public.local_steps * public.sample_rate if public else self._settings.epochs
        return np.minimum(np.ceil(sizes * passes * (1 + self._negatives)) + 1, self._items).astype(np.int64)

    @torch.no_grad()
    def train(
        self, broadcast: Arrays, chosen: CohortData, private: Arrays, mechanism: Mechanism, key: tuple[int, int]
    ) -> Contributions[StackedUpdates[TouchedRows]]:
        """Return what the devices contribute after local training in the round of `key`: (seed, round).

        `private` holds their private arrays [C, ...]. Devices come back in an order of the engine's own.
        """
        sent, public, sizes = self._sent(broadcast), mechanism.dp_sgd(), chosen.sizes
        order, parts = np.argsort(-sizes, kind="stable"), list[Contributions[StackedUpdates[TouchedRows]]]()
        users = private[self._form.user].reshape(len(sizes), self._dim)
        late = None
        if public is not None:
            random = mechanism.random(*key, *chosen.users[:1].tolist(), Stream.NOISE)
            late = LateNoise(public, self._settings.learning_rate, self._items, random)
        for tile in tiles(self._most_rows(sizes[order], public) * self._dim):
            some = order[tile]
            own, mine = CohortData(chosen.table, chosen.users[some]), np.array(users[some], np.float32, order="C")
            if late is None:
                parts.append(self._descend(sent, own, mine, key))
            else:
                random = mechanism.random(*key, Stream.TRAIN)
                parts.append(self._descend_privately(sent, own, mine, late, random))
        if late is None:
            return joined(parts)
        widths = {name: shape[1:] for name, shape in self._shapes.items()}
        return joined(parts, late.remaining(widths), dict.fromkeys(widths, late.unit))

    def _sent(self, broadcast: Arrays) -> kernel.Broadcast:
        for name, array in broadcast.items():
            expected = self._shapes.get(name, "no such array")
            if expected != array.shape:
                raise FedrecError(f"the model can't take {name} of shape {array.shape}: {expected} expected")
        form = self._form
        vectors = broadcast[form.vectors] if self._learns else self._buffers[form.vectors].numpy()
        flat = np.ascontiguousarray(broadcast[form.bias].reshape(-1), np.float32)
        vectors = np.ascontiguousarray(vectors, np.float32)
        scale, offset = np.float32(form.scale), np.float32(form.offset)
        return kernel.Broadcast(vectors, self._learns, flat, scale, offset, self._loss)

    def _descend(
        self, sent: kernel.Broadcast, own: CohortData, users: NDArray[np.float32], key: tuple[int, int]
    ) -> Contributions[StackedUpdates[TouchedRows]]:
        """Train C devices without privacy."""
        settings = self._settings
        histories = own.part(np.arange(len(users)))
        places = epoch_places(histories, open_draws(*key), settings, self._negatives, self._where)
        kept = self._kept(users, places, np.float32)
        steps = kernel.Descent(settings.batch_size, settings.learning_rate, settings.denominator or 0.0)
        kernel.descend(sent, places, kernel.scratch(places, self._dim), kept, steps)
        return self._contributed(own, places, kept)

    def _descend_privately(
        self, sent: kernel.Broadcast, own: CohortData, users: NDArray[np.float32], late: LateNoise, random: NoiseSource
    ) -> Contributions[StackedUpdates[TouchedRows]]:
        """Train C devices by DP-SGD."""
        histories = own.part(np.arange(len(users)))
        drawn = list(samples(histories, late.public, self._negatives, self._items, random))
        places, due = sample_places(histories, drawn, self._where)
        whole = late.kind(len(drawn) * places.rows.shape[1] * histories.items.shape[1])
        kept = self._kept(users, places, whole)
        device = kernel.scratch(places, self._dim)
        sums = dp_kernel.Sums(
            *(np.empty(shape, whole) for shape in (self._dim, (len(device.bias), kept.rows.shape[1]), len(device.bias)))
        )
        noise = late.draw(due, users.shape, kept.rows.shape[1], whole)
        steps = dp_kernel.PrivateDescent(late.grid.length, late.grid.clip, late.unit)
        dp_kernel.descend_privately(sent, places, (device, sums), kept, (due, noise), steps)
        late.note(places, due, len(users))
        return self._contributed(own, places, kept)

    def _kept(self, users: NDArray[np.float32], places: Places, kind: WholeKind | type[np.float32]) -> kernel.Kept:
        rows, columns = len(places.item), self._dim if self._learns else 0
        return kernel.Kept(users, np.zeros(len(users)), np.empty((rows, columns), kind), np.empty(rows, kind))

    def _contributed(
        self, own: CohortData, places: Places, kept: kernel.Kept
    ) -> Contributions[StackedUpdates[TouchedRows]]:
        passes = (len(places.passes) - 1) // max(len(own.users), 1)
        rows = {self._form.vectors: kept.rows, self._form.bias: kept.bias[:, None]}
        tile = TouchedRows(self._items, places.first, places.item, {name: rows[name] for name in self._shapes})
        return Contributions(
            own.users,
            StackedUpdates((tile,)),
            {self._form.user: kept.users.reshape(len(own.users), *self._private[self._form.user])},
            kept.loss,
            np.diff(places.passes[::passes]) if passes else np.zeros(len(own.users), np.int64),
        )


def tiles(numbers: NDArray[np.int64]) -> Iterator[slice]:
    """Yield slices of devices whose rows, of so many numbers each, fit into a tile together."""
    start = 0
    while start < max(len(numbers), 1):
        count = max(int(np.searchsorted(np.cumsum(numbers[start:]), TILE_NUMBERS, side="right")), 1)
        yield slice(start, start + count)
        start += count
