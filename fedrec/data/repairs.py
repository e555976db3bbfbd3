"""Repairs that fedrec makes without asking, each counted and stated: nothing else is ever dropped."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedrec.data.sources import Rows
from fedrec.errors import FedrecError

DUPLICATES = "exact duplicates (first kept)"
BELOW_THRESHOLD = "ratings below the threshold"
BELOW_MINIMUM = "users below the minimum"


@dataclass(frozen=True, slots=True)
class Kept:
    """`rows[n]` are the rows kept, in file order, `users[u]` the user codes kept; `repairs` what went and how many."""

    rows: NDArray[np.int64]
    users: NDArray[np.bool_]
    repairs: tuple[tuple[str, int], ...]


def repair(rows: Rows, threshold: float | None, minimum: int) -> Kept:
    """Drop exact duplicates, then ratings below the threshold, then users left with fewer rows than the minimum."""
    kept = np.setdiff1d(np.arange(len(rows)), duplicates(rows), assume_unique=True)
    found = [(DUPLICATES, len(rows) - len(kept))]
    if threshold is not None:
        if rows.value is None:
            no_ratings = "needs ratings, and none are read; a csv's stand in dataset.columns.value"
            raise FedrecError(f"{rows.place(0)}: dataset.threshold={threshold} {no_ratings}")
        enough = rows.value[kept] >= threshold
        found.append((BELOW_THRESHOLD, int((~enough).sum())))
        kept = kept[enough]
    users = np.bincount(rows.user.codes[kept], minlength=len(rows.user.names)) >= minimum
    found.append((BELOW_MINIMUM, int((~users).sum())))
    kept = kept[users[rows.user.codes[kept]]]
    return Kept(kept, users, tuple((what, count) for what, count in found if count))


def first_of_each_pair(rows: Rows) -> NDArray[np.int64]:
    """Return the rows, ascending, that are the first in time (ties: in the file) of their user and item."""
    time = np.zeros(len(rows)) if rows.time is None else rows.time
    pair = rows.user.codes * len(rows.item.names) + rows.item.codes
    order = np.lexsort((time, pair))  # stable: among equal times the first of the file stays first
    first = np.concatenate([[True], np.diff(pair[order]) != 0])
    return np.sort(order[first])


def duplicates(rows: Rows) -> NDArray[np.int64]:
    """Return the rows, ascending, that repeat an earlier one in user, item, time and value."""
    pair = rows.user.codes * len(rows.item.names) + rows.item.codes
    ordered = np.sort(pair)
    repeated = np.unique(ordered[1:][ordered[1:] == ordered[:-1]])
    if not len(repeated):
        return np.array([], np.int64)
    candidate = np.flatnonzero(np.isin(pair, repeated))
    zero = np.zeros(len(rows))
    time, value = (column if column is not None else zero for column in (rows.time, rows.value))
    keys = (pair[candidate], time[candidate], value[candidate])
    order = np.lexsort(keys)  # stable: among equal rows the first of the file stays first
    same = np.logical_and.reduce([key[order][1:] == key[order][:-1] for key in keys])
    return np.sort(candidate[order[1:][same]])
