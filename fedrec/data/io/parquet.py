"""Parquet as a `Table`: errors name the row, from 1, where a text file has a line."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

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
