"""The public list of items as CSV: `id,title` and one column a feature."""

import csv
from pathlib import Path

import numpy as np

from fedrec.data.catalogue import Catalogue
from fedrec.data.features import position
from fedrec.errors import FedrecError


def read_items(path: Path) -> Catalogue:
    """Return the catalogue; a file without feature columns gets the item's place as its one feature."""
    if not path.is_file():
        raise FedrecError(f"{path}: no such file; dataset.path names a CSV with the columns id,title and features")
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            lines = [line for line in csv.reader(file, strict=True) if line]
    except (UnicodeDecodeError, csv.Error) as error:
        raise FedrecError(f"{path}: not a CSV file in UTF-8 ({error})") from error
    if len(lines) < 2 or lines[0][:2] != ["id", "title"]:
        raise FedrecError(f"{path}:1: the first line must be id,title and then the names of features, rows below it")
    names, rows = lines[0], lines[1:]
    for number, row in enumerate(rows, 2):
        if len(row) != len(names) or not row[0].strip():
            raise FedrecError(f"{path}:{number}: {len(names)} fields expected, the first an id")
    ids = [row[0].strip() for row in rows]
    if len(set(ids)) != len(ids):
        twice = next(name for n, name in enumerate(ids) if name in ids[:n])
        raise FedrecError(f"{path}: item '{twice}' stands twice")
    titles = np.array([row[1].strip() or row[0] for row in rows])
    if len(names) == 2:
        return Catalogue(np.array(ids), titles, position(len(ids)), ("position",), "item file")
    try:
        features = np.array([[float(text) for text in row[2:]] for row in rows], np.float32)
    except ValueError as error:
        raise FedrecError(f"{path}: every feature must be a number ({error})") from error
    return Catalogue(np.array(ids), titles, features, tuple(names[2:]), "item file")


def write_items(path: Path, catalogue: Catalogue) -> None:
    """Write a catalogue so that `read_items` gives the same ids, titles and features."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "title", *catalogue.feature_names])
        for name, title, features in zip(catalogue.ids, catalogue.titles, catalogue.features, strict=True):
            writer.writerow([name, title, *(f"{value:.9g}" for value in features)])
