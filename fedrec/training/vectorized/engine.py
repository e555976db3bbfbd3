"""The cohort engine: the local training of many devices at once, with the result of `local.train` on each of them.

Devices keep copies of the rows that they can touch only, and of the dense parameters; steps are taken on all of them
together. With DP-SGD, steps add whole numbers on a public grid (`fedrec.privacy.step_grid`), and parameters are made of
the sums: floats begin after the noise. Noise on a row that a device does not read before its next step can wait: the
rest of a step of plain gradient descent is linear, so that what has piled up is drawn when the row is read, and what is
never read once for the sum of all devices. That has the law of noise at every step (for centralised training: Ren et
al., "LazyDP", 2024), as long as only the sum is released and nothing but sampled rows is read: hence plain gradient
descent alone.

Shapes: C devices, V items, R rows, b examples of a step, k negatives.

Keeps the C library from giving freed memory back to the system between two steps, only to ask for it again.
"""

import ctypes
import math
import sys
from collections.abc import Callable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedrec.errors import FedrecError, RefusedError
from fedrec.messages import Arrays
from fedrec.models.base import Recommender, TrainableRecommender
from fedrec.privacy.guarantee import Trust
from fedrec.privacy.mechanisms.protocol import DPSGDConfig, Mechanism
from fedrec.rng import Stream
from fedrec.training.batches import (
    CohortData,
    Epoch,
    Histories,
    LocalTrainingConfig,
    NegativeSampler,
    Slots,
    epochs,
    first_private,
    open_draws,
    samples,
)
from fedrec.training.vectorized.stacked_model import (
    StackedModel,
    StepNoise,
    check,
    clipped_step,
    plain_step,
)
from fedrec.training.vectorized.updates import Contributions, RowIndex, StackedUpdates, Tile, TileUpdates, joined

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # glibc's numbers of what `mallopt` can set
KEPT_BYTES = 1 << 26
WHOLE_BYTES = (
    12 << 20
)  # above what a step needs, below the table of a hundred thousand items: that comes and goes whole


def keep_freed_memory() -> None:
    """Let freed memory stay with the process, up to 64 MiB: fresh pages cost the engine a seventh of its time.

    Only where the C library is glibc's; elsewhere nothing changes.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(TRIM_THRESHOLD, KEPT_BYTES)
        mallopt(MMAP_THRESHOLD, WHOLE_BYTES)


FLOATS = 1 << 19  # of one activation in a step: what a core keeps in its cache
MOST_DEVICES = 512
SLOTS = 1 << 22  # pairs of a device and an item that a tile may have: looking them up takes 32 MiB
PLACE_BYTES = 16  # of a row's item and device


def unsupported_reason(model: Recommender, settings: LocalTrainingConfig, mechanism: Mechanism) -> str | None:
    """Return why devices can't train at once with this model and mechanism, or None where they can."""
    return refused_together(model, settings, mechanism, lambda trainable: check(StackedModel(trainable), trainable))


def refused_together(
    model: Recommender,
    settings: LocalTrainingConfig,
    mechanism: Mechanism,
    check_model: Callable[[TrainableRecommender], object],
) -> str | None:
    """Return why no engine trains such devices together, or what `check_model` raises of the model, in words."""
    if not isinstance(model, TrainableRecommender):
        return f"{type(model).__name__} does not train"
    if mechanism.pools_users:
        return f"{type(mechanism).__name__} trains the users of a node as one"
    if (reason := own_noise(mechanism)) is not None:
        return reason
    if settings.optimizer != "sgd":
        return f"algorithm.optimizer={settings.optimizer} is not plain gradient descent"
    try:
        check_model(model)
    except RefusedError as reason:
        return str(reason)
    return None


def own_noise(mechanism: Mechanism) -> str | None:
    """Return why noise can't be drawn for many devices at once, or None where it can, or where there is none."""
    if mechanism.terms.trust in (Trust.DEVICE, Trust.SUMS) and not mechanism.private:
        return "seeded noise is each device's own, and noise for many at once would depend on who is among them"
    return None


class VectorizedEngine:
    """Trains many devices of one model at once; its scratch memory stays with it."""

    def __init__(
        self, model: TrainableRecommender, settings: LocalTrainingConfig, outside: NegativeSampler | None = None
    ) -> None:
        """Draw negatives by `outside`, where it is given, instead of outside of the train items: to study samplers."""
        self._stacked, self._settings, self._items = StackedModel(model), settings, model.items
        slots = Slots()  # of one use at a time: a tile's negatives are all drawn before its rows are numbered
        self._outside, self._numbering = outside or NegativeSampler(model.items, slots), RowIndex(slots)
        self._negatives = settings.negatives if model.negatives_useful else 0
        self._private = {name: shape for name, shape in self._stacked.shapes.items() if name not in model.shared}
        self._std = model.private_std
        keep_freed_memory()

    def first_private(self, seed: int, users: NDArray[np.int64]) -> Arrays:
        """Return the private arrays [C, ...] that devices start from."""
        return first_private(self._private, self._std, seed, users)

    def bytes_in_flight(self, chosen: CohortData, mechanism: Mechanism) -> int:
        """Return how many bytes the changes of these devices may take until they are summed: no item is met twice."""
        public, twin, sizes = mechanism.dp_sgd(), self._stacked, chosen.sizes
        passes = public.local_steps * public.sample_rate if public else self._settings.epochs
        rows = np.minimum(sizes * passes * (1 + self._negatives), self._items).sum() + len(sizes)
        numbers = {n: math.prod(shape[1:] if n in twin.by_item else shape) for n, shape in twin.shapes.items()}
        of_rows = sum(number for n, number in numbers.items() if n in twin.by_item)
        dense = sum(number for n, number in numbers.items() if n not in twin.by_item)
        return int(rows * (4 * of_rows + PLACE_BYTES) + len(sizes) * (8 if public else 4) * dense)

    @torch.no_grad()
    def train(
        self, broadcast: Arrays, chosen: CohortData, private: Arrays, mechanism: Mechanism, key: tuple[int, int]
    ) -> Contributions[StackedUpdates[TileUpdates]]:
        """Return what the devices contribute after local training in the round of `key`: (seed, round).

        `private` holds their private arrays [C, ...]. Devices come back in an order of the engine's own.
        """
        self._check(broadcast)
        shared = {name: torch.from_numpy(array).to(self._stacked.device) for name, array in broadcast.items()}
        late, sizes = self._late(mechanism, chosen, key), chosen.sizes
        order, parts = np.argsort(-sizes, kind="stable"), list[Contributions[StackedUpdates[TileUpdates]]]()
        for tile_ in self._tiles(sizes[order], mechanism.dp_sgd()):
            some = order[tile_]
            own = chosen.part(some)
            tile = self._numbering.tile(own, list(self._passes(own, mechanism, key)), self._items)
            mine = {name: torch.from_numpy(array[some]).to(self._stacked.device) for name, array in private.items()}
            parts.append(self._train_tile(shared, mine, own, tile, late))
        return joined(parts, late.remaining(), late.units) if late else joined(parts)

    def _check(self, broadcast: Arrays) -> None:
        for name, array in broadcast.items():
            expected = self._stacked.shapes.get(name, "no such array")
            if expected != array.shape:
                raise FedrecError(f"the model can't take {name} of shape {array.shape}: {expected} expected")

    def _late(self, mechanism: Mechanism, chosen: CohortData, key: tuple[int, int]) -> StepNoise | None:
        public = mechanism.dp_sgd()
        if public is None:
            return None
        random = mechanism.random(*key, *chosen.users[:1].tolist(), Stream.NOISE)
        return StepNoise(self._stacked, self._items, public, self._settings.learning_rate, random)

    def _passes(self, own: Histories, mechanism: Mechanism, key: tuple[int, int]) -> Iterator[Epoch]:
        public = mechanism.dp_sgd()
        if public is None:
            return epochs(own, self._settings, self._negatives, self._outside, open_draws(*key))
        return samples(own, public, self._negatives, self._items, mechanism.random(*key, Stream.TRAIN))

    def _tiles(self, sizes: NDArray[np.int64], public: DPSGDConfig | None) -> Iterator[slice]:
        """Yield slices of devices of similar size, so many that a step's activations stay in the cache."""
        start, places = 0, (1 + self._negatives) * self._stacked.width
        while start < len(sizes):
            longest = min(int(sizes[start]), self._settings.batch_size)
            if public:
                longest = math.ceil(1.2 * public.sample_rate * int(sizes[start]))
            count = min(FLOATS // (max(longest, 1) * places), SLOTS // self._items, MOST_DEVICES)
            count = max(count, 1)
            yield slice(start, start + count)
            start += count

    def _train_tile(
        self,
        shared: dict[str, Tensor],
        private: dict[str, Tensor],
        own: Histories,
        tile: Tile,
        late: StepNoise | None,
    ) -> Contributions[StackedUpdates[TileUpdates]]:
        """Train C devices from their first step to their last."""
        devices, twin = len(own.users), self._stacked
        items, owner = (torch.from_numpy(a).to(twin.device) for a in (tile.items, tile.owner))
        stacked = {
            n: a.index_select(0, items) if n in twin.by_item else a.expand(devices, *a.shape).clone()
            for n, a in shared.items()
        }
        twin.load({**stacked, **{name: array.clone() for name, array in private.items()}}, items)
        if late:
            late.tile(items, devices)
        loss = self._steps(tile, devices, late)
        after = twin.arrays(devices)
        if late:
            late.end()
            changes = {name: sums for name, sums in twin.sums(devices).items() if name in shared}
        else:
            changes = {
                name: after[name].sub_(before.index_select(0, items) if name in twin.by_item else before)
                for name, before in shared.items()
            }
        tiled = TileUpdates(
            catalogue=self._items,
            count=devices,
            items=items,
            owner=owner,
            rows={name: change for name, change in changes.items() if name in twin.by_item},
            dense={name: change for name, change in changes.items() if name not in twin.by_item},
        )
        kept = {name: after[name].cpu().numpy() for name in self._private}
        return Contributions(
            own.users, StackedUpdates((tiled,)), kept, loss, sum(tile.counts, np.zeros(devices, np.int64))
        )

    def _steps(self, tile: Tile, devices: int, late: StepNoise | None) -> NDArray[np.float64]:
        """Take all steps; return the devices' summed losses [C]."""
        loss = torch.zeros(devices, dtype=torch.float64, device=self._stacked.device)
        for number, (rows, values, counts) in enumerate(zip(tile.rows, tile.values, tile.counts, strict=True)):
            x, y, real = (torch.from_numpy(a).to(self._stacked.device) for a in (rows, values, counts))
            if late:
                late.before(x, number)
                clipped_step(self._stacked, (x, y, real), late.grid, loss)
                late.after(number)
                continue
            for start in range(0, x.shape[1], self._settings.batch_size):
                active = int((counts > start).sum())  # a prefix: devices come longest first
                part = slice(start, start + self._settings.batch_size)
                plain_step(
                    self._stacked, (x[:active, part], y[:active, part], real[:active] - start), self._settings, loss
                )
        return loss.cpu().numpy()
