"""Reading text strictly: every complaint names the file and the line."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrec.data.io.delimited import Layout, read_delimited
from fedrec.data.io.table import Table
from fedrec.errors import FedrecError

TEXT = Layout(quoted=True)


def read(text: str, layout: Layout = TEXT) -> Table:
    return read_delimited(text.encode(layout.encoding), "f.csv", layout)


def test_columns_of_a_csv_with_quotes_and_blank_lines() -> None:
    table = read('user,title\n1,"a, ""b"""\n\n2,plain\n')
    assert table.texts("title") == ['a, "b"', "plain"]
    assert table.place(1) == "f.csv:4"


def test_a_quoted_field_may_hold_a_line_break() -> None:
    table = read('user,item\n1,"a\nb"\n2,\n')
    assert len(table) == 2
    with pytest.raises(FedrecError, match=r"f\.csv:4: blank item"):
        table.tokens("item")


def test_byte_order_mark_and_carriage_returns_are_no_part_of_the_text() -> None:
    table = read("\ufeffuser,item\r\n1,2\r\n")
    assert list(table.columns) == ["user", "item"]
    assert table.texts("item") == ["2"]


def test_separator_of_two_characters() -> None:
    table = read("1::a:b::x\n2::c::y\n", Layout("::", columns=("id", "title", "genre")))
    assert table.texts("title") == ["a:b", "c"]


@pytest.mark.parametrize("content", ["", "\n \n"])
def test_empty_file(content: str) -> None:
    with pytest.raises(FedrecError, match=r"f\.csv:1: empty file; a first line of column names"):
        read(content)


def test_header_without_rows() -> None:
    with pytest.raises(FedrecError, match=r"f\.csv:1: a header and no rows"):
        read("user,item\n")


def test_line_with_too_few_fields() -> None:
    with pytest.raises(FedrecError, match=r"f\.csv:4: 1 field; 2 are expected"):
        read("user,item\n1,2\n\n3\n")


def test_wrong_separator_of_a_file_without_header() -> None:
    with pytest.raises(FedrecError, match=r"f\.csv:1: 1 field; 2 separated by '\\t' are expected: user, item"):
        read("1,2\n", Layout("\t", columns=("user", "item")))


def test_column_that_stands_twice() -> None:
    with pytest.raises(FedrecError, match=r"f\.csv:1: a column name stands twice"):
        read("user,user\n1,2\n")


def test_quote_that_is_never_closed() -> None:
    for text in ('user,item\n1,2\n3,"4\n5,6\n', 'user,item\n1,2\n3,"4\n5,"6\n'):
        with pytest.raises(FedrecError, match=r"f\.csv:3: .*closing quote"):
            read(text)


def test_wrong_encoding_names_the_byte_and_its_line() -> None:
    for text, likely in (("a\ncaf\xe9\n", "latin-1"), ("a\n\x80uro\n", "windows-1252")):
        with pytest.raises(FedrecError, match=rf"f\.csv:2: byte 0x.. is not utf-8 text.*dataset\.encoding={likely}"):
            read_delimited(text.encode("latin-1"), "f.csv", TEXT)
    with pytest.raises(FedrecError, match=r"byte 0x00.*dataset\.encoding=utf-16-le"):
        read_delimited("a\n1\n".encode("utf-16-le"), "f.csv", TEXT)
    with pytest.raises(FedrecError, match="no encoding is called 'utf-9'"):
        read_delimited(b"a", "f.csv", Layout(encoding="utf-9"))


@pytest.mark.parametrize("codec", ["utf-8-sig", "utf-16", "utf-32"])
def test_a_byte_order_mark_says_the_encoding(codec: str) -> None:
    table = read_delimited("user,item\nann,caf\xe9\n".encode(codec), "f.csv", TEXT)
    assert list(table.columns) == ["user", "item"] and table.texts("item") == ["caf\xe9"]


@pytest.mark.parametrize(
    ("bad", "what"),
    [("", "blank item"), ("nan", "item 'nan'"), ("NA", "item 'NA'"), ("2.5", "fractional item '2.5'")],
)
def test_ids_that_are_none(bad: str, what: str) -> None:
    with pytest.raises(FedrecError, match=rf"f\.csv:3: {what}"):
        read(f"user,item\n1,1\n2,{bad}\n3,3\n").tokens("item")


def test_ids_as_text_may_look_like_anything() -> None:
    assert read("user,item\n1,a\n2,-2\n3,2.5\n").tokens("item").names == ("a", "-2", "2.5")


def test_whole_numbers_written_as_fractions_are_whole() -> None:
    tokens = read("user,item\n1,3.0\n2, 3\n3,10\n").tokens("item")
    assert tokens.names == ("3", "10")
    assert tokens.codes.tolist() == [0, 0, 1]


def test_order_is_by_number_or_by_text() -> None:
    assert read("a\n10\n9\n").tokens("a").order().tolist() == [1, 0]
    assert read("a\n10\n9\nx\n").tokens("a").order().tolist() == [0, 1, 2]


@pytest.mark.parametrize("bad", ["", "noon", "nan", "inf", "1_000", "2020-01-01"])
def test_time_that_is_no_number(bad: str) -> None:
    with pytest.raises(FedrecError, match=rf"f\.csv:3: time '{bad}': a finite number is expected"):
        read(f"user,time\n1,5\n2,{bad}\n").numbers("time")


def test_dates_in_text_are_no_times_even_where_all_are() -> None:
    with pytest.raises(FedrecError, match=r"f\.csv:2: time '2020-01-01': a finite number is expected"):
        read("user,time\n1,2020-01-01\n2,2020-01-02\n").numbers("time")


def test_typed_columns_as_parquet_has_them() -> None:
    moments = pa.array([0, 1_500_000], pa.timestamp("us"))
    columns = {"time": moments, "user": pa.array([1.0, 2.0]), "item": pa.array(["a", None]).dictionary_encode()}
    table = Table(columns, lambda row: f"row {row + 1}")
    assert table.numbers("time").tolist() == [0.0, 1.5]
    assert table.tokens("user").names == ("1", "2")
    with pytest.raises(FedrecError, match="row 2: blank item"):
        table.tokens("item")


def test_keys_stand_once() -> None:
    assert read("id\nb\na\n").keys("id") == ["b", "a"]
    with pytest.raises(FedrecError, match=r"f\.csv:4: id 'a' stands twice"):
        read("id\na\nb\na\n").keys("id")


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(st.integers(0, 99), st.sampled_from(["a", "b c", "d,e", 'f"g', "h\ni"])), min_size=1))
def test_what_the_csv_module_writes_is_read_back(rows: list[tuple[int, str]]) -> None:
    import csv
    import io

    out = io.StringIO()
    csv.writer(out).writerows([("user", "item"), *rows])
    table = read(out.getvalue())
    tokens = table.tokens("user")
    assert [tokens.names[code] for code in tokens.codes] == [str(user) for user, _ in rows]
    assert table.texts("item") == [item for _, item in rows]
    assert np.array_equal(table.numbers("user"), [user for user, _ in rows])
