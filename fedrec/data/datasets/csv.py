"""Any file of interactions, by a mapping of its columns."""

from dataclasses import dataclass, replace
from pathlib import Path

from fedrec.data.dataset import Dataset
from fedrec.data.io.databases import is_url
from fedrec.data.io.files import FileOptions, by_number, find_file, hint_for, read_file
from fedrec.data.io.lists import exploded
from fedrec.data.io.table import ROLES, ColumnMapping, Table, map_columns
from fedrec.data.io.unpack import open_source
from fedrec.data.mapped import MappedSource, map_rows
from fedrec.data.prepare import PrepareOptions, prepare_mapped
from fedrec.errors import FedrecError

DEFAULT = ColumnMapping("user", "item", "time", None)
OF_LAYOUT = {
    "rows": DEFAULT,
    "lists": ColumnMapping("user", "item", None, None),
    "matrix": ColumnMapping("user", "item", None, "value"),
}
NO_TIME = " A file without times, in the order of time: dataset.columns.time=null."
INCOMPLETE = "rows without a user, item, time or value"


@dataclass(frozen=True, kw_only=True)
class Delimited(FileOptions, MappedSource):
    """A file, a folder of Parquet parts or a database, called by its name: see `FileOptions` for how it is written.

    `columns` says what the file calls user, item, time and value, by name or by number from 0. Ids are text or whole
    numbers; the catalogue is made of the items seen.
    """

    def load(self) -> Dataset:
        """Read the file that `path` names."""
        if self.path is None:
            raise FedrecError("dataset.path is not set: dataset=csv dataset.path=FILE names a file of interactions")
        self.check()
        whole, columns = self._table(self.path, map_columns(self.columns, OF_LAYOUT[self.layout]))
        names = list(columns.settings())
        table = exploded(whole, names, columns.item, self.list_separator)
        table, dropped = table.without_missing(names) if self.missing == "drop" else (table, 0)
        mapped = map_rows(table, columns, self.events, whole)
        del table, whole
        incomplete = ((INCOMPLETE, dropped),) if dropped else ()
        return prepare_mapped(mapped, self, PrepareOptions(called(self.path), dropped=incomplete), self.form(self.path))

    def _table(self, path: str, columns: ColumnMapping) -> tuple[Table, ColumnMapping]:
        """Return the columns of the file, and the names of those that are read."""
        settings = columns.settings()
        table = read_file(path, self, list(settings))
        named = {role: getattr(columns, role) for role in ROLES}
        columns = replace(columns, **{role: by_number(name, table.columns) for role, name in named.items() if name})
        settings = columns.settings()
        if not set(settings) <= set(table.columns):
            hint = hint_for(path, self, table, set(settings))
            no_time = NO_TIME if columns.time and columns.time not in table.columns else ""
            table.require(settings, settings, hint or no_time)
        return table, columns

    def form(self, path: str) -> str:
        """Return in words how the file is written."""
        if is_url(path):
            return "rows of a database"
        place = find_file(path)
        source = None if place.is_dir() else open_source(place)
        kind = "a folder of Parquet files" if source is None else source.kind
        if kind == "text":
            kind = f"text separated by {self.text_layout().separator!r}, {self.encoding or 'UTF-8 or as its mark says'}"
        if source is not None and source.packed:
            kind += f", packed by {source.packed}"
        return kind if self.layout == "rows" else f"{kind}, laid out as {self.layout}"


def called(path: str) -> str:
    """Return what a file's data set is called: its name without what says how it is written."""
    if is_url(path):
        return path.rpartition("/")[2].partition("?")[0] or "database"
    place = find_file(path)
    stem = Path(place.stem).stem if place.suffix in (".gz", ".zip", ".bz2", ".zst", ".xz", ".lz4") else place.stem
    return stem or place.resolve().name
