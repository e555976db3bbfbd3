"""What every data source can be told, and what it hands over before anything is repaired.

Downloadable sources are offered by a publisher as one archive; local ones the user brings.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from fedrec.data.clock import NO_CLOCK, Clock
from fedrec.data.download import Files, fetch, open_files, verify
from fedrec.data.interactions import LEAVE_LAST_OUT, REPEATS
from fedrec.data.io.table import Table, Tokens
from fedrec.data.ordering import row_blocks
from fedrec.errors import FedrecError, suggest

ORDERS = ("time", "file", "random")


@dataclass(frozen=True, kw_only=True)
class SourceOptions:
    """The settings that all sources share: they stand flat in its yaml, as `dataset.path` and so on.

    `threshold` keeps ratings from it upwards and makes them 1 (implicit); `minimum` drops users with fewer
    interactions; `population` overrides the name under which these users' privacy is accounted.

    `repeats` says what counts where a user has several rows of an item: the "first" or the "last" of them, "all", or
    the first with their "count" as its value (their values added up, where they have any). Only with "all" can what is
    held out be known from training. At interaction level, whose unit is a row of the data set, the others make that
    unit all rows of a user and an item.

    `order` is that of a user's rows, whose last are held out: by "time", by the "file", or "random" (drawn once, with
    seed 0). None is the time where the source has any, else what its makers say of the file.
    """

    splits: ClassVar[tuple[str, ...]] = (LEAVE_LAST_OUT,)

    path: str | None = None
    threshold: float | None = None
    minimum: int = 1
    split: str = LEAVE_LAST_OUT
    population: str | None = None
    repeats: str = REPEATS[0]
    order: str | None = None

    def __post_init__(self) -> None:
        """Refuse a split that the source lacks, a minimum that can't be, and words that mean nothing."""
        if self.split not in self.splits:
            known = f" {type(self).__name__} has: {', '.join(self.splits)}."
            raise FedrecError(
                f"dataset.split={self.split}: no such split here.{known}{suggest(self.split, self.splits)}"
            )
        if self.minimum < 0:
            raise FedrecError(f"dataset.minimum={self.minimum}: a whole number from 0 on is expected")
        if self.repeats not in REPEATS:
            raise FedrecError(f"dataset.repeats={self.repeats} does not exist.{suggest(self.repeats, REPEATS)}")
        if self.order is not None and self.order not in ORDERS:
            raise FedrecError(f"dataset.order={self.order} does not exist.{suggest(self.order, ORDERS)}")


@dataclass(frozen=True, slots=True)
class Rows:
    """The rows of a source in file order, n of each; `time` and `value` are None where it has none.

    `clock` says what the times are.
    """

    user: Tokens
    item: Tokens
    time: NDArray[np.int64] | None
    value: NDArray[np.float64] | None
    place: Callable[[int], str]
    clock: Clock = NO_CLOCK

    def __len__(self) -> int:
        """Return n."""
        return len(self.user.codes)

    def pairs(self) -> NDArray[np.int64]:
        """Return one number a row, the same for the same user and item."""
        pairs = self.user.codes.astype(np.int64)
        pairs *= len(self.item.names)
        pairs += self.item.codes
        return pairs

    def chosen(self, kept: NDArray[np.int64]) -> "Rows":
        """Return the rows `kept`, by number; the names of all users and items stay."""
        return Rows(
            user=Tokens(self.user.codes[kept], self.user.names),
            item=Tokens(self.item.codes[kept], self.item.names),
            time=None if self.time is None else self.time[kept],
            value=None if self.value is None else self.value[kept],
            place=lambda row: self.place(int(kept[row])),
            clock=self.clock,
        )

    def valued(self, value: NDArray[np.float64]) -> "Rows":
        """Return the rows with other values."""
        return replace(self, value=value)

    def digest(self) -> str:
        """Return the SHA-256 of the rows as read, before repairs.

        The same rows give the same digest from CSV, Parquet, a folder or an archive, so that writing a file anew
        does not make its users a new population.
        """
        digest = hashlib.sha256()
        for tokens in (self.user, self.item):
            digest.update("\n".join(tokens.names).encode())
            for block in row_blocks(len(self)):
                digest.update(tokens.codes[block].astype("<i8").tobytes())
        digest.update(b"none" if self.time is None else b"")
        for block in () if self.time is None else self.clock.encode(self.time):
            digest.update(block)
        value = np.zeros(0) if self.value is None else self.value
        digest.update(b"none" if self.value is None else b"")
        for block in row_blocks(len(value)):
            digest.update(value[block].astype("<f8").tobytes())
        return digest.hexdigest()


def rows_of(table: Table, user: str, item: str, time: str | None, value: str | None) -> Rows:
    """Return the rows of a table whose columns have these names; None: the source has no such column."""
    moments = None if time is None else table.moments(time)
    return Rows(
        user=table.tokens(user),
        item=table.tokens(item),
        time=None if moments is None else moments.values,
        value=None if value is None else table.numbers(value),
        place=table.place,
        clock=NO_CLOCK if moments is None else moments.clock,
    )


@dataclass(frozen=True, kw_only=True)
class DownloadableSource(SourceOptions):
    """A published archive `name`.zip, known by the file `needed` in it, whose checksum is pinned.

    `url` and `checksum` override where it is fetched from and what it must match. An archive that the user names by
    `path` is tested only where `checksum` is set: it may be packed anew.
    """

    name: ClassVar[str]
    needed: ClassVar[str]
    address: ClassVar[str]
    pinned: ClassVar[str]

    url: str | None = None
    checksum: str | None = None

    def files(self) -> Files:
        """Return the publisher's files, downloading them where no path is set."""
        if self.path is None:
            return open_files(self.get(), self.name, self.needed)
        files = open_files(Path(self.path), self.name, self.needed)
        if self.checksum and files.inside is None:
            raise FedrecError(f"{files.place}: dataset.checksum is that of an archive, and this is an unpacked folder")
        if self.checksum:
            verify(files.place, self.checksum)
        return files

    def get(self) -> Path:
        """Return the archive in the cache, fetched from the publisher where it is not there yet."""
        return fetch(self.url or self.address, self.checksum or self.pinned, f"{self.name}.zip")


@dataclass(frozen=True, kw_only=True)
class LocalSource(SourceOptions):
    """A source `name`, read from a folder or archive that `path` names and known by one of the files `needed`.

    `publisher` says in words who offers it.
    """

    name: ClassVar[str]
    needed: ClassVar[tuple[str, ...]]
    publisher: ClassVar[str]

    def files(self) -> tuple[Files, str]:
        """Return the publisher's files, and which of the names in `needed` is there."""
        if self.path is None:
            raise FedrecError(
                f"dataset.path is not set: dataset={self.name} reads {' or '.join(self.needed)} from a folder or zip "
                f"archive of yours ({self.publisher})"
            )
        for needed in self.needed[:-1]:
            try:
                return open_files(Path(self.path), self.name, needed), needed
            except FedrecError:
                continue
        return open_files(Path(self.path), self.name, self.needed[-1]), self.needed[-1]
