"""The public list of items as CSV: `id,title` and one column a feature."""

import csv
import math
from pathlib import Path

import numpy as np

from fedrec.data.catalogue import Catalogue, position
from fedrec.errors import FedrecError


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
    ids = np.array([row[0].strip() for _, row in rows])
    titles = np.array([row[1].strip() or row[0].strip() for _, row in rows])
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
