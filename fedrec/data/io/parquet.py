"""Parquet files and folders of them, and Arrow files, as a `Table`.

Errors name the row, from 1, where a text file has a line.
"""

import gzip
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from fedrec.data.download import Files
from fedrec.data.io.columns import LazyColumns
from fedrec.data.io.table import Table, by_row
from fedrec.data.io.unpack import DAMAGED, FREE
from fedrec.data.stages import tell
from fedrec.errors import FedrecError

NO_PARTITION = "__HIVE_DEFAULT_PARTITION__"
BROKEN = (*DAMAGED, TypeError, AttributeError, UnicodeError, IndexError)
RATIO = 20_000  # bytes that a byte of a file may stand for: runs of one value take next to nothing
PARTS = (".parquet", ".pq", ".parq")


def read_parquet(path: Path) -> Table:
    """Return the columns of a Parquet file, each read when it is asked for; a damaged or empty one is an error."""
    return _of_parts({path: {}}, str(path), by_row(str(path)))


def read_folder(folder: Path) -> Table:
    """Return the Parquet parts of a folder, in the order of their names, as one table.

    Folders called name=value give a column of that name, as Spark and Hive write them.
    """
    parts = parts_of(folder)
    if not parts:
        found = ", ".join(sorted(path.name for path in folder.iterdir())[:5]) or "nothing"
        raise FedrecError(f"{folder}: a folder without Parquet parts (found {found}): name a file in dataset.path")
    ends = np.cumsum([_opened(path).metadata.num_rows for path in parts])

    def place(row: int) -> str:
        if row < 0:
            return str(folder)
        part = int(np.searchsorted(ends, row, side="right"))
        return f"{parts[part]}: row {row + 1 - (int(ends[part - 1]) if part else 0)}"

    return _of_parts({path: _partitions(path.relative_to(folder)) for path in parts}, str(folder), place)


def parts_of(folder: Path) -> list[Path]:
    """Return the Parquet parts of a folder, in the order of their names."""
    return sorted(path for path in folder.rglob("*") if path.is_file() and _is_part(path, folder))


def read_arrow(path: Path, stream: bool) -> Table:
    """Return every column of an Arrow file (Feather) or stream."""
    try:
        with pa.OSFile(str(path)) as file:
            reader = pa.ipc.open_stream(file) if stream else pa.ipc.open_file(file)
            table = reader.read_all()
        table.validate(full=True)
    except BROKEN as error:
        raise _broken(path, "Arrow", error) from error
    if not table.num_rows:
        raise FedrecError(f"{path}: empty file; at least one row is expected")
    _refuse_twice(path, table.column_names)
    columns = dict(zip(table.column_names, (_plain(one) for one in table.columns), strict=True))
    return Table(columns, by_row(str(path)))


def first_batch(path: Path, kind: str, most: int) -> Any:
    """Return the first rows of a Parquet or Arrow file, None where there are none or it can't be read."""
    try:
        with pa.OSFile(str(path)) as file:
            if kind == "Parquet":
                batch = next(pq.ParquetFile(file).iter_batches(most))
            elif kind == "Arrow stream":
                batch = pa.ipc.open_stream(file).read_next_batch()
            else:
                batch = pa.ipc.open_file(file).get_batch(0)
            batch.validate(full=True)  # of a damaged file, lengths may be anything
            return batch.slice(0, most)
    except (*BROKEN, StopIteration):
        return None


def _of_parts(parts: dict[Path, Mapping[str, str | None]], name: str, place: Callable[[int], str]) -> Table:
    names = dict[str, None]()
    rows = 0
    for path, partitions in parts.items():
        file = _opened(path)
        _refuse_twice(path, file.schema_arrow.names)
        names |= dict.fromkeys([*file.schema_arrow.names, *partitions])
        rows += file.metadata.num_rows
    if not rows:
        raise FedrecError(f"{name}: empty file; at least one row is expected")

    def read(column: str) -> Any:
        tell(f"reading {column}", 0, rows)
        tables = [pa.table({column: _column(path, column, given.get(column))}) for path, given in parts.items()]
        try:
            joined = tables[0] if len(tables) == 1 else pa.concat_tables(tables, promote_options="permissive")
        except pa.ArrowException as error:
            raise FedrecError(f"{name}: column {column} has another type in each part ({error})") from error
        return joined.column(0)

    return Table(LazyColumns(list(names), rows, read), place)


def _column(path: Path, column: str, value: str | None) -> Any:
    """Return one column of a part: its own, else the value that its folder's name gives, or nothing."""
    file = _opened(path)
    if column in file.schema_arrow.names:
        try:
            found = file.read(columns=[column], use_threads=False).column(column)
            found.validate(full=True)
            if len(found) != file.metadata.num_rows:
                raise ValueError(f"{len(found):,} rows of {column} where {file.metadata.num_rows:,} are announced")
        except BROKEN as error:
            raise _broken(path, "Parquet", error) from error
        return _plain(found)
    one = pa.array([value], pa.large_string() if value is not None else pa.null())
    return pa.chunked_array([one.take(pa.array(np.zeros(file.metadata.num_rows, np.int64)))])


def _plain(column: Any) -> Any:
    """Return a column of an extension type as what it is stored as; a UUID as its usual text."""
    kind = column.type
    if not isinstance(kind, pa.BaseExtensionType):
        return column
    if str(kind.extension_name) == "arrow.uuid":
        return pa.chunked_array([[None if one is None else str(one) for one in column.to_pylist()]], pa.large_string())
    return pa.chunked_array([chunk.storage for chunk in column.chunks], kind.storage_type)


def _opened(path: Path) -> Any:
    try:
        file = pq.ParquetFile(path)
        names, rows = file.schema_arrow.names, file.metadata.num_rows
        size = max(rows * len(names), *(_unpacked(file.metadata)), 0)
    except BROKEN as error:
        raise _broken(path, "Parquet", error) from error
    if rows < 0 or size > max(FREE, RATIO * path.stat().st_size):
        raise FedrecError(f"{path}: not a complete Parquet file (it says that it holds {rows:,} rows)")
    return file


def _unpacked(metadata: Any) -> Iterator[int]:
    yield sum(metadata.row_group(group).total_byte_size for group in range(metadata.num_row_groups))


def _partitions(path: Path) -> dict[str, str | None]:
    """Return what the names of a part's folders say: day=1 is {"day": "1"}."""
    pairs = [folder.partition("=") for folder in path.parent.parts if "=" in folder]
    return {unquote(key): None if value == NO_PARTITION else unquote(value) for key, _, value in pairs}


def _is_part(path: Path, folder: Path) -> bool:
    if any(part.startswith((".", "_")) for part in path.relative_to(folder).parts):
        return False
    with path.open("rb") as file:
        return path.suffix in PARTS or file.read(4) == b"PAR1"


def _broken(path: Path, kind: str, error: Exception) -> FedrecError:
    why = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
    return FedrecError(f"{path}: not a complete {kind} file ({why}); write or fetch it again")


def _refuse_twice(path: Path, names: list[str]) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise FedrecError(f"{path}: a column name stands twice: {', '.join(twice)}")


def unpacked(files: Files, name: str) -> bytes:
    """Return the bytes of a file, decompressed where its name ends with .gz."""
    content = files.read(name)
    try:
        return gzip.decompress(content) if name.endswith(".gz") else content
    except (OSError, EOFError, zlib.error) as error:
        raise FedrecError(f"{files.label(name)}: truncated or damaged ({error}); fetch it again") from error
