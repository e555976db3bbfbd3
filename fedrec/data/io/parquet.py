"""Parquet files, and files with one user a line, as a `Table`.

Errors name the row, from 1, where a text file has a line.
"""

import gzip
import zlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from fedrec.data.download import Files
from fedrec.data.io.delimited import decode
from fedrec.data.io.table import Table
from fedrec.errors import FedrecError


def read_parquet(path: Path) -> Table:
    """Return every column of a Parquet file; a damaged or empty one is an error."""
    try:
        table = pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise FedrecError(f"{path}: not a complete Parquet file ({error}); write or fetch it again") from error
    if not table.num_rows:
        raise FedrecError(f"{path}: empty file; at least one row is expected")
    return Table(dict(zip(table.column_names, table.columns, strict=True)), lambda row: f"{path}: row {row + 1}")


def unpacked(files: Files, name: str) -> bytes:
    """Return the bytes of a file, decompressed where its name ends with .gz."""
    content = files.read(name)
    try:
        return gzip.decompress(content) if name.endswith(".gz") else content
    except (OSError, EOFError, zlib.error) as error:
        raise FedrecError(f"{files.label(name)}: truncated or damaged ({error}); fetch it again") from error


def read_sequences(content: bytes, name: str, separator: str = " ") -> Table:
    """Return columns `user` and `item`, one row an item, in the order of the lines and of each line.

    `separator` stands between the user and the first item, single spaces between items. Blank lines, and users
    without items, give no row; a user without its separator is an error that names the line.
    """
    users, items, lines = list[str](), list[str](), list[int]()
    for number, line in enumerate(decode(content, name, "utf-8").splitlines(), 1):
        text = line.strip(" \r\n")
        if not text:
            continue
        user, found, rest = text.partition(separator)
        if not found and (not text.isdecimal() or separator != " "):
            raise FedrecError(f"{name}:{number}: no {separator!r} after the user: 'user{separator}item item' expected")
        used = rest.split()
        users += [user] * len(used)
        items += used
        lines += [number] * len(used)
    if not items:
        raise FedrecError(f"{name}:1: no items; lines of 'user{separator}item item' are expected")
    at = np.array(lines)
    columns = {"user": pa.array(users, pa.string()), "item": pa.array(items, pa.string())}
    return Table(columns, lambda row: f"{name}:{at[max(row, 0)]}")
