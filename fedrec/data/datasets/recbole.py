"""RecBole's atomic files: tab-separated `.inter`, and `.item` beside it where there is one."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from fedrec.data.attributes import ItemColumns, describe_items
from fedrec.data.cache import through_cache
from fedrec.data.catalogue import Catalogue
from fedrec.data.dataset import Dataset
from fedrec.data.facts import Finding, plural
from fedrec.data.io.delimited import read_delimited
from fedrec.data.io.files import FileOptions
from fedrec.data.io.table import ColumnMapping, Table, map_columns
from fedrec.data.io.unpack import open_source
from fedrec.data.mapped import INCOMPLETE, MappedSource, map_rows
from fedrec.data.prepare import PrepareOptions, prepare_mapped
from fedrec.errors import FedrecError

BETWEEN = {",": "comma", ";": "semicolon", "|": "pipe", " ": "space"}  # by which a file that has no tabs may be split
OF_FILES = ("separator", "encoding", "quote", "decimal", "time_unit", "ids", "missing")
DEFAULT = ColumnMapping("user_id", "item_id", "timestamp", "rating")


@dataclass(frozen=True, kw_only=True)
class RecBole(MappedSource):
    """A `.inter` file, or a folder that holds exactly one; columns are named without their ":type".

    A file without `timestamp` or `rating` has no times or no ratings. The `.item` file of that name is the catalogue:
    its columns become features by their types (token, token_seq, float, float_seq), the first title or name the title.
    The `.user` file is read and told of; what it says of users stays unused. All are written alike, as the other
    settings say, which are those of `FileOptions`.
    """

    separator: str = "tab"
    encoding: str | None = None
    quote: str = "none"
    decimal: str = "."
    time_unit: str | None = None
    ids: str = "checked"
    missing: str = "refuse"

    @property
    def options(self) -> FileOptions:
        """How the files are written."""
        return FileOptions(**{name: getattr(self, name) for name in OF_FILES})

    def load(self) -> Dataset:
        """Read the file, or the one `.inter` file of the folder, that `path` names."""
        self.options.check()
        path = self._find()
        beside = (path.with_suffix(end) for end in (".item", ".user"))
        return through_cache(self, [path, *(one for one in beside if one.is_file())], lambda: self._load(path))

    def _load(self, path: Path) -> Dataset:
        columns = map_columns(self.columns, DEFAULT)
        table = self._read(path, blanks=True)
        if columns.time == DEFAULT.time and columns.time not in table.columns:
            columns = replace(columns, time=None)
        if columns.value == DEFAULT.value and columns.value not in table.columns:
            columns = replace(columns, value=None)
        names = columns.settings()
        table.require(names, names)
        kept, dropped = table.without_missing(names) if self.missing == "drop" else (table, 0)
        mapped = map_rows(kept, columns, self.events, table)
        del table, kept
        item_file, user_file = path.with_suffix(".item"), path.with_suffix(".user")
        catalogue, said = self._catalogue(item_file, columns.item) if item_file.is_file() else (None, ())
        if user_file.is_file():
            said = (*said, self._attributes(user_file, columns.user, mapped.read.user.names))
        incomplete = ((INCOMPLETE, dropped),) if dropped else ()
        plan = PrepareOptions(path.stem, catalogue, dropped=incomplete, findings=said)
        return prepare_mapped(
            mapped, self, plan, f"RecBole's .inter, separated by {self.options.text_layout().separator!r}"
        )

    def _attributes(self, path: Path, user: str, users: Sequence[str]) -> Finding:
        """Return what the file of users says, and that nothing uses it: it is theirs, and no model takes it."""
        table = self._read(path)
        table.require([user], {user: "dataset.columns.user"})
        described = len(set(table.keys(user)) & set(users))
        names = ", ".join(name for name in table.columns if name != user) or "nothing"
        who = f"{described:,} of {len(users):,} {plural('user', len(users))}"
        return Finding(f"{path.name} describes {who} ({names}): no model takes attributes of users, they stay unused")

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
        table = self._whole(path)
        first, *others = table.columns
        marks = [mark for mark in BETWEEN if mark in first]
        if blanks and not others and marks:
            shown = " and ".join(repr(mark) for mark in marks)
            raise FedrecError(
                f"{path}:1: one column, '{first}': the file looks separated by {shown}, .inter files are by tabs. "
                f"Write tabs, or say what stands between: dataset.separator={BETWEEN[marks[0]]}"
            )
        return table.renamed([name.partition(":")[0] for name in table.columns])

    def _whole(self, path: Path) -> Table:
        return self.options.applied(read_delimited(open_source(path), str(path), self.options.text_layout()))

    def _catalogue(self, path: Path, item: str) -> tuple[Catalogue, tuple[Finding, ...]]:
        whole = self._whole(path)
        kinds = {name: kind for name, _, kind in (column.partition(":") for column in whole.columns)}
        table = whole.renamed(list(kinds))
        title = next((name for name in kinds if name != item and ("title" in name or "name" in name)), None)
        return describe_items(table, ItemColumns(item, title, kinds=kinds))
