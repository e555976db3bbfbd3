"""Any file of interactions as a `Table`: what it is, its first bytes say; how it is written, options."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from fedrec.data.io.databases import is_url, read_sqlite, read_url, read_workbook
from fedrec.data.io.delimited import (
    SEPARATOR_NAMES,
    first_record,
    header_hint,
    is_data,
    read_delimited,
    separator_that_fits,
)
from fedrec.data.io.ids import IdOptions
from fedrec.data.io.json_files import read_json
from fedrec.data.io.lists import from_matrix, is_list_of_rows, read_sequences
from fedrec.data.io.parquet import read_arrow, read_folder, read_parquet
from fedrec.data.io.table import Table
from fedrec.data.io.text import Layout
from fedrec.data.io.times import UNITS, TimeOptions
from fedrec.data.io.unpack import Source, open_source
from fedrec.errors import FedrecError, suggest

CHOICES: Mapping[str, tuple[object, ...]] = {
    "header": ("auto", "true", "false", True, False),
    "layout": ("rows", "lists", "matrix"),
    "ids": ("checked", "text"),
    "missing": ("refuse", "drop"),
    "time_unit": (None, *UNITS),
    "escape": (None, "none", "backslash", "\\"),
}
ADVICE = "; dataset.ids=text takes every word as a name, dataset.missing=drop leaves such rows out"
MOST_SKIPPED = 10_000
BINARY = ("Parquet", "Arrow", "Arrow stream", "SQLite")
READ = "CSV and other text, JSON, Parquet, Arrow, Excel (.xlsx) and SQLite files are read"


@dataclass(frozen=True, kw_only=True)
class FileOptions:
    """How a file is written, where it does not say so itself.

    `separator` is a character or its name (comma, tab, semicolon, pipe, space, colons; null: comma, or spaces with
    layout=lists). `encoding` null: UTF-8, or what a byte order mark says. `header` says whether the first line names
    the columns; without one they are called by their number, from 0. `quote` is the character of quotes or none,
    `escape` backslash or none, `decimal` the point of numbers. `layout` is rows (one interaction each), lists (one
    user a line, then the items) or matrix (users x items). `list_separator` splits a field into several items.
    `query` chooses the rows of a database. `time_unit` is s, ms, us or ns, `time_format` as in strftime. `ids` text
    takes every word as a name, `missing` drop leaves rows without user, item, time or value out. `skip` lines stand
    above the table, such as remarks.
    """

    separator: str | None = None
    encoding: str | None = None
    header: str | bool = "auto"
    quote: str = '"'
    escape: str | None = None
    decimal: str = "."
    layout: str = "rows"
    list_separator: str | None = None
    query: str | None = None
    time_unit: str | None = None
    time_format: str | None = None
    ids: str = "checked"
    missing: str = "refuse"
    skip: int = 0

    def check(self) -> None:
        """Refuse options that do not exist."""
        for name, known in CHOICES.items():
            if (value := getattr(self, name)) not in known:
                names = list(dict.fromkeys(str(one).lower() for one in known if one is not None and one != "\\"))
                raise FedrecError(f"dataset.{name}={value}: no such choice.{suggest(str(value), names)}")
        if self.separator == "" or self.decimal == "":
            blank = "separator" if self.separator == "" else "decimal"
            raise FedrecError(f"dataset.{blank} is blank; comma, tab, semicolon or pipe are usual")
        if len(self.quote) != 1 and self.quote != "none":
            raise FedrecError(f"dataset.quote={self.quote}: one character, or none, is expected")
        if not 0 <= self.skip <= MOST_SKIPPED:
            raise FedrecError(
                f"dataset.skip={self.skip}: lines above the table, from 0 to {MOST_SKIPPED}, are expected"
            )

    def text_layout(self) -> Layout:
        """Return how a text is written."""
        separator = self.separator or ("space" if self.layout == "lists" else "comma")
        return Layout(
            SEPARATOR_NAMES.get(separator, separator),
            self.encoding or "utf-8",
            quoted=self.quote != "none",
            quote=self.quote if self.quote != "none" else '"',
            escape="\\" if self.escape in ("backslash", "\\") else "",
            skip=self.skip,
        )

    @property
    def between(self) -> str | None:
        """What stands between the items of one field."""
        return None if self.list_separator is None else SEPARATOR_NAMES.get(self.list_separator, self.list_separator)

    def applied(self, table: Table) -> Table:
        """Return a table whose values are read by these options."""
        return replace(
            table,
            times=TimeOptions(self.time_unit, self.time_format),
            ids=IdOptions(self.ids == "text", ADVICE),
            decimal=SEPARATOR_NAMES.get(self.decimal, self.decimal),
        )


def read_file(path: str, options: FileOptions, wanted: Sequence[str]) -> Table:
    """Return the columns of a file, a folder of Parquet parts, or what a query gives of a database.

    `wanted` are the columns that will be asked for: by them it is told whether a first line holds names.
    """
    options.check()
    if is_url(path):
        return options.applied(read_url(path, options.query))
    place = find_file(path)
    if place.is_dir():
        return options.applied(read_folder(place))
    source = open_source(place)
    table = _of_kind(source, place, options, wanted)
    return options.applied(from_matrix(table) if options.layout == "matrix" else table)


def find_file(path: str) -> Path:
    """Return the file or folder of a path, ~ expanded where no file is called so."""
    try:
        place = Path(path)
        place = place if place.exists() else place.expanduser()
        if not place.exists():
            raise FedrecError(f"{place}: no such file; dataset.path names a file or folder with interactions")
        if not (place.is_dir() or place.is_file()):
            raise FedrecError(f"{place}: neither a file nor a folder")
    except FedrecError:
        raise
    except (OSError, RuntimeError, ValueError) as error:
        raise FedrecError(f"{path}: {error}") from error
    return place


def _of_kind(source: Source, path: Path, options: FileOptions, wanted: Sequence[str]) -> Table:
    kind = source.kind
    if kind == "Excel":
        return read_workbook(path)
    if kind in BINARY and source.packed:
        raise FedrecError(f"{path}: a {kind} file packed by {source.packed}: unpack it and name the unpacked file")
    if kind == "Parquet":
        return read_parquet(path)
    if kind in ("Arrow", "Arrow stream"):
        return read_arrow(path, stream=kind == "Arrow stream")
    if kind == "SQLite":
        return read_sqlite(path, options.query)
    if kind == "JSON" and options.layout != "lists":
        return read_json(source, options.encoding or "utf-8")
    if kind not in ("JSON", "text"):
        raise FedrecError(f"{path}: this is a file of the kind {kind}; {READ}: write it as one of these")
    if path.suffix in (".parquet", ".pq"):
        raise FedrecError(f"{path}: not a complete Parquet file (it does not begin as one); write or fetch it again")
    return _of_text(source, options, wanted)


def _of_text(source: Source, options: FileOptions, wanted: Sequence[str]) -> Table:
    layout = options.text_layout()
    if options.layout == "lists":
        between = options.between or layout.separator
        return read_sequences(source, source.name, layout.separator, between, layout.encoding)
    if not _has_header(source, layout, options, wanted):
        _, _, first = first_record(source, layout)
        layout = replace(layout, columns=tuple(str(number) for number in range(len(first))))
    return read_delimited(source, source.name, layout)


def _has_header(source: Source, layout: Layout, options: FileOptions, wanted: Sequence[str]) -> bool:
    """Say whether the first line names the columns: where nothing says so, it does unless numbers are asked for."""
    if options.header != "auto":
        return str(options.header).lower() == "true"
    if options.layout == "matrix" or not all(name.isdecimal() for name in wanted):
        return True
    line, _, first = first_record(source, layout)
    if set(wanted) <= {field.strip() for field in first}:
        return True
    if is_data(first):
        return False
    either = "dataset.header=true or dataset.header=false says it"
    raise FedrecError(f"{source.name}:{line}: does the first line name the columns, or is it a row? {either}")


def by_number(name: str, columns: Mapping[str, object]) -> str:
    """Return the column of a name, or of a number from 0 where none is called so."""
    if name in columns or not (name.isdecimal() and name.isascii()):
        return name
    return list(columns)[int(name)] if len(name) < 6 and int(name) < len(columns) else name


def hint_for(path: str, options: FileOptions, table: Table, wanted: set[str]) -> str:
    """Return a sentence on what would make the wanted columns be found, or nothing."""
    if is_url(path) or find_file(path).is_dir():
        return ""
    source = open_source(find_file(path))
    inner = [name for name, column in table.columns.items() if is_list_of_rows(column.type)] if len(table) == 1 else []
    if inner:
        return f" The rows lie in the list '{inner[0]}': write that list alone, without what stands around it."
    if source.kind != "text":
        return ""
    return separator_that_fits(source.head(), options.encoding or "utf-8", wanted) or header_hint(table)
