"""Ids of every type that Arrow has: kept as they are written, or refused by column and type."""

from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedrec.data.datasets.csv import Delimited
from fedrec.data.io.ids import IdOptions, missing
from fedrec.data.io.table import Table
from fedrec.errors import FedrecError

BIG = 2**63 + 12345
COLUMNS: dict[str, tuple[Any, list[str]]] = {
    **{f"int{bits}": (pa.array([-7, 100], f"int{bits}"), ["-7", "100"]) for bits in (8, 16, 32, 64)},
    **{f"uint{bits}": (pa.array([7, 200], f"uint{bits}"), ["7", "200"]) for bits in (8, 16, 32, 64)},
    "uint64 above 2^63": (pa.array([BIG, BIG + 1], pa.uint64()), [str(BIG), str(BIG + 1)]),
    "int64 hashes": (pa.array([-(2**63), 2**63 - 1]), [str(-(2**63)), str(2**63 - 1)]),
    **{f"float{bits}": (pa.array(np.array([3.0, -4.0], f"f{bits // 8}")), ["3", "-4"]) for bits in (16, 32, 64)},
    "decimal128": (pa.array([Decimal("12345678901234567890"), Decimal(5)], pa.decimal128(38, 2)),
                   ["12345678901234567890", "5"]),
    "decimal256": (pa.array([Decimal(7), Decimal(5)], pa.decimal256(60, 0)), ["7", "5"]),
    "string": (pa.array(["00070", "70"], pa.string()), ["00070", "70"]),
    "large_string": (pa.array(["\xe9", "e\u0301"], pa.large_string()), ["\xe9", "e\u0301"]),
    "string_view": (pa.array(["a", "b"], pa.string_view()), ["a", "b"]),
    "binary": (pa.array([b"a", "\xe9".encode()], pa.binary()), ["a", "\xe9"]),
    "large_binary": (pa.array([b"a", b"b"], pa.large_binary()), ["a", "b"]),
    "fixed binary": (pa.array([b"ab", b"cd"], pa.binary(2)), ["ab", "cd"]),
    "dictionary": (pa.array(["b", "a"]).dictionary_encode(), ["b", "a"]),
    "dictionary of whole numbers": (pa.array([9, 7]).dictionary_encode(), ["9", "7"]),
    "run-end": (pa.RunEndEncodedArray.from_arrays([1, 2], ["b", "a"]), ["b", "a"]),
}  # fmt: skip
REFUSED: dict[str, tuple[Any, str]] = {
    "bool": (pa.array([True, False]), "f: row 1: c is a column of type bool: text, whole numbers or bytes are ids"),
    "null": (pa.nulls(2), "f: row 1: blank c"),
    "timestamp": (pa.array([1, 2], pa.timestamp("s")), "c is a column of type timestamp"),
    "date": (pa.array([1, 2], pa.date32()), "c is a column of type date32"),
    "time": (pa.array([1, 2], pa.time32("s")), "c is a column of type time32"),
    "duration": (pa.array([1, 2], pa.duration("s")), "c is a column of type duration"),
    "struct": (pa.array([{"a": 1}, {"a": 2}]), "c is a column of type struct<a: int64>"),
    "map": (pa.array([[("a", 1)], []], pa.map_(pa.string(), pa.int64())), "c is a column of type map"),
    "list": (pa.array([["a"], ["b"]]), r"c is a column of type list<.*dataset\.columns\.item"),
    "nan": (pa.array([1.0, float("nan")]), "f: row 2: c 'nan'"),
    "inf": (pa.array([1.0, float("inf")]), "f: row 2: c 'inf'"),
    "fraction": (pa.array([1.0, 2.5]), "f: row 2: fractional c '2.5'"),
    "decimal fraction": (pa.array([Decimal("1.00"), Decimal("2.50")]), "f: row 2: fractional c '2.50'"),
    "float64 past 2^53": (pa.array([1.0, 2.0**53]), "f: row 2: c '9007199254740992.0' has lost digits"),
    "float32 past 2^24": (pa.array([1.0, 2.0**24], pa.float32()), "f: row 2: c '16777216.0' has lost digits"),
    "bytes that are no text": (pa.array([b"a", b"\xff"]), r"f: row 2: c b'\\xff': bytes that are text in UTF-8"),
    "a null": (pa.array(["a", None]), "f: row 2: blank c"),
    "a null in a dictionary": (pa.DictionaryArray.from_arrays([0, 1], ["a", None]), "f: row 2: blank c"),
}


def table(column: Any, options: IdOptions | None = None) -> Table:
    made = Table({"c": column}, lambda row: f"f: row {row + 1}")
    return made if options is None else Table(made.columns, made.place, ids=options)


@pytest.mark.parametrize("kind", COLUMNS)
def test_ids_of_a_type_are_kept(kind: str) -> None:
    column, names = COLUMNS[kind]
    for form in (column, pa.chunked_array([column, column])):
        tokens = table(form).tokens("c")
        assert tokens.names == tuple(names) and tokens.codes.dtype == np.int32
        assert tokens.codes.tolist() == [0, 1] * (len(form) // 2)


@pytest.mark.parametrize("kind", REFUSED)
def test_ids_that_are_none_are_refused_by_column_and_type(kind: str) -> None:
    column, message = REFUSED[kind]
    with pytest.raises(FedrecError, match=message):
        table(column).tokens("c")


@pytest.mark.parametrize("kind", [name for name in COLUMNS if name not in ("run-end", "float16")])
def test_a_parquet_file_keeps_them_too(tmp_path: Path, kind: str) -> None:
    column, names = COLUMNS[kind]
    pq.write_table(pa.table({"user": ["a", "a"], "item": column}), tmp_path / "log.parquet")
    data = Delimited(path=str(tmp_path / "log.parquet"), columns={"time": None}).load()
    assert data.catalogue.ids[data.interactions.item].tolist() == names


def test_extension_types_are_what_they_are_stored_as(tmp_path: Path) -> None:
    uuids = [UUID(int=1), UUID(int=2)]
    items = pa.array([one.bytes for one in uuids], pa.uuid())
    pq.write_table(pa.table({"user": ["a", "a"], "item": items}), tmp_path / "log.parquet")
    data = Delimited(path=str(tmp_path / "log.parquet"), columns={"time": None}).load()
    assert data.catalogue.ids.tolist() == [str(one) for one in uuids]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (["a", "1.23E+18"], "row 2: c '1.23E.18' has lost digits"),
        (["7", "12e17"], "row 2: c '12e17' has lost digits"),
        (["a", "b'x'"], "row 2: c 'b'x'' is no id"),
        (["a", "NULL"], "row 2: c 'NULL'"),
        (["a", "n/a"], "row 2: c 'n/a'"),
        (["a", " "], "row 2: blank c"),
    ],
)
def test_texts_that_lost_what_they_meant_are_refused_unless_they_are_said_to_be_names(
    values: list[str], message: str
) -> None:
    with pytest.raises(FedrecError, match=message):
        table(pa.array(values)).tokens("c")
    if values[1].strip():
        assert table(pa.array(values), IdOptions(written=True)).tokens("c").names == tuple(values)


def test_hexadecimal_hashes_that_look_like_powers_are_names() -> None:
    assert table(pa.array(["12e4", "a3f1", "b'"])).tokens("c").names == ("12e4", "a3f1", "b'")


def test_values_of_a_dictionary_that_no_row_uses_or_that_repeat_are_no_names() -> None:
    column = pa.DictionaryArray.from_arrays([2, 0, 3], ["x", "unused", "y", "x"])
    tokens = table(column).tokens("c")
    assert tokens.names == ("y", "x") and tokens.codes.tolist() == [0, 1, 1]


def test_rows_without_an_id_are_found() -> None:
    assert missing(pa.array(["a", None, "NA", " ", "b"]), IdOptions()).tolist() == [False, True, True, True, False]
    assert missing(pa.array(["a", None, "NA"]), IdOptions(written=True)).tolist() == [False, True, False]
    assert missing(pa.array([1.0, float("nan")]), IdOptions()).tolist() == [False, True]


@given(st.lists(st.integers(-(10**25), 10**25).map(str) | st.sampled_from(["007", "-07", "0"]), min_size=1))
def test_whole_numbers_of_any_length_are_in_the_order_of_numbers(values: list[str]) -> None:
    tokens = table(pa.array(values)).tokens("c")
    assert list(tokens.names) == list(dict.fromkeys(values))
    ordered = [tokens.names[n] for n in tokens.order().tolist()]
    assert [int(name) for name in ordered] == sorted(int(name) for name in tokens.names)


def test_a_name_of_five_thousand_digits_is_ordered_too() -> None:
    assert table(pa.array(["9" * 5000, "1"])).tokens("c").order().tolist() == [1, 0]


def test_memory_follows_the_length_of_all_names_together(tmp_path: Path) -> None:
    """One name of a million characters among many short ones: an array of fixed width would take 12 GB."""
    users = ["u" * 10**6, *map(str, range(3000))]
    pq.write_table(pa.table({"user": users, "item": users}), tmp_path / "log.parquet")
    data = Delimited(path=str(tmp_path / "log.parquet"), columns={"time": None}).load()
    assert data.interactions.user_ids.nbytes < 10**6 and data.catalogue.ids.nbytes < 10**6
    assert data.interactions.user_ids[-1] == users[0] and len(data.catalogue.titles[-1]) == 10**6
