"""Which examples the steps of local training take, for one device or many at once: the same draws either way.

Shapes: C devices, n slots (the longest history among them), k negatives of each positive, V items. A pass goes through
some of each device's interactions once: slot s of device c holds its history row `order[c, s]`, for s < `count[c]`.

Negatives never look beyond the train items: a sampler that avoids validation or test items leaks them, because the
held-out item is then the only one never pushed down (invariant E1: measured with a counter of negatives,
with no model at all, at HR@10 = 1.0).

The passes that a device, or many at once, train on in one round.

Private arrays of many devices at once: their first values, and one device's part of them.

How a device trains: the settings that every engine shares; light, for devices without torch.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fedrec.data.interactions import DeviceData, DeviceTable
from fedrec.messages import Arrays
from fedrec.privacy.mechanisms.protocol import DPSGDConfig, NoiseSource
from fedrec.rng import CounterRNG, Stream, Words, normal, random_below, uniform


@dataclass(frozen=True, slots=True)
class LocalTrainingConfig:
    """How a device trains: `epochs` over batches of `batch_size`, `negatives` drawn per positive.

    A step follows the sum of the batch's gradients over `denominator`, or their mean where it is None.
    """

    epochs: int = 1
    batch_size: int = 64
    learning_rate: float = 0.1
    optimizer: str = "sgd"
    negatives: int = 4
    denominator: float | None = None


ORDER, NEGATIVE = 0, 1  # what an index is for: its highest bit
ATTEMPTS = 64


class Keyed(Protocol):
    """Where words come from: a counter, or a source that never gives the same word twice."""

    def keyed(self, users: NDArray[np.int64], index: NDArray[Any]) -> Words:
        """Return uniform 64-bit words [C, ...] for users [C] and `index` [C or 1, ...]."""
        ...


@dataclass(frozen=True, slots=True)
class Histories:
    """What devices may train on: `items`, `values` [C, n], of which the first `sizes[C]` of each line are real."""

    users: NDArray[np.int64]
    items: NDArray[np.int32]
    values: NDArray[np.float32]
    sizes: NDArray[np.int64]

    @classmethod
    def of(cls, device: DeviceData) -> "Histories":
        """Return the history of one device."""
        sizes = np.array([len(device.history)], np.int64)
        return cls(np.array([device.user], np.int64), device.history[None], device.values[None], sizes)

    @classmethod
    def at(cls, table: DeviceTable, users: NDArray[np.int64]) -> "Histories":
        """Return the histories of some users of a table."""
        sizes = table.validation_from[users] - table.start[users]
        slot = np.arange(sizes.max(initial=0))
        row = table.start[users][:, None] + np.minimum(slot, np.maximum(sizes - 1, 0)[:, None])
        row = np.minimum(row, max(len(table.item) - 1, 0))
        return cls(users, table.item[row], table.value[row], sizes)

    def real(self) -> NDArray[np.bool_]:
        """Return which entries are real [C, n]."""
        return np.arange(self.items.shape[1]) < self.sizes[:, None]


@dataclass(frozen=True, slots=True)
class CohortData:
    """Some users of a table, whose histories are copied out a part at a time: none is padded to the longest of all."""

    table: DeviceTable
    users: NDArray[np.int64]

    @property
    def sizes(self) -> NDArray[np.int64]:
        """How long the histories are [C]."""
        return self.table.validation_from[self.users] - self.table.start[self.users]

    def part(self, some: NDArray[np.int64]) -> Histories:
        """Return the histories of some of the devices, by place, their lines as long as the longest of them."""
        return Histories.at(self.table, self.users[some])


@dataclass(frozen=True, slots=True)
class Epoch:
    """One pass in batches of `batch` slots: `order` [C, n], `count` [C], `negatives` [C, n, k]."""

    order: NDArray[np.int64]
    count: NDArray[np.int64]
    negatives: NDArray[np.int64]
    batch: int

    def steps(self) -> Iterator[slice]:
        """Yield the slots of each step; a pass without any example is one empty step."""
        for start in range(0, max(int(self.count.max(initial=0)), 1), self.batch):
            yield slice(start, start + self.batch)


def shuffled(random: Keyed, histories: Histories, number: int, batch: int) -> NDArray[np.int64]:
    """Return all rows of each history in random order [C, n]; in their own order where one batch holds them all."""
    slots = np.arange(histories.items.shape[1])
    if histories.sizes.max(initial=0) <= batch:
        return np.broadcast_to(slots, histories.items.shape)
    words = random.keyed(histories.users, _index(ORDER, number, slots[None])) >> np.uint64(1)
    words[~histories.real()] = np.iinfo(np.uint64).max
    # Where all of a device fits into a batch, alone it would have kept its order: so it does in company.
    return np.where((histories.sizes > batch)[:, None], np.argsort(words, axis=1), slots)


def poisson(
    random: Keyed, histories: Histories, number: int, rate: float
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return (order [C, n], count [C]): each row is there with probability `rate`, independently of all others."""
    slots = np.arange(histories.items.shape[1])
    there = histories.real()
    if rate < 1:
        there &= uniform(random.keyed(histories.users, _index(ORDER, number, slots[None]))) < rate
    return np.argsort(~there, axis=1, kind="stable"), there.sum(axis=1)


def uniform_negatives(random: Keyed, histories: Histories, number: int, items: int, k: int) -> NDArray[np.int64]:
    """Return item rows [C, n, k] drawn uniformly from the catalogue, without looking at any data."""
    return random_below(random.keyed(histories.users, _index(NEGATIVE, number, _places(histories, k))), items)


class Slots:
    """Scratch numbers, one for each key, that nobody clears: who reads one has just written it, or checks it."""

    def __init__(self) -> None:
        self._numbers = np.zeros(0, np.int32)

    def upto(self, limit: int) -> NDArray[np.int32]:
        """Return the slots of keys below `limit`, and maybe more."""
        if len(self._numbers) < limit:
            self._numbers = np.zeros(limit, np.int32)
        return self._numbers


class NegativeSampler:
    """Draws negatives uniformly from the items that a device has not trained on; from all items if none is left."""

    def __init__(self, items: int, slots: Slots | None = None) -> None:
        self.items, self._slots = items, slots or Slots()

    def draw(self, random: Keyed, histories: Histories, number: int, k: int) -> NDArray[np.int64]:
        """Return item rows [C, n, k]."""
        if not k:
            return np.empty((*histories.items.shape, 0), np.int64)
        places = _places(histories, k)
        drawn = random_below(random.keyed(histories.users, _index(NEGATIVE, number, places)), self.items)
        real, used = self._used(histories)
        dense = np.bincount(np.nonzero(real)[0][self._first], minlength=len(real)) * 2 > self.items
        bad = np.zeros(drawn.shape, bool)
        bad[real] = self._holds(used, histories, drawn)[real]
        bad[dense] = False
        for attempt in range(1, ATTEMPTS):
            if not bad.any():
                break
            device = np.nonzero(bad)[0]
            index = _index(NEGATIVE, number, np.broadcast_to(places, drawn.shape)[bad], attempt)
            again = random_below(random.keyed(histories.users[device], index), self.items)
            drawn[bad] = again
            bad[bad] = self._member(used, device * self.items + again)
        for line in np.flatnonzero(dense).tolist():
            drawn[line] = self._complement(random, histories, number, line, places)
        return drawn

    def _used(self, histories: Histories) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
        """Return which entries are real, and the keys (device * V + item) of the items used; note where each lies.

        A sparse set (Briggs & Torczon 1993): nothing need be cleared, because a slot that is stale points at a member
        with another key.
        """
        real = histories.real()
        slot = self._slots.upto(len(real) * self.items)
        used = (np.arange(len(real))[:, None] * self.items + histories.items)[real]
        slot[used] = np.arange(len(used), dtype=np.int32)
        self._first = np.flatnonzero(slot[used] == np.arange(len(used)))
        return real, used

    def _member(self, used: NDArray[np.int64], keys: NDArray[np.int64]) -> NDArray[np.bool_]:
        if not len(used):
            return np.zeros(keys.shape, bool)
        return used[np.minimum(self._slots.upto(0)[keys], len(used) - 1)] == keys

    def _holds(self, used: NDArray[np.int64], histories: Histories, drawn: NDArray[np.int64]) -> NDArray[np.bool_]:
        return self._member(used, np.arange(len(drawn))[:, None, None] * self.items + drawn)

    def _complement(
        self, random: Keyed, histories: Histories, number: int, line: int, places: NDArray[np.int64]
    ) -> NDArray[np.int64]:
        """Draw for a device that has used most of the catalogue, where trying again would take long."""
        left = np.setdiff1d(np.arange(self.items), histories.items[line, : histories.sizes[line]])
        words = random.keyed(histories.users[line : line + 1], _index(NEGATIVE, number, places, ATTEMPTS))[0]
        return left[random_below(words, len(left))] if len(left) else random_below(words, self.items)


def _places(histories: Histories, k: int) -> NDArray[np.int64]:
    slots = np.arange(histories.items.shape[1])
    return (slots[:, None] * k + np.arange(k))[None]


def _index(purpose: int, number: int, place: NDArray[np.int64], attempt: int = 0) -> NDArray[np.int64]:
    """Pack (purpose, pass, attempt, place) into one number: 1, 15, 8 and 40 bits (the top bit stays free for int64)."""
    return place + (((purpose << 14 | number) << 8 | attempt) << 40)


@lru_cache(maxsize=8)  # the devices of a round share one, and its key takes longer to derive than its draws
def open_draws(seed: int, round_number: int) -> CounterRNG:
    """Return the source of the draws that no guarantee rests on: everybody may know them."""
    return CounterRNG(seed, round_number, Stream.TRAIN)


def epochs(
    histories: Histories, settings: LocalTrainingConfig, negatives: int, outside: NegativeSampler, random: Keyed
) -> Iterator[Epoch]:
    """Yield each epoch: all examples shuffled, `negatives` of each drawn outside of the device's items."""
    for number in range(settings.epochs):
        order = shuffled(random, histories, number, settings.batch_size)
        drawn = outside.draw(random, histories, number, negatives)
        yield Epoch(order, histories.sizes, drawn, settings.batch_size)


def samples(
    histories: Histories, public: DPSGDConfig, negatives: int, items: int, random: NoiseSource
) -> Iterator[Epoch]:
    """Yield each step of DP-SGD as a pass of its own: a Poisson sample, negatives uniform over the catalogue.

    The guarantee rests on the negatives of one interaction being independent of all others: drawn in turn from a seed
    that the adversary knows, or outside of the device's items, an interaction more or less would shift the negatives of
    others, and clipping would bound nothing. So all draws are the mechanism's.
    """
    for number in range(public.local_steps):
        order, count = poisson(random, histories, number, public.sample_rate)
        drawn = uniform_negatives(random, histories, number, items, negatives)
        yield Epoch(order, count, drawn, max(order.shape[1], 1))


def first_private(shapes: Mapping[str, tuple[int, ...]], std: float, seed: int, users: NDArray[np.int64]) -> Arrays:
    """Return what devices start from, as if they had never trained: N(0, std^2), arrays [C, ...] of these shapes."""
    if not shapes:
        return {}
    sizes = {name: int(np.prod(shape)) for name, shape in sorted(shapes.items())}
    width = sum(sizes.values())
    if std:
        flat = std * normal(CounterRNG(seed, Stream.PRIVATE).keyed(users, np.arange(width + width % 2)[None]))
    else:
        flat = np.zeros((len(users), width))
    starts = np.cumsum([0, *sizes.values()])
    return {
        name: flat[:, start : start + size].reshape(len(users), *shapes[name]).astype(np.float32)
        for (name, size), start in zip(sizes.items(), starts, strict=False)
    }
