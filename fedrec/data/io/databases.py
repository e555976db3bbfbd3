"""Tables that a program keeps: SQLite files and other databases by a query, Excel sheets where the extra is there."""

import importlib
import io
import re
import sqlite3
import zipfile
from collections.abc import Iterator, Sequence
from itertools import islice
from os import environ
from pathlib import Path
from typing import Any
from urllib.parse import quote

from fedrec.data.io.columns import from_records
from fedrec.data.io.table import Table, by_row
from fedrec.data.io.unpack import DAMAGED, FREE, RATIO
from fedrec.errors import FedrecError

PASSWORD = "FEDREC_DATABASE_PASSWORD"
URL = re.compile(r"(?P<kind>[A-Za-z][\w+.-]*)://(?P<rest>.*)", re.DOTALL)
MAY = (sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION, 33)  # 33: recursive
FETCHED = 10_000  # rows that are fetched at a time
MOST_COLUMNS = 1_000


def is_url(path: str) -> bool:
    """Say whether a path is the URL of a database."""
    return URL.fullmatch(path) is not None


def read_sqlite(path: Path, query: str | None, most: int | None = None) -> Table:
    """Return what a query of an SQLite file gives, its first rows where so many are enough; it is only read."""
    try:
        waiting = path.with_name(f"{path.name}-wal")  # what was written and not yet moved into the file
        fixed = "" if waiting.is_file() and waiting.stat().st_size else "&immutable=1"
        connection = sqlite3.connect(f"file:{quote(str(path.absolute()))}?mode=ro{fixed}", uri=True)
        try:
            if not query:
                raise _no_query(str(path), _tables(connection))
            connection.set_authorizer(_may)
            connection.text_factory = _decoded
            cursor = connection.execute(query)
            names = [column[0] for column in cursor.description or ()]
            return _table(str(path), names, islice(_fetched(cursor), most))
        finally:
            connection.close()
    except FedrecError:
        raise
    except (sqlite3.Error, sqlite3.Warning, UnicodeError, OverflowError, ValueError) as error:
        raise FedrecError(f"{path}: {error} (dataset.query is one select statement)") from error


def only_table(path: Path) -> str | None:
    """Return the name of the one table of an SQLite file; None where there are several, or it can't be read."""
    try:
        connection = sqlite3.connect(f"file:{quote(str(path.absolute()))}?mode=ro", uri=True)
        try:
            names = _tables(connection)
        finally:
            connection.close()
    except (sqlite3.Error, UnicodeError):
        return None
    return names[0] if len(names) == 1 else None


def _tables(connection: sqlite3.Connection) -> list[str]:
    asked = "select name from sqlite_master where type in ('table', 'view') and name not like 'sqlite_%'"
    return [str(row[0]) for row in connection.execute(asked)]


def _may(action: int, *_: str | None) -> int:
    return sqlite3.SQLITE_OK if action in MAY else sqlite3.SQLITE_DENY


def _decoded(content: bytes) -> str:
    return content.decode("utf-8", "backslashreplace")


def read_url(url: str, query: str | None, most: int | None = None) -> Table:
    """Return what a query gives of the database that an SQLAlchemy URL names, or its first rows.

    The password is in no message.
    """
    found = URL.fullmatch(url)
    kind, rest = (found["kind"], found["rest"]) if found else ("", url)
    before, at, host = rest.rpartition("@")
    user, colon, _ = before.partition(":")
    shown = f"{kind}://{user}{at}{host}"
    if colon:
        why = f"settings are kept with every run: leave the password out and set the environment variable {PASSWORD}"
        raise FedrecError(f"dataset.path={shown}: a password stands in the URL; {why}")
    sqlalchemy = _extra("sqlalchemy", "sql", f"dataset.path={shown} is a database")
    if not query:
        raise _no_query(shown, [])
    try:
        made = sqlalchemy.engine.make_url(url)
        made = made.set(password=environ[PASSWORD]) if PASSWORD in environ else made
        engine = sqlalchemy.create_engine(made)
        with engine.connect().execution_options(stream_results=True) as connection:
            found = connection.execute(sqlalchemy.text(query.replace(":", r"\:")))
            return _table(shown, list(found.keys()), islice(_fetched(found), most))
    except ImportError as error:
        raise FedrecError(f"{shown}: the driver {error.name} is not installed: pip install {error.name}") from error
    except sqlalchemy.exc.SQLAlchemyError as error:
        why = str(error).splitlines()[0]
        secret = environ.get(PASSWORD) or None
        raise FedrecError(f"{shown}: {why.replace(secret, '***') if secret else why}") from None


def read_workbook(path: Path, most: int | None = None) -> Table:
    """Return the first sheet of an Excel file, or its first rows: names in the first that is not blank."""
    openpyxl = _extra("openpyxl", "excel", f"{path} is an Excel file")
    _refuse_bomb(path)
    try:
        content = io.BytesIO(path.read_bytes())  # of a path the name's end would count
        book = openpyxl.load_workbook(content, read_only=True, data_only=True, keep_links=False)
        sheet = book.worksheets[0]
        sheet.reset_dimensions()
        rows = ((number, row) for number, row in enumerate(sheet.iter_rows(values_only=True), 1))
        rows = ((number, row) for number, row in rows if any(cell is not None for cell in row))
        first, header = next(rows, (1, ()))
        names = ["" if name is None else str(name).strip() for name in header]
        numbers = list[int]()
        return _table(str(path), names, islice(_cells(rows, len(names), numbers, path), most), numbers, first)
    except FedrecError:
        raise
    except Exception as error:  # whatever stands in the XML of a foreign file
        why = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise FedrecError(f"{path}: not a complete Excel file ({why}); save it again, or as CSV") from error


def _cells(
    rows: Iterator[tuple[int, Sequence[object]]], width: int, numbers: list[int], path: Path
) -> Iterator[Sequence[object]]:
    for number, row in rows:
        if any(cell is not None for cell in row[width:]):
            raise FedrecError(f"{path}: row {number}: {len(row)} cells; {width} are expected, as in the first row")
        numbers.append(number)
        yield [*row[:width], *[None] * (width - len(row))]


def _table(
    name: str, names: Sequence[str], records: Iterator[Sequence[object]], numbers: Sequence[int] = (), first: int = 0
) -> Table:
    if not names or len(names) > MOST_COLUMNS:
        raise FedrecError(f"{name}: {len(names):,} columns; rows of named columns are expected")
    twice = sorted({one for one in names if names.count(one) > 1})
    if twice:
        raise FedrecError(f"{name}: a column name stands twice: {', '.join(twice) or 'blank'}")
    columns, rows = from_records(names, records)
    if not rows:
        raise FedrecError(f"{name}: no rows; at least one row is expected")
    if not numbers:
        return Table(columns, by_row(name))
    return Table(columns, lambda row: f"{name}: row {numbers[row] if row >= 0 else first}")


def _fetched(cursor: Any) -> Iterator[Sequence[object]]:
    while rows := cursor.fetchmany(FETCHED):
        yield from rows


def _no_query(name: str, tables: Sequence[str]) -> FedrecError:
    of = tables[0] if tables else "TABLE"
    found = f" Tables: {', '.join(tables)}." if tables else ""
    return FedrecError(f'{name}: a database; dataset.query="select user, item, time from {of}" says which rows.{found}')


def _extra(module: str, extra: str, what: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise FedrecError(f'{what}, which needs an extra: pip install "fedrec[{extra}]", or save it as CSV') from error


def _refuse_bomb(path: Path) -> None:
    """Refuse a workbook that says it unpacks to an absurd size."""
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(one.file_size for one in archive.infolist())
    except DAMAGED as error:
        raise FedrecError(f"{path}: not a complete Excel file ({error}); save it again, or as CSV") from error
    if size > max(FREE, RATIO * path.stat().st_size):
        raise FedrecError(f"{path}: unpacks to {size:,} bytes, as no sheet does; save it as CSV")
