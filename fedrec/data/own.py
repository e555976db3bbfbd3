"""What one device trains on: its own events, as the rows of the catalogue that it was given."""

from collections.abc import Iterable, Mapping
from typing import Protocol

import numpy as np

from fedrec.data.catalogue import Catalogue
from fedrec.data.devices import LEAVE_LAST_OUT, DeviceData


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
