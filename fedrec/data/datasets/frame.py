"""Rows that a program holds in memory: a pandas, polars or Arrow table, or a mapping of columns.

A document can't carry rows. It names their content, and the process that was handed them keeps them under that name.
"""

import hashlib
import warnings
from collections import OrderedDict
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, cast

import numpy as np
import pyarrow as pa

from fedrec.data.catalogue import Catalogue, position, texts
from fedrec.data.dataset import Dataset
from fedrec.data.io.table import ColumnMapping, Table, Tokens, decode_dictionary, map_columns
from fedrec.data.mapped import MappedSource, choose_events, parse_events
from fedrec.data.prepare import PrepareOptions, prepare_dataset, seen
from fedrec.data.propose import propose, shown
from fedrec.data.sources import Rows, rows_of
from fedrec.errors import FedrecError

NAME = "frame"
PROPOSED_FROM = 200  # rows by which columns are told
KEPT = 4  # frames that a process remembers when nobody holds them any more
# Names that columns often have, tried in this order where a part is not named.
USUAL = {
    "user": ("user", "user_id", "userId", "userid"),
    "item": ("item", "item_id", "itemId", "itemid", "movieId"),
    "time": ("time", "timestamp", "datetime"),
}
HANDED = "a pandas, polars or Arrow table, or a mapping of column names to arrays"
PER_SECOND = 1_000_000_000


@dataclass(frozen=True)
class HeldRows:
    """The rows of a frame, and where columns name them the titles of the items and the kind of each row's event."""

    rows: Rows
    titles: Mapping[str, str]
    event: Tokens | None = None

    @property
    def content(self) -> str:
        """A name for exactly these rows, titles and events."""
        named = "\n".join(f"{item}\t{title}" for item, title in sorted(self.titles.items()))
        digest = hashlib.sha256(f"{self.rows.digest()}\n{named}".encode())
        if self.event is not None:
            digest.update("\n".join(self.event.names).encode() + self.event.codes.astype("<i8").tobytes())
        return digest.hexdigest()[:32]


_held: OrderedDict[str, HeldRows] = OrderedDict()


def hold(held: HeldRows) -> str:
    """Remember rows in this process and return the name of their content; the last few are kept."""
    name = held.content
    _held[name] = held
    _held.move_to_end(name)
    while len(_held) > KEPT:
        _held.popitem(last=False)
    return name


@dataclass(frozen=True, kw_only=True)
class Frame(MappedSource):
    """Rows that this process holds in memory, called by their `content`; `columns` and `title` say where they lay."""

    title: str | None = None
    content: str | None = None

    def load(self) -> Dataset:
        """Prepare the rows as those of a CSV file; rows that are not here are an error that says how to bring them."""
        if self.path is not None or self.content is None:
            raise FedrecError(
                "dataset=frame is handed over from Python: fedrec.simulate(frame, user=..., item=..., time=...); a "
                "file is read by dataset=csv dataset.path=FILE"
            )
        held = _held.get(self.content)
        if held is None:
            raise FedrecError(
                f"the rows of this run (a data frame, content {self.content[:12]}) are not in this process: in Python, "
                "fedrec.load_run(FOLDER, frame) brings them back, and .resume() goes on"
            )
        mapping = map_columns(self.columns, ColumnMapping("user", "item", None, None))
        rows, dropped = held.rows, tuple[tuple[str, int], ...]()
        if self.events and held.event is None:
            raise FedrecError(f"dataset.events={self.events}: which column holds the event? event=COLUMN names it")
        if held.event is not None:
            rows, dropped = choose_events(rows, held.event, mapping, parse_events(self.events))
        catalogue = self.rebuild(seen(rows), held)
        return prepare_dataset(rows, self, PrepareOptions(NAME, catalogue, dropped=dropped, read=held.rows))

    def rebuild(self, items: Catalogue, held: HeldRows | None = None) -> Catalogue:
        """Return the catalogue of these ids and titles with its features, which need no rows: the order of the ids."""
        titles = items.titles if held is None else [held.titles.get(str(item), str(item)) for item in items.ids]
        features = position(len(items))
        return replace(
            items, titles=texts(str(title) for title in titles), features=features, feature_names=("position",)
        )


Columns = Mapping[str, Callable[[], Any]]


def read_frame(frame: Any, given: Mapping[str, str | None], title: str | None = None) -> tuple[HeldRows, ColumnMapping]:
    """Return the rows of a frame, and which column played which part.

    `given` maps user, item, time, value and event to columns. A part that it lacks is looked for under its usual names,
    then by names and values as in a file, which is told by a warning; time=None says that the rows stand in the order
    of time. `title` is a column with the items' titles, which are
    public. Errors name the column, with the nearest one, or the row.
    """
    columns = columns_of(frame)
    mapping = choose_columns(columns, given, title)
    parts = (mapping.user, mapping.item, mapping.time, mapping.value, mapping.event, title)
    wanted = list(dict.fromkeys(column for column in parts if column))
    arrays = {name: to_arrow(columns[name](), name) for name in wanted}
    sizes = {name: len(column) for name, column in arrays.items()}
    if len(set(sizes.values())) > 1:
        raise FedrecError(f"columns of unequal length: {', '.join(f'{name} {size:,}' for name, size in sizes.items())}")
    if not max(sizes.values()):
        raise FedrecError("the data frame has no rows; at least one is expected")
    table = Table(arrays, place)
    rows = rows_of(table, mapping.user, mapping.item, mapping.time, mapping.value)
    if mapping.time and str(arrays[mapping.time].type).startswith("timestamp[ns"):
        rows = in_billionths(rows)
    event = table.tokens(mapping.event) if mapping.event else None
    return HeldRows(rows, titles_of(table, rows, title) if title else {}, event), mapping


def place(row: int) -> str:
    """Return where a row of a frame stands."""
    return "the data frame" if row < 0 else f"the data frame: row {row} (from 0)"


def choose_columns(columns: Columns, given: Mapping[str, str | None], title: str | None) -> ColumnMapping:
    """Return which column plays which part; one that is not there is an error that names the nearest."""
    usual = {part: next((name for name in names if name in columns), "") for part, names in USUAL.items()}
    if any(not usual[part] and part not in given for part in USUAL):
        usual = {**usual, **propose_columns(columns, {**{part: name for part, name in usual.items() if name}, **given})}
    for part in USUAL:
        if not usual[part] and part not in given:
            order = ", or time=None where the rows stand in the order of time" if part == "time" else ""
            raise FedrecError(f"which column holds the {part}? Say {part}=COLUMN{order}; columns: {', '.join(columns)}")
    mapping = map_columns(given, ColumnMapping(usual["user"], usual["item"], usual["time"] or None, None))
    settings = {column: setting.replace("dataset.columns.", "") + "=" for column, setting in mapping.settings().items()}
    settings |= {title: "title="} if title else {}
    Table(dict.fromkeys(columns, pa.array([])), place).require(settings, settings)
    return mapping


def propose_columns(columns: Columns, given: Mapping[str, str | None]) -> dict[str, str]:
    """Return which columns user, item and time seem to be, where nothing says so, and warn of it."""
    first = dict[str, Any]()
    for name, read in columns.items():
        with suppress(FedrecError):  # a column that can't be read plays no part
            first[name] = to_arrow(read()[:PROPOSED_FROM], name)
    head = shown(first)
    found = propose(head, {"value": None, **given})
    taken = {part: column for part, column in found.columns.items() if column and not found.unsure}
    if taken:
        warnings.warn(f"columns: {found.told()}; user=, item= and time= name others", stacklevel=5)
    return taken


def columns_of(frame: Any) -> Columns:
    """Return the columns of a frame by name, each to be read when it is called for; other things are refused."""
    if type(frame).__name__ == "LazyFrame":
        frame = frame.collect()
    if isinstance(frame, Mapping):
        columns = cast("Mapping[Any, Any]", frame)
        return {str(name): partial(columns.__getitem__, name) for name in columns}
    fields = frame.dtype.names if isinstance(frame, np.ndarray) else getattr(frame, "column_names", None)
    names = fields or getattr(frame, "columns", None)
    if is_frame(frame) and names is not None:
        return {str(name): partial(frame.__getitem__, name) for name in names}
    raise FedrecError(f"a {type(frame).__name__} is no data frame: {HANDED} is expected")


def is_frame(value: Any) -> bool:
    """Say whether a value looks like a table with columns; a mapping of arrays is looked at by its values."""
    if isinstance(value, Mapping):
        columns = list(cast("Mapping[Any, Any]", value).values())
        return bool(columns) and all(is_column(column) for column in columns)
    if isinstance(value, np.ndarray):
        return value.dtype.names is not None
    marks = ("__dataframe__", "__arrow_c_stream__", "to_arrow", "collect_schema")
    return not isinstance(value, type) and any(hasattr(value, mark) for mark in marks)


def is_column(value: Any) -> bool:
    """Say whether a value is a column: a list, an array, a series."""
    return (
        isinstance(value, list | tuple | range) or hasattr(value, "__array__") or hasattr(value, "__arrow_c_stream__")
    )


def to_arrow(column: Any, name: str) -> Any:
    """Return a column as one Arrow array, without copying where its owner allows; blanks are null."""
    try:
        if hasattr(column, "to_arrow"):
            column = column.to_arrow()
        found = column if isinstance(column, pa.Array | pa.ChunkedArray) else pa.array(column, from_pandas=True)
    except (pa.ArrowException, TypeError, ValueError):
        found = as_text(column, name)
    found = decode_dictionary(found)
    if pa.types.is_nested(found.type):
        raise FedrecError(f"column '{name}' holds lists: one value a row is expected")
    return found


def as_text(column: Any, name: str) -> Any:
    """Return a column of mixed kinds as text."""
    try:
        values = list(column)
    except TypeError as error:
        raise FedrecError(
            f"column '{name}' is a {type(column).__name__}: an array, a series or a list expected"
        ) from error
    return pa.array([None if value is None or value != value else str(value) for value in values], pa.string())


def in_billionths(rows: Rows) -> Rows:
    """Return rows with the clock of a column in nanoseconds, by whose rounding its people have always been named."""
    if rows.time is None:
        return rows
    finest = replace(rows.clock, per_second=PER_SECOND, divisor=PER_SECOND)
    return replace(rows, time=rows.time * (PER_SECOND // rows.clock.per_second), clock=finest)


def titles_of(table: Table, rows: Rows, title: str) -> dict[str, str]:
    """Return the first title that is not blank of every item that has one."""
    titles = dict[str, str]()
    for code, text in zip(rows.item.codes.tolist(), table.texts(title), strict=True):
        if text and rows.item.names[code] not in titles:
            titles[rows.item.names[code]] = text
    return titles
