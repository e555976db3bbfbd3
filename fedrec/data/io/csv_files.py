"""The public list of items as CSV: `id,title` and one column a feature.

The file of one device: `item,time,value,kind` as CSV, read without pyarrow, for devices have none.
"""

import csv
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fedrec.data.catalogue import Catalogue, position, texts
from fedrec.errors import FedrecError, suggest


def read_items(path: Path) -> Catalogue:
    """Return the catalogue; a file without feature columns gets the item's place as its one feature."""
    if not path.is_file():
        raise FedrecError(f"{path}: no such file; dataset.path names a CSV with the columns id,title and features")
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file, strict=True)
            lines = [(reader.line_num, line) for line in reader if line]
    except (UnicodeDecodeError, csv.Error) as error:
        raise FedrecError(f"{path}: not a CSV file in UTF-8 ({error})") from error
    if len(lines) < 2 or lines[0][1][:2] != ["id", "title"]:
        raise FedrecError(f"{path}:1: the first line must be id,title and then the names of features, rows below it")
    (_, names), *rows = lines
    seen = set[str]()
    for number, row in rows:
        if len(row) != len(names) or not row[0].strip():
            raise FedrecError(f"{path}:{number}: {len(names)} fields expected, the first an id")
        if row[0].strip() in seen:
            raise FedrecError(f"{path}:{number}: item '{row[0].strip()}' stands twice: each item is listed once")
        seen.add(row[0].strip())
    ids = texts(row[0].strip() for _, row in rows)
    titles = texts(row[1].strip() or row[0].strip() for _, row in rows)
    if len(names) == 2:
        return Catalogue(ids, titles, position(len(ids)), ("position",), "item file")
    features = [
        [_feature(text, f"{path}:{number}: {name}") for name, text in zip(names[2:], row[2:], strict=True)]
        for number, row in rows
    ]
    return Catalogue(ids, titles, np.array(features, np.float32), tuple(names[2:]), "item file")


def _feature(text: str, place: str) -> float:
    try:
        with np.errstate(over="ignore"):
            value = float(np.float32(text))
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise FedrecError(f"{place} '{text}': a finite number is expected")
    return value


def write_items(path: Path, catalogue: Catalogue) -> None:
    """Write a catalogue so that `read_items` gives the same ids, titles and features."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "title", *catalogue.feature_names])
        for name, title, features in zip(catalogue.ids, catalogue.titles, catalogue.features, strict=True):
            writer.writerow([name, title, *(f"{value:.9g}" for value in features)])


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
