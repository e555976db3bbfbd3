"""The one table: who interacted with what, when. Large ones lie in files that are read where they are touched.

What each device holds: one user's history, and what is held out from it for validation and test.

`own_data` builds the same for a real device, from its own events and the catalogue that it was given.
"""

import mmap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, Self, cast

import numpy as np
from numpy.typing import NDArray

from fedrec.data.catalogue import Catalogue
from fedrec.errors import FedrecError


@dataclass(frozen=True, slots=True)
class Interactions:
    """Interactions sorted by user, then time; rows of equal time keep their order in the file.

    `user[n]` counts rows of `user_ids`, `item[n]` rows of the catalogue, `time[n]` is a whole number of what the data
    set's clock says (0 where the source has none, or where another order was asked for), `value[n]` is the rating (1
    where the source has none).
    """

    user: NDArray[np.int32]
    item: NDArray[np.int32]
    time: NDArray[np.int64]
    value: NDArray[np.float32]
    user_ids: NDArray[np.str_]
    items: int

    def __post_init__(self) -> None:
        sizes = {len(self.user), len(self.item), len(self.time), len(self.value)}
        if len(sizes) != 1:
            raise FedrecError(f"columns of unequal length: {sorted(sizes)}")
        if len(self.user) and (self.user.min() < 0 or self.user.max() >= self.users):
            raise FedrecError(f"user rows must lie in 0..{self.users - 1}")
        if len(self.item) and (self.item.min() < 0 or self.item.max() >= self.items):
            raise FedrecError(f"item rows must lie in 0..{self.items - 1}")
        if (self.user[1:] < self.user[:-1]).any():
            raise FedrecError("interactions must be sorted by user")

    def __len__(self) -> int:
        return len(self.user)

    @property
    def users(self) -> int:
        """How many users there are, those without any interaction included."""
        return len(self.user_ids)

    def counts(self) -> NDArray[np.int64]:
        """Return how many interactions each user has; rows stand by user, so that none is gone through."""
        return np.diff(np.searchsorted(self.user, np.arange(self.users + 1, dtype=np.int32)))


@dataclass(frozen=True, slots=True)
class FlatInteractions:
    """Interactions that lie as devices hold them, without time or value: user u has `item[start[u]:start[u + 1]]`.

    Users have no names but their numbers. Nothing here is larger than what a device's own history takes.
    """

    start: NDArray[np.int64]
    item: NDArray[np.int32]
    items: int

    def __len__(self) -> int:
        return len(self.item)

    @property
    def users(self) -> int:
        """How many users there are."""
        return len(self.start) - 1

    @property
    def user_ids(self) -> NDArray[np.str_]:
        """The numbers of all users as text."""
        return np.arange(self.users).astype(str)


def open_mmap(path: Path, dtype: str) -> NDArray[Any]:
    """Return a file of numbers as a read-only array; an empty file is an empty array."""
    if not path.stat().st_size:
        return np.empty(0, dtype)
    return np.memmap(path, dtype=dtype, mode="r")


def release_pages(*arrays: NDArray[Any]) -> None:
    """Give the pages of mapped arrays back: what is read again comes from the file; other arrays stay as they are.

    Nothing that was written to a mapped file is lost by it: the system keeps it until it is on disk.
    """
    for array in arrays:
        file = file_of(array)
        if file is not None and hasattr(mmap, "MADV_DONTNEED"):
            file.madvise(mmap.MADV_DONTNEED)


def file_of(array: NDArray[Any]) -> mmap.mmap | None:
    """Return the mapping that an array is a part of, None where it is of the process' own memory."""
    owner: Any = array
    while isinstance(owner, np.ndarray):
        owner = cast(Any, owner).base
    return owner if isinstance(owner, mmap.mmap) else None


LEAVE_LAST_OUT = "leave-last-out"
REPEATS = ("first", "last", "all", "count")  # which row of a user and an item stands for both, or all of them
BLOCK = 1 << 13  # users whose rows are gone through at a time


@dataclass(frozen=True, slots=True)
class DeviceData:
    """All that one device knows, items in the order of time.

    `history[n]` with `values[n]` may be trained on; `validation` and `test` hold the rows held out for each
    (usually one, possibly none); `candidates` are published test negatives, where the split brings them. `repeats`
    says that the same item may come again: then it may be recommended again, too.
    """

    user: int
    history: NDArray[np.int32]
    values: NDArray[np.float32]
    validation: NDArray[np.int32]
    test: NDArray[np.int32]
    test_values: NDArray[np.float32]
    candidates: NDArray[np.int32] | None = None
    repeats: bool = False

    @property
    def known(self) -> NDArray[np.int32]:
        """Everything before the test: what a device ranks from when it is tested."""
        return np.concatenate([self.history, self.validation])


@dataclass(frozen=True, slots=True)
class DeviceTable:
    """All devices of a population as flat arrays: no Python object per user until one is asked for.

    Device u owns `item[start[u]:start[u + 1]]`: its history up to `validation_from[u]`, then its validation rows up to
    `test_from[u]`, then its test rows. `candidates[users, c]` are published test negatives or None; `repeats` says that
    items of a device may come again, so that what it knows is among what it may be recommended.
    """

    start: NDArray[np.int64]
    validation_from: NDArray[np.int64]
    test_from: NDArray[np.int64]
    item: NDArray[np.int32]
    value: NDArray[np.float32]
    items: int
    candidates: NDArray[np.int32] | None = None
    repeats: bool = False

    def __len__(self) -> int:
        return len(self.start) - 1

    def __getitem__(self, user: int) -> DeviceData:
        if not 0 <= user < len(self):
            raise IndexError(f"device {user} of {len(self)}")
        first, held, test, end = (
            self.start[user],
            self.validation_from[user],
            self.test_from[user],
            self.start[user + 1],
        )
        return DeviceData(
            user=user,
            history=self.item[first:held],
            values=self.value[first:held],
            validation=self.item[held:test],
            test=self.item[test:end],
            test_values=self.value[test:end],
            candidates=None if self.candidates is None else self.candidates[user],
            repeats=self.repeats,
        )

    def __iter__(self) -> Iterator[DeviceData]:
        return (self[user] for user in range(len(self)))

    def release_pages(self) -> None:
        """Give back what of mapped files was read so far."""
        release_pages(self.item, self.value, self.start, self.validation_from, self.test_from)

    def refitted(self) -> "DeviceTable":
        """Return the same devices with validation joined to the history: for models refitted before the test."""
        return replace(self, validation_from=self.test_from)

    def known_counts(self) -> NDArray[np.int64]:
        """Return how often each item stands before the tests [V], a part of the population at a time."""
        counts = np.zeros(self.items, np.int64)
        for first in range(0, len(self), BLOCK):
            users = slice(first, first + BLOCK)
            start, end, test = self.start[:-1][users], self.start[1:][users], self.test_from[users]
            held = np.arange(start[0], end[-1]) >= np.repeat(test, end - start)
            counts += np.bincount(self.item[start[0] : end[-1]][~held], minlength=self.items)
            self.release_pages()
        return counts

    def count_known_targets(self) -> int:
        """Return how many test rows hold an item that their device has used before."""
        user = np.repeat(np.arange(len(self)), np.diff(self.start))
        key = user * self.items + self.item
        held = np.arange(len(key)) >= self.test_from[user]
        return int(np.isin(key[held], key[~held]).sum())

    def test_values(self) -> NDArray[np.float32]:
        """Return the value of every test row, user by user."""
        counts = self.start[1:] - self.test_from
        place = np.repeat(self.test_from - np.cumsum(counts) + counts, counts) + np.arange(counts.sum())
        return self.value[place]

    def train_rows(self) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.float32]]:
        """Return (user, item, value) of every history row: pooled data, for centralised baselines only."""
        counts = self.validation_from - self.start[:-1]
        user = np.repeat(np.arange(len(self)), counts)
        offset = np.arange(len(user)) - np.repeat(np.cumsum(counts) - counts, counts)
        row = self.start[user] + offset
        return user, self.item[row], self.value[row]


class Interaction(Protocol):
    """What is needed of an event."""

    @property
    def item(self) -> str:
        """What the catalogue calls the item."""
        ...

    @property
    def time(self) -> float:
        """When."""
        ...

    @property
    def value(self) -> float:
        """A rating, or 1."""
        ...


@dataclass(frozen=True, slots=True)
class HistoryRules:
    """How a device prepares its own events, as `dataset.threshold`, `.split` and `.repeats` say it for a data set."""

    threshold: float | None = None
    split: str = LEAVE_LAST_OUT
    repeats: str = REPEATS[0]

    @classmethod
    def of(cls, settings: Mapping[str, Any], split: str | None = None) -> Self:
        """Return the rules that the settings of a data set state, with another `split` where one is given."""
        return cls(settings.get("threshold"), split or str(settings.get("split")), settings.get("repeats", REPEATS[0]))


def device_data(
    events: Iterable[Interaction],
    catalogue: Catalogue,
    user: int,
    rules: HistoryRules,
    rows: Mapping[str, int] | None = None,
) -> DeviceData:
    """Return a device's history from its events, which come in the order of time.

    Like a data set's rows: exact duplicates once, repeats of an item as the rules say, ratings below the threshold
    dropped and the others 1, items that the catalogue lacks left out. The split is "leave-last-out" (as
    `fedrec.data.splits`) or "none": train on everything. `rows` are the catalogue's rows by id, where they are known.
    """
    row_of = rows if rows is not None else {str(name): row for row, name in enumerate(catalogue.ids)}
    distinct = list({(row_of[e.item], e.time, e.value): None for e in events if e.item in row_of})
    settled = settle_repeats([(item, value) for item, _, value in distinct], rules.repeats)
    kept = [(item, value) for item, value in settled if rules.threshold is None or value >= rules.threshold]
    items = np.array([item for item, _ in kept], np.int32)
    values = np.array([1.0 if rules.threshold is not None else value for _, value in kept], np.float32)
    test = len(kept) - 1 if rules.split == LEAVE_LAST_OUT and len(kept) >= 2 else len(kept)
    validation = test - 1 if test < len(kept) else test
    return DeviceData(
        user=user,
        history=items[:validation],
        values=values[:validation],
        validation=items[validation:test],
        test=items[test:],
        test_values=values[test:],
        repeats=rules.repeats == "all",
    )


def settle_repeats(events: Sequence[tuple[int, float]], repeats: str) -> list[tuple[int, float]]:
    """Return (item, value) events, one for each item as `SourceOptions.repeats` says; all where it is "all"."""
    if repeats == "all":
        return list(events)
    kept = dict[int, float]()
    for item, value in events[::-1] if repeats == "last" else events:
        if item not in kept:
            kept[item] = value
        elif repeats == "count":
            kept[item] += value
    return list(kept.items())[::-1] if repeats == "last" else list(kept.items())
