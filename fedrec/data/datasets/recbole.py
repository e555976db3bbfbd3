"""RecBole's atomic files: tab-separated `.inter`, and `.item` beside it where there is one."""

from dataclasses import dataclass, replace
from pathlib import Path

from fedrec.data.attributes import ItemColumns, describe_items
from fedrec.data.catalogue import Catalogue
from fedrec.data.dataset import Dataset
from fedrec.data.facts import Finding
from fedrec.data.io.delimited import Layout, read_delimited
from fedrec.data.io.table import ColumnMapping, Table, map_columns
from fedrec.data.mapped import MappedSource, map_rows
from fedrec.data.prepare import PrepareOptions, prepare_mapped
from fedrec.errors import FedrecError

DEFAULT = ColumnMapping("user_id", "item_id", "timestamp", "rating")


@dataclass(frozen=True, kw_only=True)
class RecBole(MappedSource):
    """A `.inter` file, or a folder that holds exactly one; columns are named without their ":type".

    A file without `timestamp` or `rating` has no times or no ratings. The `.item` file of that name is the catalogue:
    its columns become features by their types (token, token_seq, float, float_seq), the first title or name the title.
    """

    encoding: str = "utf-8"

    def load(self) -> Dataset:
        """Read the file, or the one `.inter` file of the folder, that `path` names."""
        path = self._find()
        columns = map_columns(self.columns, DEFAULT)
        table = self._read(path, blanks=True)
        if columns.time == DEFAULT.time and columns.time not in table.columns:
            columns = replace(columns, time=None)
        if columns.value == DEFAULT.value and columns.value not in table.columns:
            columns = replace(columns, value=None)
        table.require(columns.settings(), columns.settings())
        mapped = map_rows(table, columns, self.events)
        item_file, user_file = path.with_suffix(".item"), path.with_suffix(".user")
        catalogue, said = self._catalogue(item_file, columns.item) if item_file.is_file() else (None, ())
        if user_file.is_file():
            known = ", ".join(self._read(user_file).columns)
            said = (*said, Finding(f"{user_file.name} is not read ({known}): no model takes attributes of users"))
        plan = PrepareOptions(path.stem, catalogue, findings=said)
        return prepare_mapped(mapped, self, plan, "RecBole's .inter, separated by tabs")

    def _find(self) -> Path:
        if self.path is None:
            raise FedrecError("dataset.path is not set: dataset=recbole dataset.path=FILE names a .inter file")
        path = Path(self.path)
        found = sorted(path.glob("*.inter")) if path.is_dir() else [path]
        if len(found) != 1:
            names = ", ".join(file.name for file in found) or "none"
            raise FedrecError(f"{path}: one .inter file is expected; found {names}: dataset.path may name the file")
        if not found[0].is_file():
            raise FedrecError(f"{path}: no such file; dataset.path names a .inter file or its folder")
        return found[0]

    def _read(self, path: Path, blanks: bool = False) -> Table:
        """Return the columns by their names without types; one that `blanks` separate is named as such."""
        table = read_delimited(path.read_bytes(), str(path), Layout("\t", self.encoding))
        first, *others = table.columns
        if blanks and not others and len(first.split()) > 1:
            fields = " and ".join(repr(mark) for mark in (" ", ",", ";") if mark in first)
            raise FedrecError(
                f"{path}:1: one column, '{first}': the file looks separated by {fields}, .inter files are by tabs. "
                f"Write tabs, or read it as a text: dataset=csv dataset.path={path} dataset.separator=space"
            )
        return table.renamed([name.partition(":")[0] for name in table.columns])

    def _catalogue(self, path: Path, item: str) -> tuple[Catalogue, tuple[Finding, ...]]:
        whole = read_delimited(path.read_bytes(), str(path), Layout("\t", self.encoding))
        kinds = {name: kind for name, _, kind in (column.partition(":") for column in whole.columns)}
        table = whole.renamed(list(kinds))
        title = next((name for name in kinds if name != item and ("title" in name or "name" in name)), None)
        return describe_items(table, ItemColumns(item, title, kinds=kinds))
