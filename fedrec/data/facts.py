"""What a person would look at in a data set before believing a figure: order, ties, histories, ratings, repeats."""

from collections import Counter
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedrec.data.clock import Clock, thinned
from fedrec.data.interactions import DeviceTable, Interactions
from fedrec.data.ordering import row_blocks
from fedrec.data.sources import Rows

MANY_TIES = 0.1  # share of tested users from which on ties are worth a warning
FEW_COMPARED = 12  # neighbours in a user's history that tell whether a file is sorted
NEARLY_ALL = 0.95  # of the neighbours, in one direction: the file is sorted
SCALE = 21  # different values of a scale of ratings, at most
ODD = 10  # times as far from 1970 as most, or as near: of another unit
LOW_END, HIGH_END = 0.4, 0.75  # of a scale of ratings: what is no like, and from where on all are


@dataclass(frozen=True, slots=True)
class Finding:
    """What makes a figure mean less than it seems, as a sentence, and the setting that answers it, if one does."""

    text: str
    setting: str = ""


@dataclass(frozen=True, slots=True)
class Ratings:
    """The values of the rows as read: from `low` to `high`; `scale` holds them all, ascending, where they are few."""

    low: float
    high: float
    zeros: int
    negative: int
    scale: tuple[float, ...]
    counts: tuple[int, ...]

    @classmethod
    def of(cls, value: NDArray[np.float64]) -> "Ratings":
        """Look at the values of some rows."""
        scale = count_values(value)
        return cls(
            *(float(value.min()), float(value.max()), int((value == 0).sum()), int((value < 0).sum())),
            tuple(scale),
            tuple(scale.values()),
        )

    @property
    def likes_from(self) -> float | None:
        """From which value on a row is a like; None where every row may be one: amounts, or a scale's upper end."""
        above = [value for value in self.scale if value > 0]
        if self.low <= 0:
            return (above or [self.high])[0] if self.scale else min(1.0, self.high)
        # Ratings crowd at the upper end of a scale, amounts at one.
        if len(self.scale) < 3 or self.high > 100 or self.counts[0] == max(self.counts):
            return None
        return next(value for value in self.scale if value >= self.low + HIGH_END * (self.high - self.low))

    @property
    def low_end(self) -> tuple[float, float]:
        """Up to which value a rating of the scale is no like, and which share of rows is that low."""
        most = max(value for value in self.scale if value <= self.low + LOW_END * (self.high - self.low))
        low = sum(count for value, count in zip(self.scale, self.counts, strict=True) if value <= most)
        return most, low / sum(self.counts)


def count_values(value: NDArray[np.float64]) -> dict[float, int]:
    """Return how often each value stands, ascending; nothing where they are more than make a scale."""
    found = Counter[float]()
    for block in row_blocks(len(value)):
        values, counts = np.unique(value[block], return_counts=True)
        if len(values) > SCALE or len(found.keys() | set(values.tolist())) > SCALE:
            return {}
        found.update(dict(zip(values.tolist(), counts.tolist(), strict=True)))
    return dict(sorted(found.items()))


@dataclass(frozen=True, slots=True)
class Facts:
    """What was found in `rows` rows as read, and in the data set of `interactions` by `users` made of them.

    `order` is what decided which row of a user came last, "time", "file" or "random", and `times` are the first and the
    last. `tied` interactions share their time with another of the same user; of `tested` users, the times of
    `undecided` do not tell which item came last. `sorted_by` says by what those stand whose order the file decided, ""
    by nothing that is seen. `histories` are the shortest, the median, the 90 % quantile and the longest; `unrivalled`
    users leave nothing to rank a test item against. `disliked` are the tests whose value is negative, and zero.
    `repeats` rows repeat a pair, `disagreeing` pairs have different values, the last rows of `last_repeated` users are
    repeats, kept or not; `known_targets` tests were used before.
    """

    rows: int
    interactions: int
    users: int
    order: str
    times: tuple[int, int] | None
    tied: int
    tested: int
    undecided: int
    sorted_by: str
    histories: tuple[int, float, float, int]
    unrivalled: int
    ratings: Ratings | None
    disliked: tuple[int, int]
    repeats: int
    disagreeing: int
    last_repeated: int
    known_targets: int


@dataclass(frozen=True, slots=True)
class RepeatCounts:
    """How many rows repeat a pair, how many pairs have different values, how many users' last row is a repeat."""

    rows: int = 0
    disagreeing: int = 0
    last: int = 0


def look_at(rows: Rows, order: str, table: Interactions, devices: DeviceTable, repeats: RepeatCounts) -> Facts:
    """Return the facts of rows as read and of the data set made of them."""
    counts, held = np.diff(devices.start), devices.start[1:] - devices.test_from
    same = table.user[1:] == table.user[:-1]
    tied = same & (table.time[1:] == table.time[:-1]) if order == "time" else np.zeros(len(same), bool)
    last = np.cumsum(table.counts())[(held > 0) & (counts > 1)] - 1
    rivals = devices.items - (held if devices.repeats else counts)
    tests = devices.test_values()
    return Facts(
        rows=len(rows),
        interactions=len(table),
        users=table.users,
        order=order,
        times=None if rows.time is None else (int(rows.time.min()), int(rows.time.max())),
        tied=int((np.append(tied, False) | np.append(False, tied)).sum()),
        tested=int((held > 0).sum()),
        undecided=int(tied[last - 1].sum()),
        sorted_by=_sorted_by(table, same if order == "file" else tied),
        histories=(int(counts.min()), *np.quantile(counts, [0.5, 0.9]).tolist(), int(counts.max())),
        unrivalled=int((rivals[held > 0] <= 0).sum()),
        ratings=None if rows.value is None else Ratings.of(rows.value),
        disliked=(int((tests < 0).sum()), int((tests == 0).sum())),
        repeats=repeats.rows,
        disagreeing=repeats.disagreeing,
        last_repeated=repeats.last,
        known_targets=devices.count_known_targets() if devices.repeats else 0,
    )


def _sorted_by(table: Interactions, decided: NDArray[np.bool_]) -> str:
    """Return by what neighbours in a user's history are sorted whose order the file decided: "item", "value" or ""."""
    for name, column in (("item", table.item), ("value", table.value)):
        step = np.sign(column[1:][decided] - column[:-1][decided])
        moved = step[step != 0]
        if len(moved) >= FEW_COMPARED and abs(moved.mean(dtype=float)) >= 2 * NEARLY_ALL - 1:
            return name
    return ""


def suspect(facts: Facts, threshold: float | None, repeats: str) -> tuple[Finding, ...]:
    """Return what makes figures on this data set mean less than they seem, the worst first."""
    found = list[Finding]()
    if facts.known_targets:
        text = f"{facts.known_targets:,} of {facts.tested:,} held-out items were used before by the same user"
        found.append(Finding(text, "dataset.repeats=first keeps the first row of each pair"))
    if facts.unrivalled:
        alone = "there is one user, whose" if facts.users == 1 else f"{facts.unrivalled:,} users'"
        found.append(Finding(f"{alone} held-out item has no rivals: it is the only item left to rank"))
    found += _of_order(facts)
    if facts.disagreeing:
        counts = {"all": "all of them count", "count": "they are added up"}.get(repeats, f"the {repeats} one counts")
        text = f"{facts.disagreeing:,} {plural('pair', facts.disagreeing)} of user and item with different values"
        other = "first" if repeats == "last" else "last"
        found.append(Finding(f"{text}: {counts}", f"dataset.repeats={other} lets the {other} one count"))
    if facts.ratings is not None and threshold is None:
        found += _of_ratings(facts, facts.ratings)
    return tuple(found)


def suspect_times(time: NDArray[np.int64], clock: Clock, now: float) -> list[Finding]:
    """Return what about times can't be one clock; `now` in seconds since 1970. What only orders rows has no clock."""
    unit = "dataset.time_unit=s|ms|us|ns says another unit"
    found = [(clock.rounded, "have times with an exponent (1.37E+09): a spreadsheet dropped their last digits", "")]
    if clock.per_second and len(time):
        usual, odd, zeros, later = float(np.median(np.abs(thinned(time).astype(np.float64)))), 0, 0, 0
        for block in row_blocks(len(time)):
            size, none = np.abs(time[block].astype(np.float64)), time[block] == 0
            odd += int((((size > ODD * usual) | (size < usual / ODD)) & ~none).sum())
            zeros, later = zeros + int(none.sum()), later + int((time[block] > now * clock.per_second).sum())
        found += [
            (zeros, "have the time 0: perhaps unknown ones", ""),
            (later, "lie in the future", unit),
            (odd, "have times of another size than most: two units, or blanks, in one column", unit),
        ]
    rows = f"of {len(time):,} rows"
    return [Finding(f"{count:,} {rows} {text}", answer) for count, text, answer in found if count]


def _of_order(facts: Facts) -> list[Finding]:
    stand = {"item": ", where a user's rows stand by item", "value": ", where a user's rows stand by rating"}
    answer = "dataset.order=random draws what is held out instead"
    where = stand.get(facts.sorted_by, "")
    if facts.order == "file" and where:
        return [
            Finding(f"what is held out follows the file's order{where}: nothing says that it is that of time", answer)
        ]
    if facts.undecided < max(1, MANY_TIES * facts.tested):
        return []
    share = f"{facts.tied:,} of {facts.interactions:,} rows share their time with another row of the same user"
    if facts.times and facts.times[0] == facts.times[1]:
        share = f"all times are equal: {share}"
    users = f"{facts.undecided:,} of {facts.tested:,} {plural('user', facts.tested)}"
    return [Finding(f"{share}, so that the file's order decides what is held out for {users}{where}", answer)]


def _of_ratings(facts: Facts, ratings: Ratings) -> list[Finding]:
    likes = ratings.likes_from
    if likes is None:
        return []
    span = f"ratings run from {ratings.low:g} to {ratings.high:g}, and all count as likes"
    if ratings.low <= 0:
        below = (
            f"{facts.disliked[0]:,} of {facts.tested:,} held-out items are rated below 0, {facts.disliked[1]:,} at 0"
        )
    else:
        most, share = ratings.low_end
        below = f"{share:.0%} of them are {most:g} or less"
    return [Finding(f"{span}: {below}", f"dataset.threshold={likes:g} keeps those of {likes:g} and more")]


def plural(noun: str, count: int) -> str:
    """Return a noun for so many."""
    return noun if count == 1 else f"{noun}s"
