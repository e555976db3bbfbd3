"""What is taken out of a source's rows before they become a data set, each kind counted: nothing else ever goes.

First exact duplicates, then repeats of a user with an item, then ratings below the threshold, then users with too few
rows. So it is settled which rating of a pair counts before anybody asks whether it is a like.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedrec.data.facts import RepeatCounts
from fedrec.data.sources import Rows, SourceOptions
from fedrec.errors import FedrecError

Positions = NDArray[np.int64]

DUPLICATES = "exact duplicates (first kept)"
REPEATS_SETTLED = {
    "first": "repeats of a pair (first kept)",
    "last": "repeats of a pair (last kept)",
    "count": "repeats of a pair (added up)",
}
BELOW_THRESHOLD = "ratings below the threshold"
BELOW_MINIMUM = "users below the minimum"


@dataclass(frozen=True, slots=True)
class RepairLog:
    """`rows[n]` are the rows kept, in file order, with their `value[n]` if any; `users[u]` the user codes kept.

    `repairs` is what went and how many; `repeats` counts rows of a pair that came before, kept or not.
    """

    rows: Positions
    value: NDArray[np.float64] | None
    users: NDArray[np.bool_]
    repairs: tuple[tuple[str, int], ...]
    repeats: RepeatCounts


@dataclass(frozen=True, slots=True)
class Repeated:
    """The rows of pairs that stand more than once: `row[n]` pair by pair, each in order; `start[p]` where it begins."""

    row: Positions
    start: Positions

    @property
    def size(self) -> Positions:
        """How many rows each pair has."""
        return np.diff(self.start, append=len(self.row))

    def disagreeing(self, value: NDArray[np.float64] | None) -> int:
        """Return how many pairs have rows of different values."""
        if value is None or not len(self.row):
            return 0
        found = value[self.row]
        return int((np.maximum.reduceat(found, self.start) != np.minimum.reduceat(found, self.start)).sum())


def repair(rows: Rows, options: SourceOptions, rank: NDArray[np.number] | None = None) -> RepairLog:
    """Take out what the options say; `rank[n]` orders rows, those of equal or no rank keep their order in the file."""
    kept, value, found = np.arange(len(rows)), rows.value, list[tuple[str, int]]()
    several = several_rows(rows)
    doubled = duplicates(rows, several)
    repeated = grouped(rows, np.setdiff1d(several, doubled, True), rank)
    extra = len(repeated.row) - len(repeated.start)
    if len(doubled):
        found.append((DUPLICATES, len(doubled)))
        kept = np.setdiff1d(kept, doubled, True)
    last = _last_repeated(rows, kept, repeated, rank) if extra else 0
    counts = RepeatCounts(extra, repeated.disagreeing(value), last)
    if extra and options.repeats != "all":
        found.append((REPEATS_SETTLED[options.repeats], extra))
        kept = np.setdiff1d(kept, _others(repeated, last=options.repeats == "last"), True)
    if options.repeats == "count":
        value = _sums(rows, repeated)
    value = None if value is None else value[kept]
    if options.threshold is not None:
        if value is None:
            no_ratings = "needs ratings, and none are read; a csv's stand in dataset.columns.value"
            raise FedrecError(f"{rows.place(0)}: dataset.threshold={options.threshold} {no_ratings}")
        enough = value >= options.threshold
        found.append((BELOW_THRESHOLD, int((~enough).sum())))
        kept, value = kept[enough], value[enough]
    users = np.bincount(rows.user.codes[kept], minlength=len(rows.user.names)) >= options.minimum
    found.append((BELOW_MINIMUM, int((~users).sum())))
    there = users[rows.user.codes[kept]]
    value = None if value is None else value[there]
    return RepairLog(kept[there], value, users, tuple(one for one in found if one[1]), counts)


def _last_repeated(rows: Rows, kept: Positions, repeated: Repeated, rank: NDArray[np.number] | None) -> int:
    """Return how many users' last row of those kept is of an item that they had before."""
    order = kept if rank is None else kept[np.argsort(rank[kept], kind="stable")]
    last = np.full(len(rows.user.names), -1)
    last[rows.user.codes[order]] = order  # the last one stays
    again = np.zeros(len(rows), bool)
    again[repeated.row] = True
    again[repeated.row[repeated.start]] = False
    return int(again[last[last >= 0]].sum())


def _others(repeated: Repeated, last: bool) -> Positions:
    """Return the rows that do not stand for their pair, ascending."""
    stands = np.zeros(len(repeated.row), bool)
    stands[repeated.start + (repeated.size - 1 if last else 0)] = True
    return np.sort(repeated.row[~stands])


def _sums(rows: Rows, repeated: Repeated) -> NDArray[np.float64]:
    """Return the values with the sum of each pair's at its first row: how many there are, where rows have no value."""
    value = np.ones(len(rows)) if rows.value is None else rows.value.copy()
    if len(repeated.start):
        value[repeated.row[repeated.start]] = np.add.reduceat(value[repeated.row], repeated.start)
    return value


def several_rows(rows: Rows) -> Positions:
    """Return the rows, ascending, whose user and item stand in another row as well."""
    pair = rows.pairs()
    order = np.argsort(pair)
    pair = pair[order]
    same = np.flatnonzero(pair[1:] == pair[:-1])
    found = np.zeros(len(pair), bool)
    found[order[same]] = found[order[same + 1]] = True
    return np.flatnonzero(found)


def duplicates(rows: Rows, among: Positions) -> Positions:
    """Return those of some rows, ascending, that repeat an earlier one in user, item, time and value.

    Where there is no time, nothing tells a duplicate from a repeat, and none is called one.
    """
    if rows.time is None or not len(among):
        return np.zeros(0, np.int64)
    value = np.zeros(len(rows)) if rows.value is None else rows.value
    keys = (rows.pairs()[among], rows.time[among], value[among])
    order = np.lexsort(keys)  # stable: among equal rows the first of the file stays first
    same = np.logical_and.reduce([key[order][1:] == key[order][:-1] for key in keys])
    return np.sort(among[order[1:][same]])


def grouped(rows: Rows, among: Positions, rank: NDArray[np.number] | None) -> Repeated:
    """Return some rows pair by pair, those of a pair in the order of their rank, then of the file."""
    pair = rows.pairs()[among]
    order = np.argsort(pair, kind="stable") if rank is None else np.lexsort((rank[among], pair))
    start = np.flatnonzero(np.diff(pair[order], prepend=-1))
    return Repeated(among[order], start)
