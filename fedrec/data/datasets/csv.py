"""Any file of interactions, by a mapping of its columns."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fedrec.data.attributes import ItemColumns, describe_items
from fedrec.data.cache import through_cache
from fedrec.data.catalogue import Catalogue
from fedrec.data.dataset import Dataset
from fedrec.data.facts import Finding
from fedrec.data.io.databases import is_url
from fedrec.data.io.files import FileOptions, by_number, find_file, hint_for, read_file
from fedrec.data.io.lists import exploded
from fedrec.data.io.parquet import parts_of
from fedrec.data.io.table import ROLES, ColumnMapping, Table, map_columns
from fedrec.data.io.unpack import open_source
from fedrec.data.mapped import INCOMPLETE, MappedSource, map_rows
from fedrec.data.prepare import PrepareOptions, prepare_mapped
from fedrec.errors import FedrecError

DEFAULT = ColumnMapping("user", "item", "time", None)
OF_LAYOUT = {
    "rows": DEFAULT,
    "lists": ColumnMapping("user", "item", None, None),
    "matrix": ColumnMapping("user", "item", None, "value"),
}
NO_TIME = " A file without times, in the order of time: dataset.columns.time=null."


@dataclass(frozen=True, kw_only=True)
class Delimited(FileOptions, MappedSource):
    """A file, a folder of Parquet parts or a database, called by its name: see `FileOptions` for how it is written.

    `columns` says what the file calls user, item, time and value, by name or by number from 0. Ids are text or whole
    numbers; the catalogue is made of the items seen.

    `items` names a further file with a row for each item: its `path`, the `columns` with the `id` and the `title`, and
    the `features` (null: all columns that fit). `separator`, `encoding` and `header` are as the log's where null;
    `between` stands between several values of one field.
    """

    items: Mapping[str, Any] | None = None

    def load(self) -> Dataset:
        """Read the file that `path` names."""
        if self.path is None:
            raise FedrecError("dataset.path is not set: dataset=csv dataset.path=FILE names a file of interactions")
        self.check()
        return through_cache(self, files_of(self.path, self.items), self._read)

    def _read(self) -> Dataset:
        path = str(self.path)
        whole, columns = self._table(path, map_columns(self.columns, OF_LAYOUT[self.layout]))
        names = list(columns.settings())
        table = exploded(whole, names, columns.item, self.between)
        table, dropped = table.without_missing(names) if self.missing == "drop" else (table, 0)
        mapped = map_rows(table, columns, self.events, whole)
        del table, whole
        catalogue, said = self._catalogue()
        incomplete = ((INCOMPLETE, dropped),) if dropped else ()
        plan = PrepareOptions(called(path), catalogue, dropped=incomplete, findings=said)
        return prepare_mapped(mapped, self, plan, self.form(path))

    def _catalogue(self) -> tuple[Catalogue | None, tuple[Finding, ...]]:
        """Return the catalogue of the file of items, where there is one."""
        items = dict(self.items or {})
        if items.get("path") is None:
            return None, ()
        how = {name: items[name] for name in ("separator", "encoding", "header") if items.get(name) is not None}
        table = read_file(str(items["path"]), replace(self, layout="rows", list_separator=None, **how), [])
        named = {part: str(name) for part, name in (items.get("columns") or {}).items() if name is not None}
        given = None if items.get("features") is None else [str(name) for name in items["features"]]
        numbered = [by_number(name, table.columns) for name in given or ()]
        title = by_number(named["title"], table.columns) if "title" in named else None
        return describe_items(
            table,
            ItemColumns(
                by_number(named.get("id", "item"), table.columns),
                title,
                None if given is None else numbered,
                between=str(items.get("between") or "|"),
            ),
        )

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


def files_of(path: str, items: Mapping[str, Any] | None) -> list[Path]:
    """Return the files that are read; none of a database, which changes without them."""
    places = [path, *([str(items["path"])] if items and items.get("path") is not None else [])]
    if any(is_url(place) for place in places):
        return []
    found = [find_file(place) for place in places]
    databases = [place for place in found if place.is_file() and open_source(place).kind == "SQLite"]
    return [] if databases else [file for one in found for file in (parts_of(one) if one.is_dir() else [one])]


def called(path: str) -> str:
    """Return what a file's data set is called: its name without what says how it is written."""
    if is_url(path):
        return path.rpartition("/")[2].partition("?")[0] or "database"
    place = find_file(path)
    stem = Path(place.stem).stem if place.suffix in (".gz", ".zip", ".bz2", ".zst", ".xz", ".lz4") else place.stem
    return stem or place.resolve().name
