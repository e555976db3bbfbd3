"""Delimited text, read strictly: one separator, one encoding, the same number of fields on every line."""

import csv
from collections.abc import Sequence
from typing import Any, cast

import pyarrow as pa
from pyarrow import csv as arrow_csv

from fedrec.data.io.columns import TextColumn
from fedrec.data.io.ids import NUMBER
from fedrec.data.io.table import Table
from fedrec.data.io.text import UNIT, Layout, UnclearQuotesError, Utf8Blocks, misread, records
from fedrec.data.io.unpack import Source, source_of
from fedrec.errors import FedrecError

SEPARATOR_NAMES = {
    "comma": ",",
    "tab": "\t",
    "\\t": "\t",
    "semicolon": ";",
    "pipe": "|",
    "colons": "::",
    "space": " ",
    "blank": " ",
}
LOOKED_AT = 50  # lines by which a separator is found
ROWS = 50_000  # rows that become one chunk where they are read one by one


def read_delimited(source: Source | bytes, name: str, layout: Layout) -> Table:
    """Return every column; `name` is what errors call the file.

    Blank lines are skipped. Wrong encoding, no rows and lines with too few or too many fields are errors.
    """
    source = source_of(source, name) if isinstance(source, bytes) else source
    line, last, first = first_record(source, layout)
    if layout.columns and len(first) != len(layout.columns):
        raise FedrecError(f"{name}:{line}: {_count(first)}; {_expected(layout)}")
    names = list(layout.columns) or distinct([column.strip() for column in first])
    if len(set(names)) < len(names):
        raise FedrecError(f"{name}:{line}: a column name stands twice: {', '.join(names)}")
    columns = _parse(source, layout, names, layout.skip if layout.columns else last)
    if not len(columns[names[0]]):
        raise FedrecError(f"{name}:{line}: a header and no rows; at least one row is expected under it")
    return Table(columns, lambda row: f"{name}:{_line(source, layout, row)}")


def distinct(names: list[str]) -> list[str]:
    """Return names of columns, those without a name but the first called by their number: they are row numbers."""
    blank = [place for place, name in enumerate(names) if not name]
    return [f"unnamed {place}" if place in blank[1:] else name for place, name in enumerate(names)]


def first_record(source: Source, layout: Layout) -> tuple[int, int, list[str]]:
    """Return the first line, last line and fields of the first record; an empty file is an error."""
    try:
        every = records(source, layout)
        found = next((one for one in every if layout.columns or "".join(one[2]).strip()), None)
    except csv.Error as error:
        raise _misquoted(source, error) from error
    if found is None:
        raise FedrecError(f"{source.name}:1: empty file; {_expected(layout)}")
    return found


def first_lines(source: Source, layout: Layout) -> list[str]:
    """Return the first lines that are not blank, of those that are looked at."""
    text = source.head().decode(layout.encoding, errors="replace").lstrip("\ufeff")
    lines = [line for line in text.splitlines()[layout.skip :] if line.strip()]
    return lines[: min(LOOKED_AT, max(len(lines) - 1, 1))]  # the last may be cut off


def find_separator(lines: Sequence[str], layout: Layout) -> dict[str, str]:
    """Return the settings of how the first lines are split, nothing where it is by commas or unclear.

    A separator gives equally many fields on each line, the best most of them; blanks count where nothing else splits.
    Lines of different lengths that are all numbers are lists of items.
    """
    widths = {name: _widths(lines, name, layout) for name in ("comma", "tab", "semicolon", "pipe", "colons", "space")}
    found = {name: some.pop() for name, some in widths.items() if len(some) == 1 and max(some) > 1}
    others = {name: width for name, width in found.items() if name != "space"} or found
    best = [name for name, width in others.items() if width == max(others.values())]
    if len(best) == 1:
        return {} if best[0] == "comma" else {"separator": best[0]}
    fields = [line.split() for line in lines]
    if not found and len(lines) > 1 and all(len(some) > 1 and all(map(str.isdecimal, some)) for some in fields):
        return {"layout": "lists"}
    return {}


def _widths(lines: Sequence[str], name: str, layout: Layout) -> set[int]:
    separator = SEPARATOR_NAMES[name]
    if len(separator) > 1 or not layout.quotes:
        return {len(line.split(separator)) for line in lines}
    try:
        return {len(fields) for fields in csv.reader(lines, delimiter=separator, quotechar=layout.quotes, strict=True)}
    except csv.Error:
        return set()


def separator_that_fits(content: bytes, encoding: str, wanted: set[str]) -> str:
    """Return a sentence that names the separator under which the first line holds the wanted columns, or nothing."""
    first = content.decode(encoding, errors="replace").lstrip("\ufeff\n\r").partition("\n")[0]
    for name, separator in SEPARATOR_NAMES.items():
        if wanted <= {field.strip().strip('"') for field in first.split(separator)}:
            return f" The file looks {separator!r}-separated: dataset.separator={name}."
    return ""


def is_data(fields: list[str]) -> bool:
    """Say whether the fields of a first line look like a row rather than like names: one of them is a number.

    Numbers from 0 or from 1 on are names, as data frames without names write them.
    """
    names = [field.strip() for field in fields if field.strip()]
    counted = (list(map(str, range(len(names)))), list(map(str, range(1, len(names) + 1))))
    return names not in counted and any(NUMBER.fullmatch(name) for name in names)


def header_hint(table: Table) -> str:
    """Return a sentence where the first line looks like data rather than column names."""
    if not any(NUMBER.fullmatch(name) for name in table.columns):
        return ""
    by_number = "dataset.header=false names columns by their number, from 0: dataset.columns.user=0"
    return f" The first line looks like data: {by_number}; or put a line of column names above it."


def _parse(source: Source, layout: Layout, names: list[str], skip: int) -> dict[str, Any]:
    """Return the columns under the first `skip` lines."""
    try:
        if layout.escape:
            raise UnclearQuotesError
        return _fast(Utf8Blocks(source, layout, skip), layout, names)
    except UnclearQuotesError:
        return _slow(source, layout, names)
    except UnicodeError as error:
        raise misread(source, layout.encoding) from error
    except (pa.ArrowException, ValueError) as error:
        raise _ragged(source, layout, str(error)) from error


def _fast(blocks: Utf8Blocks, layout: Layout, names: list[str]) -> dict[str, Any]:
    columns = {name: TextColumn() for name in names}
    parse = arrow_csv.ParseOptions(
        delimiter=layout.separator if len(layout.separator) == 1 else UNIT,
        quote_char=layout.quotes or False,
        newlines_in_values=bool(layout.quotes),
    )
    convert = arrow_csv.ConvertOptions(column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=False)
    for block in blocks:
        if not block.strip(b"\r\n"):
            continue
        read = arrow_csv.ReadOptions(use_threads=False, column_names=names, block_size=len(block) + 1)
        table = arrow_csv.read_csv(pa.BufferReader(block), read, parse, convert)
        for name, texts in zip(names, table.columns, strict=True):
            columns[name].add(texts.combine_chunks())
    return {name: column.column() for name, column in columns.items()}


def _slow(source: Source, layout: Layout, names: list[str]) -> dict[str, Any]:
    """Return the same where quotes stand within fields, or with escapes: record by record."""
    columns, held = {name: TextColumn() for name in names}, list[list[str]]()
    header = not layout.columns

    def add() -> None:
        for column, values in zip(columns.values(), zip(*held, strict=True), strict=True):
            column.add(pa.array(values, pa.string()))
        held.clear()

    try:
        for line, _, fields in records(source, layout):
            if header:
                header = not "".join(fields).strip()
                continue
            if len(fields) != len(names):
                raise _wrong_count(source, layout, line, fields, len(names))
            held.append(fields)
            if len(held) == ROWS:
                add()
    except csv.Error as error:
        raise _misquoted(source, error) from error
    if held:
        add()
    return {name: column.column() for name, column in columns.items()}


def _expected(layout: Layout) -> str:
    shown = repr(layout.separator)
    if not layout.columns:
        return f"a first line of column names separated by {shown} is expected"
    return f"{len(layout.columns)} separated by {shown} are expected: {', '.join(layout.columns)}"


def _misquoted(source: Source, error: csv.Error) -> FedrecError:
    line, why = cast("tuple[int, str]", error.args) if len(error.args) == 2 else (1, str(error))
    message = f"{source.name}:{line}: {why}; a quoted field needs its closing quote, and nothing between that and the"
    return FedrecError(
        f'{message} separator. Quotes that belong to the text: dataset.quote=none; quotes escaped as \\": '
        "dataset.escape=backslash"
    )


def _count(fields: list[str]) -> str:
    return f"{len(fields)} field{'s' * (len(fields) != 1)}"


def _wrong_count(source: Source, layout: Layout, line: int, fields: list[str], wanted: int) -> FedrecError:
    where = "" if layout.columns else ", as on the first line"
    return FedrecError(f"{source.name}:{line}: {_count(fields)}; {wanted} are expected{where}")


def _ragged(source: Source, layout: Layout, fallback: str) -> FedrecError:
    """Find the line that stopped the fast reader."""
    wanted = len(layout.columns)
    if "UTF8" in fallback:
        return misread(source, layout.encoding)
    try:
        for line, _, fields in records(source, layout):
            wanted = wanted or len(fields)
            if len(fields) != wanted:
                return _wrong_count(source, layout, line, fields, wanted)
    except csv.Error as error:
        return _misquoted(source, error)
    return FedrecError(f"{source.name}: {fallback.splitlines()[0][:200]}")


def _line(source: Source, layout: Layout, row: int) -> int:
    """Return the line, from 1, on which a row starts; row -1 is the header."""
    wanted = row + (0 if layout.columns else 1)
    return next((line for n, (line, _, _) in enumerate(records(source, layout)) if n == max(wanted, 0)), 1)
