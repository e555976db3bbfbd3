"""Columns of a source as text, checked, and which column plays which part.

Every complaint names the file and the line.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, NoReturn

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from fedrec.data.io.columns import LazyColumns
from fedrec.data.io.ids import CHECKED, IdOptions, NotAnIdError, Tokens, missing, read_ids
from fedrec.data.io.times import AS_WRITTEN, Moments, NotATimeError, TimeOptions, is_text, read_moments
from fedrec.errors import FedrecError, suggest

compute: Any = pc  # pyarrow ships no types
MOST_NAMED = 40  # columns that an error names


@dataclass(frozen=True, slots=True)
class Table:
    """Named columns of equal length; `place(n)` says where row n (from 0) stands: "ratings.csv:17".

    `times`, `ids` and `decimal` (the point of numbers) say how values are written where they don't say so themselves.
    """

    columns: Mapping[str, Any]
    place: Callable[[int], str]
    times: TimeOptions = AS_WRITTEN
    ids: IdOptions = CHECKED
    decimal: str = "."

    def __len__(self) -> int:
        """Return how many rows there are."""
        if isinstance(self.columns, LazyColumns):
            return self.columns.rows
        return max((len(column) for column in self.columns.values()), default=0)

    def renamed(self, names: Sequence[str]) -> "Table":
        """Return the same columns under other names."""
        return replace(self, columns=dict(zip(names, self.columns.values(), strict=True)))

    def require(self, names: Iterable[str], settings: Mapping[str, str] | None = None, hint: str = "") -> None:
        """Refuse a table that lacks a column; `settings` say which setting names a column, `hint` ends the message."""
        for column in names:
            if column not in self.columns:
                known = f" Known: {', '.join(sorted(self.columns))}."
                guess = "" if hint.startswith(" The ") else suggest(column, self.columns).replace(known, "")
                setting = f" ({settings[column]})" if settings else ""
                found = ", ".join([*islice(self.columns, MOST_NAMED), *["..."][: len(self.columns) > MOST_NAMED]])
                where = self.place(-1)
                raise FedrecError(f"{where}: no column '{column}'{setting}; columns found: {found}.{guess}{hint}")

    def keys(self, name: str) -> list[str]:
        """Return a column of ids that stand once each, in file order; a repeated one is an error."""
        tokens = self.tokens(name)
        if len(tokens.names) < len(tokens.codes):
            row = int(np.flatnonzero(tokens.codes != np.arange(len(tokens.codes)))[0])
            self._refuse(row, f"{name} '{tokens.names[tokens.codes[row]]}' stands twice", "each id is listed once")
        return list(tokens.names)

    def tokens(self, name: str) -> Tokens:
        """Return a column of ids as text, spaces around them taken off and 3.0 written 3.

        Blank and NaN ids are errors; so are fractional ones where every id of the column is a number, ids that have
        lost digits, and types that can't be ids.
        """
        try:
            return read_ids(self.columns[name], name, self.ids)
        except NotAnIdError as error:
            self._refuse(*error.args)

    def numbers(self, name: str) -> NDArray[np.float64]:
        """Return a column as finite numbers; moments of a Parquet file become seconds since 1970."""
        column = self._plain(name)
        moments = pa.types.is_timestamp(column.type) or pa.types.is_date(column.type)
        try:
            whole = column.cast(pa.timestamp("us")).cast(pa.int64()) if moments else column
            values = whole.cast(pa.float64()).to_numpy(zero_copy_only=False) / (1e6 if moments else 1)
        except pa.ArrowException:
            if pa.types.is_nested(column.type) or pa.types.is_temporal(column.type):
                self._refuse(0, f"{name} is a column of type {column.type}", "a finite number is expected")
            values = np.array([_number(value) for value in column.to_pylist()])
        if not np.isfinite(values).all():
            row = int(np.flatnonzero(~np.isfinite(values))[0])
            self._refuse(row, f"{name} '{self._shown(name, row)}'", "a finite number is expected")
        return values

    def moments(self, name: str) -> Moments:
        """Return a column as times: whole numbers with every digit, and what they were understood as."""
        try:
            return read_moments(self._plain(name), self.times)
        except NotATimeError as error:
            row, right = error.args
            shown = self._shown(name, row)
            self._refuse(row, f"{name} '{shown}'", right if shown else right + self.ids.advice)

    def without_missing(self, names: Iterable[str]) -> tuple["Table", int]:
        """Return the rows that hold something in every one of these columns, and how many do not."""
        columns = {name: self.columns[name] for name in names}
        kept = np.flatnonzero(~np.logical_or.reduce([missing(column, self.ids) for column in columns.values()]))
        if len(kept) == len(self):
            return self, 0
        if not len(kept):
            raise FedrecError(f"{self.place(0)}: no row holds something in each of the columns {', '.join(columns)}")
        taken = {name: column.take(pa.array(kept)) for name, column in columns.items()}

        whole = self.place  # not self: the columns need not outlive what is taken of them

        def place(row: int) -> str:
            return whole(int(kept[row]) if row >= 0 else row)

        return replace(self, columns=taken, place=place), len(self) - len(kept)

    def texts(self, name: str) -> list[str]:
        """Return a column as text, blank where there is none."""
        return ["" if value is None else str(value) for value in self.columns[name].to_pylist()]

    def _plain(self, name: str) -> Any:
        """Return a column without dictionary, its texts with a decimal point and without spaces around."""
        column = self.columns[name]
        if pa.types.is_dictionary(column.type):
            column = column.cast(column.type.value_type)
        if pa.types.is_binary(column.type) or pa.types.is_large_binary(column.type):
            try:
                column = column.cast(pa.large_string())
            except pa.ArrowException:
                self._refuse(
                    0, f"{name} is a column of type {column.type}", "numbers, texts in UTF-8 or moments expected"
                )
        if is_text(column.type) and self.decimal != ".":
            column = compute.replace_substring(column, self.decimal, ".")
        return column

    def _shown(self, name: str, row: int) -> str:
        scalar = self.columns[name][row]
        try:
            value = scalar.as_py()
        except (ValueError, OverflowError):  # moments that Python has no room for, text that is none
            value = scalar
        return "" if value is None else str(value)[:80]

    def _refuse(self, row: int, wrong: str, right: str) -> NoReturn:
        raise FedrecError(f"{self.place(row)}: {wrong}: {right}")


def by_row(name: str) -> Callable[[int], str]:
    """Return what says where a row of a file without lines stands: "log.parquet: row 7", from 1."""
    return lambda row: name if row < 0 else f"{name}: row {row + 1}"


def decode_dictionary(column: Any) -> Any:  # pyarrow ships no types
    """Return a column as one chunk without dictionary encoding."""
    column = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if isinstance(column, pa.ChunkedArray):
        column = pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)
    return column.cast(column.type.value_type) if pa.types.is_dictionary(column.type) else column


def _number(value: object) -> float:
    try:
        return float(str(value).replace("_", "?"))  # Python reads 1_000, no one else does
    except ValueError:
        return float("nan")


ROLES = ("user", "item", "time", "value", "event")


@dataclass(frozen=True, slots=True)
class ColumnMapping:
    """Names of columns; None where the file has no such column: every value is then 1, file order counts as time."""

    user: str
    item: str
    time: str | None
    value: str | None
    event: str | None = None

    def settings(self) -> dict[str, str]:
        """Return which setting names which column, for those that are set."""
        named = {role: getattr(self, role) for role in ROLES}
        return {column: f"dataset.columns.{role}" for role, column in named.items() if column}


def map_columns(given: Mapping[str, str | None] | None, default: ColumnMapping) -> ColumnMapping:
    """Return the default with what the user maps otherwise; an unknown part is an error, so is no user or item."""
    names: dict[str, str | None] = {role: getattr(default, role) for role in ROLES}
    for role, column in (given or {}).items():
        if role not in names:
            raise FedrecError(f"dataset.columns.{role}: no such part.{suggest(role, ROLES)}")
        names[role] = None if column is None else str(column)  # 0, true and the like are names, too
    user, item = names["user"], names["item"]
    if user is None or item is None or "" in (user, item):
        raise FedrecError("dataset.columns.user and dataset.columns.item must each name a column")
    return ColumnMapping(user, item, names["time"], names["value"], names["event"])
