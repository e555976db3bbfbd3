"""What each device holds: one user's history, and what is held out from it for validation and test.

`own_data` builds the same for a real device, from its own events and the catalogue that it was given.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from fedrec.data.catalogue import Catalogue
from fedrec.data.interactions import release_pages

LEAVE_LAST_OUT = "leave-last-out"
BLOCK = 1 << 13  # users whose rows are gone through at a time


@dataclass(frozen=True, slots=True)
class DeviceData:
    """All that one device knows, items in the order of time.

    `history[n]` with `values[n]` may be trained on; `validation` and `test` hold the rows held out for each
    (usually one, possibly none); `candidates` are published test negatives, where the split brings them.
    """

    user: int
    history: NDArray[np.int32]
    values: NDArray[np.float32]
    validation: NDArray[np.int32]
    test: NDArray[np.int32]
    test_values: NDArray[np.float32]
    candidates: NDArray[np.int32] | None = None

    @property
    def known(self) -> NDArray[np.int32]:
        """Everything before the test: what a device ranks from, and leaves out, when it is tested."""
        return np.concatenate([self.history, self.validation])


@dataclass(frozen=True, slots=True)
class DeviceTable:
    """All devices of a population as flat arrays: no Python object per user until one is asked for.

    Device u owns `item[start[u]:start[u + 1]]`: its history up to `validation_from[u]`, then its validation rows up to
    `test_from[u]`, then its test rows. `candidates[users, c]` are published test negatives or None.
    """

    start: NDArray[np.int64]
    validation_from: NDArray[np.int64]
    test_from: NDArray[np.int64]
    item: NDArray[np.int32]
    value: NDArray[np.float32]
    items: int
    candidates: NDArray[np.int32] | None = None

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


def device_data(
    events: Iterable[Interaction],
    catalogue: Catalogue,
    user: int,
    *,
    threshold: float | None,
    split: str,
    rows: Mapping[str, int] | None = None,
) -> DeviceData:
    """Return a device's history from its events, which come in the order of time.

    Like a data set's rows: exact repeats once, ratings below `threshold` dropped and the others 1, items that the
    catalogue lacks left out. `split` is "leave-last-out" (as `fedrec.data.splits`) or "none": train on everything.
    `rows` are the catalogue's rows by id, for those who have them.
    """
    row_of = rows if rows is not None else {str(name): row for row, name in enumerate(catalogue.ids)}
    distinct = {(row_of[e.item], e.time, e.value): None for e in events if e.item in row_of}
    kept = [(item, value) for item, _, value in distinct if threshold is None or value >= threshold]
    items = np.array([item for item, _ in kept], np.int32)
    values = np.array([1.0 if threshold is not None else value for _, value in kept], np.float32)
    test = len(kept) - 1 if split == LEAVE_LAST_OUT and len(kept) >= 2 else len(kept)
    validation = test - 1 if test < len(kept) else test
    return DeviceData(
        user=user,
        history=items[:validation],
        values=values[:validation],
        validation=items[validation:test],
        test=items[test:],
        test_values=values[test:],
    )
