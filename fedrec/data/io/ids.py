"""Ids: names of users and items, kept as they are written; what is no name, or has lost digits, is refused with why.

Whole numbers of any width and sign, texts of any length, and whole floating numbers are ids; an id is never an amount.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from fedrec.data.io.columns import whole_numbers

compute: Any = pc  # pyarrow ships no types
NUMBER = re.compile(r"-?[0-9]+(\.[0-9]*)?")
WHOLE = re.compile(r"-?[0-9]+")
ROUNDED = re.compile(r"-?[0-9](\.[0-9]+)?E\+[0-9]{2,3}")  # as spreadsheets write what they have no room for
POWER = re.compile(r"-?[0-9]+(\.[0-9]*)?([eE][-+]?[0-9]+)?")
BYTES = re.compile(r"b'[^']*'|b\"[^\"]*\"")
NO_ID = frozenset(
    {"nan", "null", "none", "na", "n/a", "<na>", "nat", "undefined", "\\n", "nil", "#n/a", "(null)", "<null>"}
)  # in any case of letters
EXACT = {16: 2**11, 32: 2**24, 64: 2**53}  # from here on floating numbers of so many bits leave whole numbers out
ROW_IDS = "give every row an id"


@dataclass(frozen=True, slots=True)
class Tokens:
    """A column of ids: row n holds `names[codes[n]]`; names stand in the order of their first row and are distinct."""

    codes: NDArray[np.integer]
    names: tuple[str, ...]

    def order(self) -> NDArray[np.int64]:
        """Return the names' positions in public order: by number where all are whole numbers, else by text."""
        names = pa.array(self.names, pa.large_string())
        numbers = whole_numbers(names)
        if numbers is not None:
            return np.argsort(numbers.to_numpy(), kind="stable").astype(np.int64)
        if all(WHOLE.fullmatch(name) for name in self.names):
            return np.array(sorted(range(len(self.names)), key=lambda n: _by_number(self.names[n])), np.int64)
        return compute.sort_indices(names).to_numpy().astype(np.int64)  # by UTF-8, which is by code point


@dataclass(frozen=True, slots=True)
class IdOptions:
    """How ids are read: `written` takes every text as a name, also NA and 1.2E+05.

    `advice` names the settings that read what is refused, where the source has them.
    """

    written: bool = False
    advice: str = ""


CHECKED = IdOptions()


class NotAnIdError(Exception):
    """A row holds no id; `args` are its number, what is wrong, and what would be right."""


def read_ids(column: Any, name: str, options: IdOptions) -> Tokens:
    """Return an Arrow column as ids, spaces around them taken off and 3.0 written 3.

    `NotAnIdError` names the first row with a blank, a NaN, a fraction, or an id that has lost digits.
    """
    if not can_be_ids(column.type):
        kinds = "text, whole numbers or bytes are ids"
        if pa.types.is_nested(column.type):
            kinds += "; a list of items is read where dataset.columns.item names it"
        raise NotAnIdError(0, f"{name} is a column of type {column.type}", kinds)
    codes, values = encode(column)
    if values.null_count:
        code = int(compute.index(compute.is_null(values), True).as_py())
        raise NotAnIdError(_first(codes, code), f"blank {name}", ROW_IDS + options.advice)
    names = _Naming(codes, name, options).names(values)
    return Tokens(codes, tuple(names)) if pa.types.is_integer(values.type) else _merged(codes, names)


def missing(column: Any, options: IdOptions) -> NDArray[np.bool_]:
    """Return which rows hold no id: null, blank, NaN, or a word that says so."""
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if not _is_text(kind):
        plain = column.cast(kind) if pa.types.is_dictionary(column.type) else column
        return compute.is_null(plain, nan_is_null=True).to_numpy(zero_copy_only=False)
    codes, values = encode(column)
    words = {"", None} if options.written else {"", None, *NO_ID}
    plain = (one if one is None else one.strip().lower() for one in values.to_pylist())
    return np.array([one in words for one in plain], bool)[codes]


def can_be_ids(kind: Any) -> bool:
    """Say whether an Arrow type can hold ids."""
    kind = kind.value_type if pa.types.is_dictionary(kind) or pa.types.is_run_end_encoded(kind) else kind
    tests = (pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal, pa.types.is_null, _is_text, _is_bytes)
    return any(test(kind) for test in tests)


def encode(column: Any) -> tuple[NDArray[np.int32], Any]:
    """Return (codes, values) of a column: values distinct and in the order of their first row."""
    chunked = column if isinstance(column, pa.ChunkedArray) else pa.chunked_array([column])
    kind = chunked.type
    if pa.types.is_run_end_encoded(kind):
        return encode(compute.run_end_decode(chunked))
    if _is_text(kind) and not pa.types.is_large_string(kind):
        chunked = chunked.cast(pa.large_string())
    encoded = chunked.unify_dictionaries() if pa.types.is_dictionary(kind) else chunked.dictionary_encode("encode")
    values = encoded.chunk(0).dictionary if encoded.num_chunks else pa.array([], kind)
    parts = [chunk.indices for chunk in encoded.chunks]
    if any(part.null_count for part in parts):
        parts = [part.cast(pa.int32()).fill_null(pa.scalar(len(values), pa.int32())) for part in parts]
        values = pa.concat_arrays([values, pa.nulls(1, values.type)])
    codes = np.empty(len(chunked), np.int32)
    at = 0
    for part in parts:
        codes[at : at + len(part)] = part.to_numpy(zero_copy_only=False)
        at += len(part)
    return by_first_row(codes, values) if pa.types.is_dictionary(kind) else (codes, values)


def by_first_row(codes: NDArray[np.int32], values: Any) -> tuple[NDArray[np.int32], Any]:
    """Return the same with the values that are used, each once, in the order of their first row."""
    first = np.full(len(values), len(codes), np.int64)
    first[codes[::-1]] = np.arange(len(codes), dtype=np.int32)[::-1]
    order = np.argsort(first, kind="stable")[: int((first < len(codes)).sum())]
    again = compute.dictionary_encode(values.take(pa.array(order)), null_encoding="encode")
    place = np.empty(len(values), np.int32)
    place[order] = again.indices.to_numpy(zero_copy_only=False)
    return place[codes], again.dictionary


class _Naming:
    """What the distinct values of a column are called, each checked."""

    def __init__(self, codes: NDArray[np.integer], column: str, options: IdOptions) -> None:
        self.codes, self.column, self.options = codes, column, options

    def names(self, values: Any) -> list[str]:
        """Return the name of every value."""
        kind = values.type
        if pa.types.is_integer(kind):
            return [str(value) for value in values.to_pylist()]
        if pa.types.is_floating(kind):
            return self._of_floats(values)
        if pa.types.is_decimal(kind):
            return self._of_numbers([format(value, "f") for value in values.to_pylist()])
        names = [text.strip() for text in self._decoded(values)]
        for code, name in enumerate(names):
            if not name:
                self._refuse(code, f"blank {self.column}", ROW_IDS)
        return names if self.options.written else self._of_texts(names)

    def _decoded(self, values: Any) -> list[str]:
        if not _is_bytes(values.type):
            try:
                return values.to_pylist()
            except UnicodeDecodeError:
                values = values.cast(pa.large_binary())
        names = list[str]()
        for code, value in enumerate(values.to_pylist()):
            try:
                names.append(value.decode())
            except UnicodeDecodeError:
                self._refuse(code, f"{self.column} {value[:20]!r}", "bytes that are text in UTF-8 are ids")
        return names

    def _of_floats(self, values: Any) -> list[str]:
        bound, found = EXACT[values.type.bit_width], values.to_pylist()
        for code, value in enumerate(found):
            if value != value or abs(value) == float("inf"):
                self._refuse(code, f"{self.column} '{value}'", ROW_IDS)
            if abs(value) >= bound:
                why = f"floating numbers of {values.type.bit_width} bits leave out whole ones from {bound} on"
                self._refuse(
                    code, f"{self.column} '{value!r}' has lost digits", f"{why}: write ids as text or integers"
                )
        return self._of_numbers([f"{value:.1f}" if float(value).is_integer() else repr(value) for value in found])

    def _of_texts(self, names: list[str]) -> list[str]:
        for code, name in enumerate(names):
            if name.lower() in NO_ID:
                self._refuse(code, f"{self.column} '{name}'", ROW_IDS)
            if name.startswith("b") and BYTES.fullmatch(name):
                why = "this is how Python shows bytes: write them decoded, .decode()"
                self._refuse(code, f"{self.column} '{name}' is no id", why)
            if "E+" in name and ROUNDED.fullmatch(name):
                self._refuse_rounded(code, name)
        if all(NUMBER.fullmatch(name) for name in names):
            return self._of_numbers(names)
        if all(POWER.fullmatch(name) for name in names):
            code = next(code for code, name in enumerate(names) if "e" in name.lower())
            self._refuse_rounded(code, names[code])
        return names

    def _of_numbers(self, names: Sequence[str]) -> list[str]:
        for code, name in enumerate(names):
            if name.partition(".")[2].strip("0"):
                self._refuse(code, f"fractional {self.column} '{name}'", "ids in a numeric column are whole numbers")
        return [name.partition(".")[0] for name in names]

    def _refuse_rounded(self, code: int, name: str) -> None:
        why = "a spreadsheet or a floating number has rounded it: write ids as text where they come from"
        self._refuse(code, f"{self.column} '{name}' has lost digits", why)

    def _refuse(self, code: int, wrong: str, right: str) -> None:
        raise NotAnIdError(_first(self.codes, code), wrong, right + self.options.advice)


def _merged(codes: NDArray[np.integer], names: list[str]) -> Tokens:
    """Join names that became equal when they were tidied."""
    if len(set(names)) == len(names):
        return Tokens(codes, tuple(names))
    distinct = {name: code for code, name in enumerate(dict.fromkeys(names))}
    return Tokens(np.array([distinct[name] for name in names], np.int32)[codes], tuple(distinct))


def _by_number(name: str) -> tuple[int, int, str, str]:
    """Return what orders names as numbers, however many digits they have; equal numbers by text."""
    digits = name.lstrip("-").lstrip("0")
    if name.startswith("-"):
        return -1, -len(digits), "".join(chr(105 - ord(digit)) for digit in digits), name
    return 0, len(digits), digits, name


def _first(codes: NDArray[np.integer], code: int) -> int:
    return int(np.flatnonzero(codes == code)[0])


def _is_text(kind: Any) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


def _is_bytes(kind: Any) -> bool:
    return (
        pa.types.is_binary(kind)
        or pa.types.is_large_binary(kind)
        or pa.types.is_fixed_size_binary(kind)
        or pa.types.is_binary_view(kind)
    )
