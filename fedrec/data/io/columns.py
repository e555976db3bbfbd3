"""Columns that come in blocks, each kept as small as it goes without losing how a value is written.

Texts that are whole numbers as these are usually written become numbers, texts that repeat become a dictionary.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import date, datetime
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

compute: Any = pc  # pyarrow ships no types
TEXT, WORDS = pa.large_string(), pa.dictionary(pa.int32(), pa.large_string())
BLOCK = 50_000  # rows of Python values that become one chunk
KINDS: dict[type, Any] = {bool: pa.bool_(), int: pa.int64(), float: pa.float64(), bytes: pa.large_binary(), str: TEXT,
         datetime: pa.timestamp("us"), date: pa.date32()}  # fmt: skip


class LazyColumns(Mapping[str, Any]):
    """Columns that are read when they are asked for, each of `rows` rows, and not kept."""

    def __init__(self, names: Sequence[str], rows: int, read: Callable[[str], Any]) -> None:
        self.names, self.rows, self.read = dict.fromkeys(names), rows, read

    def __getitem__(self, name: str) -> Any:
        if name not in self.names:
            raise KeyError(name)
        return self.read(name)

    def __contains__(self, name: object) -> bool:
        return name in self.names

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)


class TextColumn:
    """A column of texts that comes in blocks: whole numbers as long as all are, else words or texts."""

    def __init__(self) -> None:
        self.chunks, self.kind = list[Any](), None

    def add(self, texts: Any) -> None:
        """Take the next block."""
        if self.kind is None or pa.types.is_integer(self.kind):
            numbers = whole_numbers(texts)
            if numbers is not None:
                self.kind = pa.int64()
                self.chunks.append(numbers)
                return
        words = texts.dictionary_encode()
        if self.kind is None or pa.types.is_integer(self.kind):
            self.kind = WORDS if 2 * len(words.dictionary) <= len(texts) else TEXT
            self.chunks = [chunk.cast(TEXT).cast(self.kind) for chunk in self.chunks]
        self.chunks.append((words if self.kind == WORDS else texts).cast(self.kind))

    def column(self) -> Any:
        """Return all blocks as one column."""
        return pa.chunked_array(self.chunks, self.kind or TEXT)


def release_columns() -> None:
    """Give back the memory of columns that nobody holds any more, which Arrow keeps for the next ones."""
    pa.default_memory_pool().release_unused()


def whole_numbers(texts: Any) -> Any:
    """Return texts as whole numbers that are written the same way again; None where one is not: 007, +5, 5.0."""
    if not len(texts) or texts.null_count:
        return None
    try:
        numbers = texts.cast(pa.int64())
    except pa.ArrowException:
        return None
    width = "<i8" if pa.types.is_large_string(texts.type) else "<i4"
    _, offsets, data = texts.buffers()
    ends = np.frombuffer(offsets, width)[texts.offset : texts.offset + len(texts) + 1]
    letters, start, length = np.frombuffer(data, np.uint8), ends[:-1], np.diff(ends)
    negative = letters[start] == ord("-")
    leading = letters[start + negative] == ord("0")
    return None if (leading & (length > 1)).any() else numbers


def to_column(values: Sequence[object]) -> Any:
    """Return Python values as an Arrow column of their kind; texts and numbers among each other become texts."""
    kinds = {type(value) for value in values if value is not None}
    kind = KINDS.get(next(iter(kinds)) if len(kinds) == 1 else object)
    try:
        if kind is not None:
            return pa.array(values, kind)
        if kinds & {list, dict, tuple}:
            return pa.array(values)
    except (pa.ArrowException, OverflowError, TypeError, ValueError):
        pass
    return pa.array([None if value is None else as_text(value) for value in values], TEXT)


def as_text(value: object) -> str:
    """Return a value as people write it: 3.0 as 3, moments as ISO 8601."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return str(int(value))
    if isinstance(value, datetime | date):
        return value.isoformat()
    if isinstance(value, Decimal):
        return format(value, "f")
    return value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else str(value)


def from_records(names: Sequence[str], records: Iterator[Sequence[object]]) -> tuple[dict[str, Any], int]:
    """Return columns, and their length, of records with one value a name; blocks of different kinds become texts."""
    chunks: list[list[Any]] = [[] for _ in names]
    rows, held = 0, list[Sequence[object]]()
    while True:
        record = next(records, None)
        if record is not None:
            held.append(record)
        if held and (record is None or len(held) == BLOCK):
            for column, values in zip(chunks, zip(*held, strict=True), strict=True):
                column.append(to_column(values))
            rows, held = rows + len(held), []
        if record is None:
            return {name: joined(column) for name, column in zip(names, chunks, strict=True)}, rows


def joined(chunks: Sequence[Any]) -> Any:
    """Return blocks as one column, texts where their kinds differ."""
    kinds = {chunk.type for chunk in chunks if not pa.types.is_null(chunk.type)}
    if len(kinds) > 1:
        chunks = [to_column([None if one is None else as_text(one) for one in chunk.to_pylist()]) for chunk in chunks]
        kinds = {TEXT}
    kind = next(iter(kinds), pa.null())
    if pa.types.is_large_string(kind):
        column = TextColumn()
        for chunk in chunks:
            column.add(chunk.cast(TEXT))
        return column.column()
    return pa.chunked_array([chunk.cast(kind) for chunk in chunks], kind)
