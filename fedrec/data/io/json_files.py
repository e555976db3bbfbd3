"""JSON: one object a line, or one list of objects; numbers keep every digit that is written."""

import json
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, cast

import numpy as np

from fedrec.data.io.columns import BLOCK, joined, to_column
from fedrec.data.io.table import Table
from fedrec.data.io.text import misread, open_text
from fedrec.data.io.unpack import Source
from fedrec.errors import FedrecError

OBJECTS = 'one object a line, or a list of objects, is expected: {"user": 1, "item": 2}'
SPACE = " \t\r\n"
CHUNK = 1 << 20  # characters that are read at a time
MOST_KEYS = 1_000  # names that the objects of a file may have between them


class TwiceError(ValueError):
    """A name stands twice in one object."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        names = [name for name, _ in pairs]
        raise TwiceError(f"{next(name for name in names if names.count(name) > 1)!r} stands twice in one object")
    return made


DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_int=str, parse_float=str, parse_constant=str)


def read_json(source: Source, encoding: str) -> Table:
    """Return a column for each name of the objects, null where an object lacks it; errors name the line."""
    names, chunks, lines = dict[str, list[Any]](), list[int](), list[int]()
    held = list[dict[str, Any]]()
    for line, found in _objects(source, encoding):
        lines.append(line)
        held.append(found)
        if len(held) == BLOCK:
            _add(names, chunks, held, source)
    _add(names, chunks, held, source)
    if not lines:
        raise FedrecError(f"{source.name}:1: empty file; {OBJECTS}")
    columns = {name: joined(column) for name, column in names.items()}
    at = np.array(lines, np.int64)
    return Table(columns, lambda row: f"{source.name}:{at[max(row, 0)]}")


def first_objects(source: Source, encoding: str, most: int) -> list[dict[str, Any]]:
    """Return the first objects of a file, or of its list."""
    return [found for _, found in islice(_objects(source, encoding), most)]


def _add(names: dict[str, list[Any]], chunks: list[int], held: list[dict[str, Any]], source: Source) -> None:
    """Add a chunk to every column; one that is new was null before."""
    if not held:
        return
    for one in held:
        for name in one:
            names.setdefault(name, [to_column([None] * size) for size in chunks])
    if len(names) > MOST_KEYS:
        raise FedrecError(f"{source.name}: objects of more than {MOST_KEYS:,} names: rows with columns are expected")
    for name, column in names.items():
        column.append(to_column([one.get(name) for one in held]))
    chunks.append(len(held))
    held.clear()


def _objects(source: Source, encoding: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the line, from 1, and the object that begins there."""
    try:
        with open_text(source, encoding) as text:
            for line, value in _values(source, text):
                if not isinstance(value, dict):
                    raise FedrecError(f"{source.name}:{line}: a {_kind(value)} where an object is expected; {OBJECTS}")
                yield line, cast("dict[str, Any]", value)
    except UnicodeError as error:
        raise misread(source, encoding) from error


def _values(source: Source, text: Any) -> Iterator[tuple[int, Any]]:
    """Yield the values of a list, or those that stand one behind the other, and their lines; read in pieces."""
    buffer, at, line, ended, listed, after = "", 0, 1, False, None, False
    while True:
        while at < len(buffer) and buffer[at] in SPACE:
            line += buffer[at] == "\n"
            at += 1
        if not ended and len(buffer) - at < CHUNK:
            piece = text.read(CHUNK)
            buffer, at, ended = buffer[at:] + piece, 0, not piece
            continue
        if at == len(buffer):
            if listed:
                raise FedrecError(f"{source.name}:{line}: the list is not closed: the file is truncated")
            return
        if listed is None:
            listed = buffer[at] == "["
            at += listed
            continue
        if listed and buffer[at] == "]":
            if buffer[at + 1 :].strip(SPACE):
                raise FedrecError(f"{source.name}:{line}: something stands behind the list; {OBJECTS}")
            return
        if after and buffer[at] == ",":
            at, after = at + 1, False
            continue
        if listed and after:
            raise FedrecError(f"{source.name}:{line}: a comma, or the end of the list, is expected")
        value, end = _decoded(source, buffer, at, line)
        yield line, value
        line, at, after = line + buffer.count("\n", at, end), end, True


def _decoded(source: Source, buffer: str, at: int, line: int) -> tuple[Any, int]:
    try:
        value, end = DECODER.raw_decode(buffer, at)
    except json.JSONDecodeError as error:
        where = line + buffer.count("\n", at, error.pos)
        long = " (or an object of more than a million characters)" if len(buffer) - at >= CHUNK else ""
        raise FedrecError(f"{source.name}:{where}: not JSON: {error.msg}{long}; {OBJECTS}") from error
    except TwiceError as error:
        raise FedrecError(f"{source.name}:{line}: {error}: each name stands once") from error
    except RecursionError as error:
        raise FedrecError(f"{source.name}:{line}: nested too deeply; {OBJECTS}") from error
    try:
        buffer[at:end].encode()
        if "\\ud" in buffer[at:end].lower():
            json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise FedrecError(f"{source.name}:{line}: half a character (a lone surrogate): text is expected") from error
    return value, end


def _kind(value: object) -> str:
    if isinstance(value, list):
        return "list of lists" if any(isinstance(one, list) for one in cast(Sequence[object], value)) else "list"
    return "true or false" if isinstance(value, bool) else "null" if value is None else "text or number"
