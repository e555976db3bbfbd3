"""What is taken out of a source's rows before they become a data set, each kind counted: nothing else ever goes.

First exact duplicates, then repeats of a user with an item, then ratings below the threshold, then users with too few
rows. So it is settled which rating of a pair counts before anybody asks whether it is a like.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedrec.data.facts import RepeatCounts
from fedrec.data.io.ids import Tokens
from fedrec.data.ordering import Positions, gather, order_by, row_blocks
from fedrec.data.sources import Rows, SourceOptions
from fedrec.data.stages import tell
from fedrec.errors import FedrecError

Mask = NDArray[np.bool_]

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
    """`rows[n]` are the rows kept, by user and rank, with their `value[n]` if any; `users[u]` the user codes kept.

    `repairs` is what went and how many; `repeats` counts rows of a pair that came before, kept or not.
    """

    rows: Positions
    value: NDArray[np.float32] | None
    users: Mask
    repairs: tuple[tuple[str, int], ...]
    repeats: RepeatCounts


@dataclass(frozen=True, slots=True)
class Repeated:
    """The rows of pairs that stand more than once: `place[n]` in the order of all rows, pair by pair.

    `start[p]` is where a pair begins; those of a pair are in the order of all rows.
    """

    place: Positions
    start: Positions

    @property
    def size(self) -> Positions:
        """How many rows each pair has."""
        return np.diff(self.start, append=len(self.place))

    @property
    def extra(self) -> Positions:
        """The places of rows whose pair came before."""
        return np.delete(self.place, self.start)

    def others(self, last: bool) -> Positions:
        """Return the places of rows that do not stand for their pair, of which the last one does, or the first."""
        return np.delete(self.place, self.start + (self.size - 1 if last else 0))

    def without(self, places: Positions) -> "Repeated":
        """Return the pairs that still stand more than once without these rows."""
        pair = np.repeat(np.arange(len(self.start)), self.size)
        left = ~np.isin(self.place, places)
        left &= (np.bincount(pair[left], minlength=len(self.start)) > 1)[pair]
        return Repeated(self.place[left], np.flatnonzero(np.diff(pair[left], prepend=-1)))

    def disagreeing(self, value: NDArray[np.float64]) -> int:
        """Return how many pairs have rows of different values, given those of `place`."""
        if not len(self.place):
            return 0
        return int((np.maximum.reduceat(value, self.start) != np.minimum.reduceat(value, self.start)).sum())


def repair(rows: Rows, options: SourceOptions, order: Positions) -> RepairLog:
    """Take out what the options say; `order` holds all rows user by user, those of a user as they came."""
    tell("looking for repeats", 0, len(order))
    there, value, found = np.ones(len(order), bool), rows.value, list[tuple[str, int]]()
    repeated = repeated_pairs(rows, order)
    doubled = duplicates(rows, order, repeated)
    if len(doubled):
        found.append((DUPLICATES, len(doubled)))
        there[doubled] = False
        repeated = repeated.without(doubled)
    extra = repeated.extra
    differing = 0 if value is None else repeated.disagreeing(value[order[repeated.place]])
    counts = RepeatCounts(len(extra), differing, _last_repeated(rows, order, there, extra) if len(extra) else 0)
    if len(extra) and options.repeats != "all":
        found.append((REPEATS_SETTLED[options.repeats], len(extra)))
        there[repeated.others(last=options.repeats == "last")] = False
    if options.repeats == "count":
        value = _sums(rows, order, repeated)
    kept = order[there]
    del order, there
    lacking = "needs ratings, and none are read; a csv's stand in dataset.columns.value"
    value = None if value is None else gather(value, kept)
    if options.threshold is not None:
        if value is None:
            raise FedrecError(f"{rows.place(0)}: dataset.threshold={options.threshold} {lacking}")
        enough = value >= options.threshold
        found.append((BELOW_THRESHOLD, int((~enough).sum())))
        kept, value = kept[enough], value[enough]
    value = None if value is None else value.astype(np.float32)
    users = count_codes(rows.user, kept) >= options.minimum
    found.append((BELOW_MINIMUM, int((~users).sum())))
    if not users.all():
        left = users[gather(rows.user.codes, kept)]
        kept, value = kept[left], None if value is None else value[left]
    return RepairLog(kept, value, users, tuple(one for one in found if one[1]), counts)


def count_codes(tokens: Tokens, places: Positions) -> NDArray[np.int64]:
    """Return how often each name stands in some rows."""
    found = np.zeros(len(tokens.names), np.int64)
    for block in row_blocks(len(places)):
        found += np.bincount(tokens.codes[places[block]], minlength=len(found))
    return found


def repeated_pairs(rows: Rows, order: Positions) -> Repeated:
    """Return the rows of users and items that stand in several rows."""
    pair = gather(rows.pairs(), order)
    by_pair = order_by(pair)
    pair = gather(pair, by_pair)
    same = pair[1:] == pair[:-1]
    later = np.append(False, same)
    there = later | np.append(same, False)
    return Repeated(by_pair[there], np.flatnonzero(~later[there]))


def duplicates(rows: Rows, order: Positions, repeated: Repeated) -> Positions:
    """Return the places of rows that repeat one earlier in the file in user, item, time and value.

    Where there is no time, nothing tells a duplicate from a repeat, and none is called one.
    """
    if rows.time is None or not len(repeated.place):
        return repeated.place[:0]
    row = gather(order, repeated.place)
    pair = np.repeat(np.arange(len(repeated.start), dtype=row.dtype), repeated.size)
    place, time = repeated.place, gather(rows.time, row)
    stands = (time[1:] > time[:-1]) | ((time[1:] == time[:-1]) & (row[1:] > row[:-1])) | (pair[1:] > pair[:-1])
    if not stands.all():  # the order of all rows is not that of time
        by_time = order_by(pair, time, row)
        place, row, pair, time = (gather(one, by_time) for one in (place, row, pair, time))
    later = _same_as_before([pair, time])
    if rows.value is None:
        return place[later]
    among = np.flatnonzero(later | np.append(later[1:], False))
    value = rows.value[row[among]]
    by_value = np.lexsort((value, time[among], pair[among]))
    again = _same_as_before([pair[among][by_value], time[among][by_value], value[by_value]])
    return place[among[by_value[again]]]


def _same_as_before(keys: Sequence[NDArray[np.number]]) -> Mask:
    return np.append(False, np.logical_and.reduce([key[1:] == key[:-1] for key in keys]))[: len(keys[0])]


def _last_repeated(rows: Rows, order: Positions, there: Mask, extra: Positions) -> int:
    """Return how many users' last row of those kept is of an item that they had before."""
    again = np.zeros(len(order), bool)
    again[extra] = True
    user = gather(rows.user.codes, order[there])
    return int(again[there][np.append(user[1:] != user[:-1], True)].sum())


def _sums(rows: Rows, order: Positions, repeated: Repeated) -> NDArray[np.float64]:
    """Return the values with the sum of each pair's at its first row: how many there are, where rows have no value."""
    value = np.ones(len(rows)) if rows.value is None else rows.value.copy()
    if len(repeated.start):
        row = order[repeated.place]
        value[row[repeated.start]] = np.add.reduceat(value[row], repeated.start)
    return value
