"""The file of one device: `item,time,value,kind` as CSV, read without pyarrow, for devices have none."""

import csv
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from fedrec.errors import FedrecError, suggest

COLUMNS = ("item", "time", "value", "kind")


class Row(NamedTuple):
    """One interaction; without a time it is 0, without a value 1."""

    item: str
    time: float
    value: float
    kind: str


def mapping(text: str | None) -> dict[str, str]:
    """Return {"item": "movieId"} of "item=movieId,time=timestamp"."""
    pairs = [part.partition("=") for part in (text or "").split(",") if part.strip()]
    for name, equals, theirs in pairs:
        if name.strip() not in COLUMNS or not equals or not theirs.strip():
            raise FedrecError(f"--columns {text}: NAME=COLUMN,... is expected.{suggest(name.strip(), COLUMNS)}")
    return {name.strip(): theirs.strip() for name, _, theirs in pairs}


def read_device_file(path: Path, columns: Mapping[str, str] | None = None) -> list[Row]:
    """Return the rows in file order; whatever is wrong is an error that names file and line.

    `columns` says what the file calls our columns; all that it does not name is then left out.
    """
    if not path.is_file():
        raise FedrecError(f"{path}: no such file; a CSV with the columns {', '.join(COLUMNS)} is expected")
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            return list(_rows(path, csv.reader(file, strict=True), columns or {}))
    except (UnicodeDecodeError, csv.Error) as error:
        raise FedrecError(f"{path}: not a CSV file in UTF-8 ({error})") from error


def _rows(path: Path, lines: Iterator[list[str]], columns: Mapping[str, str]) -> Iterator[Row]:
    found = [name.strip() for name in next(lines, [])]
    for theirs in columns.values():
        if theirs not in found:
            raise FedrecError(f"{path}:1: no column '{theirs}'.{suggest(theirs, found)}")
    ours = {theirs: name for name, theirs in columns.items()}
    names = [ours.get(name, "" if columns else name) for name in found]
    if "item" not in names:
        raise FedrecError(
            f"{path}:1: no column 'item' among {', '.join(found) or 'none'}; --columns item=NAME names it"
        )
    for name in names:
        if name and name not in COLUMNS:
            raise FedrecError(f"{path}:1: column '{name}' is not known.{suggest(name, COLUMNS)}")
    for number, fields in enumerate(lines, 2):
        if not fields:
            continue
        if len(fields) != len(names):
            raise FedrecError(f"{path}:{number}: {len(fields)} fields where the first line names {len(names)}")
        yield _row({n: f for n, f in zip(names, fields, strict=True) if n}, f"{path}:{number}")


def _row(fields: dict[str, str], place: str) -> Row:
    item = fields["item"].strip()
    if not item:
        raise FedrecError(f"{place}: blank item: give every row an id")
    time, value = (_number(fields.get(name), default, name, place) for name, default in (("time", 0.0), ("value", 1.0)))
    return Row(item, time, value, (fields.get("kind") or "").strip() or "event")


def _number(text: str | None, default: float, name: str, place: str) -> float:
    if text is None:
        return default
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise FedrecError(f"{place}: {name} '{text}': a finite number is expected (times as unix time)")
    return value
