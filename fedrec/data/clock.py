"""What times are: whole numbers, and when they count from."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np
from numpy.typing import NDArray

from fedrec.data.ordering import row_blocks

SAMPLE = 100_000  # times by which the size of all is told
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

    def encode(self, values: NDArray[np.int64]) -> Iterator[bytes]:
        """Yield times as bytes for a digest: floating numbers where these are exact, else whole ones."""
        ends = self.numbers(np.array([values.min(), values.max()])) if len(values) else np.zeros(1)
        exact = self.divisor > 1 or abs(ends).max() <= 2.0**53
        for block in row_blocks(len(values)):
            numbers = self.numbers(values[block]).astype("<f8") if exact else values[block].astype("<i8")
            yield numbers.tobytes()

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


def thinned(values: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return times that stand for all: every one, or as many from each part of the rows."""
    return values[:: max(len(values) // SAMPLE, 1)]
