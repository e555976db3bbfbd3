"""What times are: whole numbers, when they count from, and what about them can't be one clock."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
from numpy.typing import NDArray

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
COUNTS = "numbers that only order the rows"


@dataclass(frozen=True, slots=True)
class Clock:
    """What a column of times was understood as; `said` says it in words.

    `per_second` of the whole numbers make a second; 0 where nothing says when they count from: they only order.
    `divisor` of them make one of the source's own numbers. `rounded` rows were written with an exponent, as
    spreadsheets do with digits that they drop.
    """

    per_second: int = 0
    divisor: int = 1
    said: str = COUNTS
    rounded: int = 0

    def numbers(self, values: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return times as the source writes them: its own numbers, or seconds since 1970 where it writes dates."""
        return values.astype(np.float64) / self.divisor

    def encode(self, values: NDArray[np.int64]) -> bytes:
        """Return times as bytes for a digest: floating numbers where these are exact, else whole ones."""
        numbers = self.numbers(values)
        exact = self.divisor > 1 or abs(numbers).max(initial=0.0) <= 2.0**53
        return numbers.astype("<f8").tobytes() if exact else values.astype("<i8").tobytes()

    def date(self, value: int) -> str:
        """Return a time as a date in UTC, to the second; as the number itself where it is no moment."""
        if not self.per_second:
            return f"{value / self.divisor:.15g}"
        try:
            moment = EPOCH + timedelta(seconds=int(value) // self.per_second)
        except OverflowError:
            return f"{value / self.divisor:.15g}"
        return moment.strftime("%Y-%m-%d %H:%M:%S")


NO_CLOCK = Clock()


@dataclass(frozen=True, slots=True)
class TimeFindings:
    """What is suspicious about the times of n rows, counted; `first` and `last` are dates where the times are moments.

    `tied` rows share their time with another row of the same user: file order decides between them. `future` rows lie
    after now, `zeros` are exactly 0, `odd` are ten times as far from 1970 as most, or a tenth: of another unit.
    """

    rows: int
    said: str
    first: str
    last: str
    tied: int
    zeros: int
    future: int
    odd: int
    rounded: int

    def lines(self) -> list[str]:
        """Return one line for each thing that a person should look at."""
        of = f"of {self.rows:,} rows"
        found = (
            (self.tied, f"share their time with another {of} of the same user: file order decides which is last"),
            (self.rounded, f"{of} have times with an exponent (1.37E+09): a spreadsheet dropped their last digits"),
            (self.zeros, f"{of} have the time 0: perhaps unknown ones"),
            (self.future, f"{of} lie in the future: perhaps another unit, dataset.time_unit=s|ms|us|ns"),
            (self.odd, f"{of} have times of another size than most: two units, or blanks, in one column"),
        )
        return [f"{count:,} {what}" for count, what in found if count]


def find_suspicious(user: NDArray[Any], time: NDArray[np.int64], clock: Clock, now: datetime) -> TimeFindings:
    """Return what is suspicious about times; rows are sorted by user, then time."""
    same = (user[1:] == user[:-1]) & (time[1:] == time[:-1])
    tied = np.zeros(len(time), bool)
    tied[1:] |= same
    tied[:-1] |= same
    seconds = (now - EPOCH).total_seconds()
    size = np.abs(time.astype(np.float64))
    usual = float(np.median(size)) if clock.per_second and len(size) else 0.0
    odd = ((size > 10 * usual) | (size < usual / 10)) & (time != 0) if usual else np.zeros(len(time), bool)
    return TimeFindings(
        rows=len(time),
        said=clock.said,
        first=clock.date(int(time.min())) if len(time) else "",
        last=clock.date(int(time.max())) if len(time) else "",
        tied=int(tied.sum()),
        zeros=int((time == 0).sum()) if usual else 0,
        future=int((time > seconds * clock.per_second).sum()) if clock.per_second else 0,
        odd=int(odd.sum()),
        rounded=clock.rounded,
    )
