"""Any CSV or Parquet file of interactions, by a mapping of its columns."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from fedrec.data.dataset import Dataset
from fedrec.data.io.delimited import SEPARATOR_NAMES, Layout, header_hint, read_delimited, separator_that_fits
from fedrec.data.io.parquet import read_parquet
from fedrec.data.io.table import ColumnMapping, Table, map_columns
from fedrec.data.prepare import PrepareOptions, prepare_dataset
from fedrec.data.sources import SourceOptions, rows_of
from fedrec.errors import FedrecError

DEFAULT = ColumnMapping("user", "item", "time", None)
NO_TIME = " A file without times, in the order of time: dataset.columns.time=null."


@dataclass(frozen=True, kw_only=True)
class Delimited(SourceOptions):
    """A CSV file, or a Parquet file where the name ends with .parquet or .pq, called by its file's name.

    `separator` is a character or its name (comma, tab, semicolon, pipe). Ids are text or whole numbers; the catalogue
    is made of the items seen.
    """

    columns: Mapping[str, str | None] | None = None
    separator: str = ","
    encoding: str = "utf-8"

    def load(self) -> Dataset:
        """Read the file that `path` names."""
        if self.path is None:
            raise FedrecError("dataset.path is not set: dataset=csv dataset.path=FILE names a CSV or Parquet file")
        path = Path(self.path)
        if not path.is_file():
            raise FedrecError(f"{path}: no such file; dataset.path names a CSV or Parquet file")
        columns = map_columns(self.columns, DEFAULT)
        table = self._table(path, columns)
        rows = rows_of(table, columns.user, columns.item, columns.time, columns.value)
        return prepare_dataset(rows, self, PrepareOptions(path.stem))

    def _table(self, path: Path, columns: ColumnMapping) -> Table:
        settings = columns.settings()
        no_time = NO_TIME if columns.time else ""
        if path.suffix in (".parquet", ".pq"):
            table = read_parquet(path)
            table.require(settings, settings, no_time)
            return table
        content = path.read_bytes()
        separator = SEPARATOR_NAMES.get(self.separator, self.separator)
        if not separator:
            raise FedrecError("dataset.separator is blank; comma, tab, semicolon or pipe are usual")
        table = read_delimited(content, str(path), Layout(separator, self.encoding, quoted=True))
        hint = separator_that_fits(content, self.encoding, set(settings)) or header_hint(table)
        table.require(settings, settings, hint or (no_time if columns.time not in table.columns else ""))
        return table
