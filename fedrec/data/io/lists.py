"""Files that hold more than one interaction a row: one user a line, a matrix of users and items, lists in a column."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from fedrec.data.io.columns import WORDS, TextColumn
from fedrec.data.io.table import Table
from fedrec.data.io.text import lines_of
from fedrec.data.io.unpack import Source, source_of
from fedrec.errors import FedrecError

compute: Any = pc  # pyarrow ships no types
BLOCK = 1 << 20  # items that become one chunk
NOTHING = frozenset({"", "nan", "null", "none", "na"})  # what a cell of a matrix holds where there is no interaction


def read_sequences(
    source: Source | bytes, name: str, separator: str = " ", between: str = " ", encoding: str = "utf-8"
) -> Table:
    """Return columns `user` and `item`, one row an item, in the order of the lines and of each line.

    `separator` stands between the user and the first item, `between` between items; single spaces may be repeated.
    Blank lines, and users without items, give no row; a user without its separator is an error that names the line.
    """
    source = source_of(source, name) if isinstance(source, bytes) else source
    users, items = TextColumn(), TextColumn()
    counts, lines = list[int](), list[int]()
    held_users, held_items = list[str](), list[str]()
    for number, user, found in _histories(source, name, (separator, between), encoding):
        held_users += [user] * len(found)
        held_items += found
        counts.append(len(found))
        lines.append(number)
        if len(held_items) > BLOCK:
            _add(users, held_users)
            _add(items, held_items)
    if held_items:
        _add(users, held_users)
        _add(items, held_items)
    if not sum(counts):
        raise FedrecError(f"{name}:1: no items; lines of 'user{separator}item{between}item' are expected")
    end = np.cumsum(counts)
    columns = {"user": users.column(), "item": items.column()}
    return Table(columns, lambda row: f"{name}:{lines[int(np.searchsorted(end, max(row, 0), side='right'))]}")


def _histories(
    source: Source, name: str, separators: tuple[str, str], encoding: str
) -> Iterator[tuple[int, str, list[str]]]:
    separator, between = separators
    for number, line in enumerate(lines_of(source, encoding), 1):
        text = line.strip(" \r\n")
        if not text:
            continue
        user, found, rest = text.partition(separator)
        if not found and (not text.isdecimal() or separator != " "):
            expected = f"'user{separator}item{between}item' expected"
            raise FedrecError(f"{name}:{number}: no {separator!r} after the user: {expected}")
        used = rest.split() if between == " " else [item for item in rest.split(between) if item.strip()]
        yield number, user, used


def _add(column: TextColumn, held: list[str]) -> None:
    column.add(pa.array(held, pa.large_string()))
    held.clear()


def from_matrix(table: Table) -> Table:
    """Return columns `user`, `item` and `value` of a table with one row a user and one column an item.

    The first column names the users; a blank cell, NaN or null is no interaction.
    """
    user, *items = table.columns
    if not items:
        raise FedrecError(f"{table.place(-1)}: one column; a matrix has a column of users and one for each item")
    cells = list[tuple[NDArray[np.int64], Any]]()
    for item in items:
        column = table.columns[item]
        try:
            texts = column.cast(pa.large_string())
        except pa.ArrowException as error:
            wrong = f"{item} is a column of type {column.type}"
            raise FedrecError(f"{table.place(0)}: {wrong}: the cells of a matrix are numbers") from error
        plain = compute.fill_null(compute.utf8_lower(compute.utf8_trim_whitespace(texts)), "")
        there = compute.invert(compute.is_in(plain, value_set=pa.array(sorted(NOTHING), plain.type)))
        row = np.flatnonzero(there.to_numpy(zero_copy_only=False))
        cells.append((row, texts.take(pa.array(row))))
    rows = np.concatenate([row for row, _ in cells])
    order = np.argsort(rows, kind="stable")
    of = np.repeat(np.arange(len(items), dtype=np.int32), [len(row) for row, _ in cells])
    values = pa.concat_arrays([_whole(value) for _, value in cells])
    if not len(rows):
        raise FedrecError(f"{table.place(0)}: every cell of the matrix is blank")
    columns = {
        "user": table.columns[user].take(pa.array(rows[order])),
        "item": pa.DictionaryArray.from_arrays(pa.array(of[order]), pa.array(items, pa.large_string())).cast(WORDS),
        "value": values.take(pa.array(order)),
    }
    return replace(table, columns=columns, place=_place(table, rows[order]))


def exploded(table: Table, names: Sequence[str], item: str, between: str | None) -> Table:
    """Return one row for each element of the item column's lists; other columns repeat, or hold a list as long.

    `between` splits texts into such lists. A table without lists is returned as it is.
    """
    column = table.columns[item]
    if between and _is_text(column.type):
        texts = compute.cast(column, pa.large_string())
        column = (
            compute.split_pattern(texts, pattern=between) if between != " " else compute.utf8_split_whitespace(texts)
        )
    if not (pa.types.is_list(column.type) or pa.types.is_large_list(column.type) or _is_list(column.type)):
        return table
    lists = {item: column, **{name: table.columns[name] for name in names if name != item}}
    column = _one(column)
    lengths = compute.fill_null(compute.list_value_length(column), 0).to_numpy(zero_copy_only=False).astype(np.int64)
    rows = np.repeat(np.arange(len(column)), lengths)
    made = dict[str, Any]()
    for name, other in lists.items():
        other = _one(column if name == item else other)
        if not _is_list(other.type):
            made[name] = other.take(pa.array(rows))
            continue
        theirs = compute.fill_null(compute.list_value_length(other), 0).to_numpy(zero_copy_only=False)
        if (odd := theirs != lengths).any():
            row = int(np.flatnonzero(odd)[0])
            wrong = f"{int(theirs[row])} of {name} for {int(lengths[row])} of {item}"
            raise FedrecError(f"{table.place(row)}: {wrong}: lists of one row are equally long")
        made[name] = compute.list_flatten(other)
    if not len(rows):
        raise FedrecError(f"{table.place(0)}: every list of {item} is empty")
    return replace(table, columns=made, place=_place(table, rows))


def _place(table: Table, rows: NDArray[np.int64]) -> Callable[[int], str]:
    whole = table.place  # not the table: its columns need not outlive what is made of them
    return lambda row: whole(int(rows[row]) if row >= 0 else row)


def _one(column: Any) -> Any:
    """Return a column as one chunk."""
    if not isinstance(column, pa.ChunkedArray):
        return column
    made = column.combine_chunks()
    return made if not isinstance(made, pa.ChunkedArray) else pa.concat_arrays(made.chunks)


def _whole(column: Any) -> Any:
    return _one(column).cast(pa.large_string())


def is_list_of_rows(kind: Any) -> bool:
    """Say whether a type is a list of objects."""
    return _is_list(kind) and pa.types.is_struct(kind.value_type)


def _is_list(kind: Any) -> bool:
    tests = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    return any(test(kind) for test in tests)


def _is_text(kind: Any) -> bool:
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
