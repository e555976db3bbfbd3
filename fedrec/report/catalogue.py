"""catalogue.parquet: the ids and titles that a run's item rows stand for."""

from pathlib import Path

import pyarrow as pa
from pyarrow import parquet

from fedrec.data.catalogue import Catalogue


def write_catalogue(path: Path, catalogue: Catalogue) -> None:
    """Write one row an item: id, title."""
    columns = {"id": catalogue.ids.tolist(), "title": catalogue.titles.tolist()}
    parquet.write_table(pa.table(columns), path, compression="zstd")
