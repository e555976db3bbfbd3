"""catalogue.parquet: the ids and titles that a run's item rows stand for."""

from pathlib import Path

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from fedrec.data.catalogue import Catalogue
from fedrec.errors import FedrecError


def write_catalogue(path: Path, catalogue: Catalogue) -> None:
    """Write one row an item: id, title."""
    columns = {"id": catalogue.ids.tolist(), "title": catalogue.titles.tolist()}
    parquet.write_table(pa.table(columns), path, compression="zstd")


def read_catalogue(path: Path) -> Catalogue:
    """Return the items of a run folder, their ids and titles; features are the data set's alone."""
    try:
        table = parquet.read_table(path)
        ids, titles = (np.array(table[name].to_pylist(), dtype=np.str_) for name in ("id", "title"))
    except (OSError, KeyError, pa.ArrowException) as error:
        raise FedrecError(f"{path} is not the catalogue of a run: {str(error).splitlines()[0]}") from error
    return Catalogue(ids, titles, np.zeros((len(ids), 0), np.float32), (), "run folder")
