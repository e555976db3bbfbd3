"""Columns of a source as text, checked, and which column plays which part.

Every complaint names the file and the line.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NoReturn

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from fedrec.data.io.times import AS_WRITTEN, Moments, NotATimeError, TimeOptions, read_moments
from fedrec.errors import FedrecError, suggest

NUMBER = re.compile(r"-?[0-9]+(\.[0-9]*)?")
NO_ID = frozenset({"", "nan", "NaN", "NAN", "null", "NULL", "None", "<NA>"})


@dataclass(frozen=True, slots=True)
class Tokens:
    """A column of ids: row n holds `names[codes[n]]`; names stand in the order of their first row and are distinct."""

    codes: NDArray[np.int64]
    names: tuple[str, ...]

    def order(self) -> NDArray[np.int64]:
        """Return the names' positions in public order: by number where all are whole numbers, else by text."""
        if all(name.isdecimal() and name.isascii() for name in self.names):
            return np.array(sorted(range(len(self.names)), key=lambda n: (int(self.names[n]), self.names[n])), np.int64)
        return np.array(sorted(range(len(self.names)), key=self.names.__getitem__), np.int64)


@dataclass(frozen=True, slots=True)
class Table:
    """Named columns of equal length; `place(n)` says where row n (from 0) stands: "ratings.csv:17".

    `times` says how times are written where they don't say so themselves.
    """

    columns: Mapping[str, pa.Array]
    place: Callable[[int], str]
    times: TimeOptions = AS_WRITTEN

    def __len__(self) -> int:
        """Return how many rows there are."""
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
                found = ", ".join(self.columns)
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

        Blank and NaN ids are errors; so are negative and fractional ones where every id of the column is a number.
        """
        column = decode_dictionary(self.columns[name])
        if column.null_count:
            self._refuse(column.is_null().index(True).as_py(), f"blank {name}", "give every row an id")
        encoded = column.dictionary_encode()
        codes = encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64)
        names = [_name(value) for value in encoded.dictionary.to_pylist()]
        self._check_ids(name, codes, names)
        return _merged(codes, names)

    def numbers(self, name: str) -> NDArray[np.float64]:
        """Return a column as finite numbers; moments of a Parquet file become seconds since 1970."""
        column = decode_dictionary(self.columns[name])
        moments = pa.types.is_timestamp(column.type) or pa.types.is_date(column.type)
        try:
            whole = column.cast(pa.timestamp("us")).cast(pa.int64()) if moments else column
            values = whole.cast(pa.float64()).to_numpy(zero_copy_only=False) / (1e6 if moments else 1)
        except pa.ArrowException:
            values = np.array([_number(value) for value in column.to_pylist()])
        if not np.isfinite(values).all():
            row = int(np.flatnonzero(~np.isfinite(values))[0])
            shown = "" if column[row].as_py() is None else column[row].as_py()
            self._refuse(row, f"{name} '{shown}'", "a finite number is expected")
        return values

    def moments(self, name: str) -> Moments:
        """Return a column as times: whole numbers with every digit, and what they were understood as."""
        column = decode_dictionary(self.columns[name])
        try:
            return read_moments(column, self.times)
        except NotATimeError as error:
            row, right = error.args
            shown = column[row].as_py()
            self._refuse(row, f"{name} '{'' if shown is None else shown}'", right)

    def texts(self, name: str) -> list[str]:
        """Return a column as text, blank where there is none."""
        return ["" if value is None else str(value) for value in self.columns[name].to_pylist()]

    def _check_ids(self, column: str, codes: NDArray[np.int64], names: list[str]) -> None:
        for code, name in enumerate(names):
            if name in NO_ID:
                row = _first(codes, code)
                self._refuse(row, f"blank {column}" if not name else f"{column} '{name}'", "give every row an id")
        if not all(NUMBER.fullmatch(name) for name in names):
            return
        for code, name in enumerate(names):
            negative, fractional = name.startswith("-"), bool(name.partition(".")[2].strip("0"))
            if negative or fractional:
                what = "negative" if negative else "fractional"
                right = "ids in a numeric column are whole numbers from 0 on"
                self._refuse(_first(codes, code), f"{what} {column} '{name}'", right)
            names[code] = name.partition(".")[0]

    def _refuse(self, row: int, wrong: str, right: str) -> NoReturn:
        raise FedrecError(f"{self.place(row)}: {wrong}: {right}")


def decode_dictionary(column: Any) -> Any:  # pyarrow ships no types
    """Return a column as one chunk without dictionary encoding."""
    column = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if isinstance(column, pa.ChunkedArray):
        column = pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)
    return column.cast(column.type.value_type) if pa.types.is_dictionary(column.type) else column


def _merged(codes: NDArray[np.int64], names: list[str]) -> Tokens:
    """Join names that became equal when they were tidied."""
    distinct = {name: code for code, name in enumerate(dict.fromkeys(names))}
    if len(distinct) == len(names):
        return Tokens(codes, tuple(names))
    return Tokens(np.array([distinct[name] for name in names], np.int64)[codes], tuple(distinct))


def _first(codes: NDArray[np.int64], code: int) -> int:
    return int(np.flatnonzero(codes == code)[0])


def _name(value: object) -> str:
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value).strip()


def _number(value: object) -> float:
    try:
        return float(str(value).replace("_", "?"))  # Python reads 1_000, no one else does
    except ValueError:
        return float("nan")


ROLES = ("user", "item", "time", "value")


@dataclass(frozen=True, slots=True)
class ColumnMapping:
    """Names of columns; None where the file has no such column: every value is then 1, file order counts as time."""

    user: str
    item: str
    time: str | None
    value: str | None

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
        names[role] = column
    user, item = names["user"], names["item"]
    if not user or not item:
        raise FedrecError("dataset.columns.user and dataset.columns.item must each name a column")
    return ColumnMapping(user, item, names["time"], names["value"])
