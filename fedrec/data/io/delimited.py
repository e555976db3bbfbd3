"""Delimited text, read strictly: one separator, one encoding, the same number of fields on every line."""

import csv
import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from pyarrow import csv as arrow_csv

from fedrec.data.io.table import NUMBER, Table
from fedrec.errors import FedrecError

SEPARATOR_NAMES = {"comma": ",", "tab": "\t", "\\t": "\t", "semicolon": ";", "pipe": "|", "colons": "::"}
UNIT = "\x1f"  # stands in for separators of several characters, which Arrow can't split at


@dataclass(frozen=True, slots=True)
class Layout:
    """How a file is written: its `columns` by name, or empty where its first line names them.

    `quoted` says that a field may stand in double quotes and then hold the separator.
    """

    separator: str = ","
    encoding: str = "utf-8"
    columns: tuple[str, ...] = ()
    quoted: bool = False

    @property
    def quotes(self) -> str | None:
        """Return the character of quotes; separators of several characters go without."""
        return '"' if self.quoted and len(self.separator) == 1 else None


def read_delimited(content: bytes, name: str, layout: Layout) -> Table:
    """Return every column as text; `name` is what errors call the file.

    Blank lines are skipped. Wrong encoding, no rows and lines with too few or too many fields are errors.
    """
    text = decode(content, name, layout.encoding)
    if not text.strip():
        raise FedrecError(f"{name}:1: empty file; {_expected(layout)}")
    if layout.quotes and layout.quotes in text:
        _check_quotes(text, name, layout)
    line, first = next(_rows(text, layout))
    if layout.columns and len(first) != len(layout.columns):
        raise FedrecError(f"{name}:{line}: {_count(first)}; {_expected(layout)}")
    names = list(layout.columns) or [column.strip() for column in first]
    if len(set(names)) < len(names):
        raise FedrecError(f"{name}:{line}: a column name stands twice: {', '.join(names)}")
    body = text if layout.columns else text.lstrip("\r\n").partition("\n")[2]
    if not body.strip():
        raise FedrecError(f"{name}:{line}: a header and no rows; at least one row is expected under it")
    try:
        table = _parse(body, layout, names)
    except pa.ArrowInvalid as error:
        raise _ragged(text, name, layout, str(error)) from error
    columns = dict(zip(names, table.columns, strict=True))
    return Table(columns, lambda row: f"{name}:{_line(text, layout, row)}")


def decode(content: bytes, name: str, encoding: str) -> str:
    """Return the text without its byte order mark; bytes of another encoding are an error that names their line."""
    try:
        return content.decode("utf-8-sig" if encoding.lower() in ("utf-8", "utf8") else encoding)
    except LookupError as error:
        raise FedrecError(f"no encoding is called '{encoding}'; utf-8, latin-1 and utf-16 are") from error
    except UnicodeDecodeError as error:
        marked = content[:2] in (b"\xff\xfe", b"\xfe\xff")
        likely = "utf-16" if marked else "latin-1"
        line = content.count(b"\n", 0, error.start) + 1
        byte = content[error.start : error.start + 1].hex()
        message = f"{name}:{line}: byte 0x{byte} is not {encoding} text; the file is perhaps {likely}"
        raise FedrecError(f"{message}: dataset.encoding={likely}, or save it as {encoding}") from error


def separator_that_fits(content: bytes, encoding: str, wanted: set[str]) -> str:
    """Return a sentence that names the separator under which the first line holds the wanted columns, or nothing."""
    first = content.decode(encoding, errors="replace").lstrip("\ufeff\n\r").partition("\n")[0]
    for name, separator in SEPARATOR_NAMES.items():
        if wanted <= {field.strip().strip('"') for field in first.split(separator)}:
            return f" The file looks {separator!r}-separated: dataset.separator={name}."
    return ""


def header_hint(table: Table) -> str:
    """Return a sentence where the first line is of numbers, so that it is data rather than column names."""
    data = all(NUMBER.fullmatch(name) for name in table.columns)
    return " The first line looks like data: put a line of column names above it." if data else ""


def _parse(text: str, layout: Layout, names: list[str]) -> Any:
    delimiter = layout.separator
    if len(delimiter) > 1:
        text, delimiter = text.replace(delimiter, UNIT), UNIT
    return arrow_csv.read_csv(
        io.BytesIO(text.encode()),
        arrow_csv.ReadOptions(use_threads=False, column_names=names),
        arrow_csv.ParseOptions(
            delimiter=delimiter,
            quote_char=layout.quotes or False,
            newlines_in_values=bool(layout.quotes),
        ),
        arrow_csv.ConvertOptions(column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=False),
    )


def _expected(layout: Layout) -> str:
    shown = repr(layout.separator)
    if not layout.columns:
        return f"a first line of column names separated by {shown} is expected"
    return f"{len(layout.columns)} separated by {shown} are expected: {', '.join(layout.columns)}"


def _check_quotes(text: str, name: str, layout: Layout) -> None:
    """Refuse quotes that are never closed, or closed within a field: the fast reader would swallow what follows."""
    try:
        for _ in _rows(text, layout):
            pass
    except csv.Error as error:
        line, why = error.args
        message = f"{name}:{line}: {why}; a quoted field needs its closing quote, and nothing between that and"
        raise FedrecError(f"{message} the separator") from error


def _count(fields: list[str]) -> str:
    return f"{len(fields)} field{'s' * (len(fields) != 1)}"


def _ragged(text: str, name: str, layout: Layout, fallback: str) -> FedrecError:
    """Find the line that stopped the fast reader."""
    wanted = len(layout.columns)
    for line, fields in _rows(text, layout):
        wanted = wanted or len(fields)
        if len(fields) != wanted:
            return FedrecError(f"{name}:{line}: {_count(fields)}; {wanted} are expected, as on the first line")
    return FedrecError(f"{name}: {fallback}")


def _line(text: str, layout: Layout, row: int) -> int:
    """Return the line, from 1, on which a row starts; row -1 is the header."""
    wanted = row + (0 if layout.columns else 1)
    return next((line for n, (line, _) in enumerate(_rows(text, layout)) if n == max(wanted, 0)), 1)


def _rows(text: str, layout: Layout) -> Iterator[tuple[int, list[str]]]:
    """Yield (line, fields) of every line that is not blank; `csv.Error` carries the line. Slow: for the first line,
    for quotes and for error messages.
    """
    if not layout.quotes:
        lines = ((n, line.rstrip("\r")) for n, line in enumerate(text.split("\n"), 1))
        yield from ((n, line.split(layout.separator)) for n, line in lines if line)
        return
    reader, start = csv.reader(io.StringIO(text, newline=""), delimiter=layout.separator, strict=True), 1
    try:
        for fields in reader:
            if fields:
                yield start, fields
            start = reader.line_num + 1
    except csv.Error as error:
        raise csv.Error(start, str(error)) from error
